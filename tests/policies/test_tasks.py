"""Batches, prompts, statistics and targets of many tasks' data."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError
from manyone.policies.tasks import PolicyData


def find(one: Trajectories, states: np.ndarray) -> tuple[int, int]:
    """(episode, step) whose state is ``states``."""
    rows = np.flatnonzero(np.abs(one.observations - states).max(1) < 1e-4)
    assert len(rows) == 1
    episode = int(np.searchsorted(one.offsets, rows[0], side="right")) - 1
    return episode, int(rows[0] - one.offsets[episode])


def raw(data: PolicyData, task: int, states: torch.Tensor) -> np.ndarray:
    return (states * data.table.deviation[task] + data.table.mean[task]).numpy()


def test_windows_are_cut_as_published_and_training_never_touches_a_prompt_episode(tasks):
    made = tasks(3)
    data = PolicyData(made, context=4, prompt=3)
    held = [set(one.best(0.1).tolist()) for one in made]
    starts = set()
    for step in range(25):
        batch = data.batch([0, 2], step, 7, batch_size=6)
        assert batch.steps["observations"].shape == (2, 6, 4, 5)
        for place, task in enumerate((0, 2)):
            one = made[task]
            for j in range(6):
                window = {k: v[place, j] for k, v in batch.steps.items()}
                valid = window["valid"].tolist()
                first = valid.index(True)
                assert all(valid[first:]), "padding is on the left"
                found = [find(one, raw(data, task, s)) for s in window["observations"][first:]]
                episode, start = found[0]
                starts.add((task, episode, start))
                assert episode not in held[task]
                assert found == [(episode, start + i) for i in range(len(found))]
                assert len(found) == min(4, one.lengths[episode] - start)
                row = one.offsets[episode] + start
                np.testing.assert_allclose(window["actions"][first:], one.actions[row : row + len(found)])
                scaled = one.returns_to_go[row : row + len(found)] / float(data.table.scale[task])
                np.testing.assert_allclose(window["returns_to_go"][first:], scaled, rtol=1e-5)
                assert window["timesteps"][first:].tolist() == list(range(start, start + len(found)))
                assert not window["observations"][:first].any()
                prompt = {k: v[place, j] for k, v in batch.prompt.items()}
                steps = [find(one, raw(data, task, s)) for s in prompt["observations"][prompt["valid"]]]
                assert {e for e, _ in steps} <= held[task], "prompts come from the best tenth"
                length = one.lengths[steps[0][0]]
                assert [s for _, s in steps] == list(range(length - 4, length - 1)), "the tail without the last step"
    assert len(starts) > 100
    assert any(s == made[t].lengths[e] - 1 for t, e, s in starts), "the last step is a start too"


def drawn_episodes(data: PolicyData, task: int) -> set[int]:
    """The episodes that many training windows of ``task`` begin in."""
    steps = data.batch([task], 0, 0, batch_size=600).steps
    return {find(data.trajectories[task], raw(data, task, s))[0] for s in steps["observations"][0, :, -1]}


@pytest.mark.parametrize("prompt", [0, 3])
def test_what_training_leaves_out_does_not_depend_on_whether_there_is_a_prompt(tasks, prompt):
    made = tasks(2, episodes=20)
    held = set(made[1].best(0.1).tolist())
    assert len(held) == 2
    assert drawn_episodes(PolicyData(made, context=4, prompt=prompt), 1) == set(range(20)) - held
    kept = PolicyData(made, context=4, prompt=prompt, hold_out=False)
    assert drawn_episodes(kept, 1) == set(range(20))
    assert drawn_episodes(kept.like(made), 1) == set(range(20))
    if prompt:
        states = kept.batch([1], 0, 0, batch_size=50).prompt["observations"][0, :, -1]
        assert {find(made[1], raw(kept, 1, s))[0] for s in states} == held, "prompts are of the best all the same"


def test_a_tasks_only_episode_is_trained_on_without_a_prompt(tasks):
    one = tasks(1)[0].select([0])
    assert drawn_episodes(PolicyData([one], context=4), 0) == {0}
    assert PolicyData([one], context=4, prompt=2, hold_out=False).table.prompt is not None


def test_the_mean_length_of_windows_is_that_of_all_places_where_one_may_start(tasks):
    data = PolicyData(tasks(2), context=4, prompt=3)
    assert data.window_steps == pytest.approx((data.subset([0]).window_steps + data.subset([1]).window_steps) / 2)
    one = data.trajectories[1]
    train = [int(one.lengths[e]) for e in set(range(one.episodes)) - set(one.best(0.1).tolist())]
    expected = [min(4, length - start) for length in train for start in range(length)]
    assert data.subset([1]).window_steps == pytest.approx(sum(expected) / len(expected))


def test_returns_to_go_fall_by_the_scaled_reward(tasks):
    made = tasks(1, episodes=3)
    data = PolicyData(made, context=6, prompt=0, scale=2.5)
    steps = data.batch([0], 3, 0, batch_size=20).steps
    for j in range(20):
        valid = steps["valid"][0, j]
        found = [find(made[0], raw(data, 0, s)) for s in steps["observations"][0, j][valid]]
        g = steps["returns_to_go"][0, j][valid]
        for (episode, step), now, later in zip(found, g, g[1:]):
            reward = made[0].rewards[made[0].offsets[episode] + step]
            assert float(now - later) == pytest.approx(float(reward) / 2.5, abs=1e-5)


def test_the_legacy_rule_takes_the_worst_first_then_the_best(tasks):
    made = tasks(2)
    data = PolicyData(made, context=4, prompt=3, legacy_prompt=True)
    order = np.argsort(made[1].returns, kind="stable")
    prompt = data.batch([1], 0, 0, batch_size=5).prompt
    found = [find(made[1], raw(data, 1, prompt["observations"][0, j, -1]))[0] for j in range(5)]
    assert found == [order[-j] for j in range(5)] == [order[0], order[-1], order[-2], order[-3], order[-4]]
    # and nothing is held out
    assert data._rows[1] == len(made[1])


def test_the_evaluation_prompt_is_the_best_trajectorys_tail(tasks):
    made = tasks(2)
    data = PolicyData(made, context=4, prompt=3)
    best = int(made[1].returns.argmax())
    steps = [find(made[1], raw(data, 1, s)) for s in data.table.prompt["observations"][1]]
    assert steps == [(best, made[1].lengths[best] - 4 + i) for i in range(3)]
    assert PolicyData(made, context=4).table.prompt is None


def test_short_prompt_episodes_are_padded_on_the_left_and_lose_their_last_step():
    each = [{"observations": np.full((n, 2), n, np.float32), "actions": np.zeros((n, 1)), "rewards": np.ones(n)}
            for n in (3, 2)]  # fmt: skip
    data = PolicyData([Trajectories.from_episodes("short", each)], context=2, prompt=4)
    assert data.table.prompt["valid"].tolist() == [[False, False, True, True]]


def test_draws_depend_on_seed_task_and_step_alone(tasks):
    data = PolicyData(tasks(3), context=4, prompt=2)
    together = data.batch([0, 1, 2], 5, [3, 8], batch_size=4)
    for row, (seed, task) in enumerate([(3, 0), (3, 1), (3, 2), (8, 0), (8, 1), (8, 2)]):
        alone = data.batch([task], 5, seed, batch_size=4)
        assert all(torch.equal(alone.steps[k][0], v[row]) for k, v in together.steps.items())
        assert all(torch.equal(alone.prompt[k][0], v[row]) for k, v in together.prompt.items())
    assert not torch.equal(data.batch([0], 6, 3).steps["actions"], data.batch([0], 5, 3).steps["actions"])


def test_statistics_targets_and_scales_by_task_or_pooled(tasks):
    made = tasks(3)
    made[0].observations[:, 2] = 4.0  # a constant dimension
    own = PolicyData(made, context=4, target_quantile=0.5)
    np.testing.assert_allclose(own.table.mean[1], made[1].observations.mean(0), atol=1e-5)
    assert float(own.table.deviation[0, 2]) == 1.0
    assert float(own.table.target[2]) == pytest.approx(float(np.median(made[2].returns)), rel=1e-5)
    assert float(own.table.scale[2]) == pytest.approx(float(made[2].returns.max()))
    pooled = PolicyData(made, context=4, normalisation="pooled", scale="pooled", target="pooled")
    assert torch.equal(pooled.table.mean[0], pooled.table.mean[2])
    every = np.concatenate([one.returns for one in made])
    assert pooled.table.target.tolist() == pytest.approx([float(np.quantile(every, 0.9))] * 3)
    assert pooled.table.scale.tolist() == pytest.approx([float(every.max())] * 3)
    states = pooled.batch([0, 1, 2], 0, batch_size=500).steps
    assert abs(float(states["observations"][states["valid"]].mean())) < 0.1


def test_a_task_without_any_return_is_scaled_by_one(tasks):
    one = tasks(1)[0]
    nothing = Trajectories("task-0", one.observations, one.actions, 0 * one.rewards, one.offsets, one.terminated)
    data = PolicyData([nothing], context=4)
    assert data.table.scale.tolist() == [1.0]
    assert not data.batch([0], 0).steps["returns_to_go"].any()


def test_a_subset_draws_from_its_own_tasks(tasks):
    made = tasks(3)
    part = PolicyData(made, context=4, prompt=2).subset([2])
    assert part.names == ("task-2",)
    assert len(part) == 1
    batch = part.batch([0], 0, batch_size=5)
    for j in range(5):
        find(made[2], raw(part, 0, batch.steps["observations"][0, j, -1]))
        find(made[2], raw(part, 0, batch.prompt["observations"][0, j, -1]))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"context": 0}, "context = 0: must be at least 1"),
        ({"prompt": -1}, "prompt = -1"),
        ({"scale": 0}, "scale = 0: must be above 0"),
        ({"scale": "none"}, "scale 'none'"),
        ({"normalisation": "no"}, "normalisation 'no'"),
        ({"target_quantile": 2}, "target_quantile = 2"),
    ],
)
def test_wrong_options_say_what_is_allowed(tasks, options, message):
    with pytest.raises(ManyoneError, match=message):
        PolicyData(tasks(2), **({"context": 4, "prompt": 2} | options))


def test_data_that_cannot_be_used_is_refused(tasks):
    one = tasks(1)[0]
    with pytest.raises(ManyoneError, match="the same task name"):
        PolicyData([one, one], context=4)
    with pytest.raises(ManyoneError, match="one episode cannot be prompt and training data"):
        PolicyData([one.select([0])], context=4, prompt=2)
    with pytest.raises(ManyoneError, match="task 'reach' is unknown to this policy: it has task-0"):
        PolicyData([one], context=4).table.index("reach")
    broken = one.observations.copy()
    broken[20] = np.nan
    with pytest.raises(ManyoneError, match="episode 1"):
        Trajectories("task-0", broken, one.actions, one.rewards, one.offsets, one.terminated)
