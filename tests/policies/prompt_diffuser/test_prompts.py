"""Prompts as a frozen policy reads them, and the few episodes of new tasks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.artefact import SavedPolicy
from manyone.policies.masks import TaskMasks, maskable_shapes
from manyone.policies.prompt_diffuser.prompts import FewShots, PromptPool, imitation_losses
from manyone.policies.tasks import PolicyData


def policy_of(made: list, pooled: bool = False, prompt: int = 3) -> SavedPolicy:
    pooling = {"normalisation": "pooled", "scale": "pooled"} if pooled else {}
    data = PolicyData(made, context=4, prompt=prompt, **pooling)
    model = DecisionTransformer(5, 2, width=8, layers=1, heads=2, context=4, prompt=prompt, max_timestep=20)
    return SavedPolicy(model, data.table, None, list(range(len(made))), {}, {})


def test_a_prompt_is_the_tail_of_an_episode_without_its_last_step(tasks):
    made = tasks(2)
    shots = FewShots(policy_of(made), [one.select(range(5)) for one in made])
    pool = shots.pool
    assert pool is not None
    assert len(pool) == 2
    assert pool.length == 3
    for task, one in enumerate(made):
        found = pool.task(task)
        assert pool.count(task) == 5
        for episode in range(5):
            last = int(one.offsets[episode + 1]) - 1
            rows = slice(last - 3, last)
            states = found["observations"][episode] * shots.table.deviation[task] + shots.table.mean[task]
            np.testing.assert_allclose(states, one.observations[rows], atol=1e-5)
            np.testing.assert_allclose(found["actions"][episode], one.actions[rows], atol=1e-6)
            np.testing.assert_allclose(found["rewards"][episode], one.rewards[rows], atol=1e-6)
            scaled = one.returns_to_go[rows] / float(shots.table.scale[task])
            np.testing.assert_allclose(found["returns_to_go"][episode], scaled, rtol=1e-5)
            length = int(one.lengths[episode])
            assert found["timesteps"][episode].tolist() == list(range(length - 4, length - 1))
    y = pool.conditions(pool.steps)
    assert y.shape == (10, 3, 2)
    np.testing.assert_allclose(y[..., 1] * pool.horizon, pool.steps["timesteps"], atol=1e-5)
    assert float(y[..., 1].max()) <= 1


def test_a_task_draws_the_same_whatever_others_there_are(tasks):
    made = tasks(3)
    policy = policy_of(made)
    shots = FewShots(policy, made)
    all_of_them = shots.batch(4, 7, batch_size=6)
    alone = shots.batch(4, 7, batch_size=6, tasks=[2])
    assert all_of_them.prompt is not None
    assert alone.prompt is not None
    for key, value in alone.steps.items():
        torch.testing.assert_close(value[0], all_of_them.steps[key][2])
    for key, value in alone.prompt.items():
        torch.testing.assert_close(value[0], all_of_them.prompt[key][2])
    other = shots.batch(5, 7, batch_size=6, tasks=[2])
    assert not torch.equal(other.steps["observations"], alone.steps["observations"])


def test_windows_and_known_statistics_are_those_of_the_policys_own_data(tasks):
    made = tasks(3)
    data = PolicyData(made, context=4, prompt=3, hold_out=False)
    shots = FewShots(policy_of(made), made)
    assert set(shots.statistics.values()) == {"its own of the training"}
    torch.testing.assert_close(shots.table.mean, data.table.mean)
    torch.testing.assert_close(shots.table.scale, data.table.scale)
    mine, theirs = shots.batch(1, 2, purpose="x"), data.batch([0, 1, 2], 1, 2, batch_size=32, purpose="x")
    for key, value in mine.steps.items():
        torch.testing.assert_close(value, theirs.steps[key])


@pytest.mark.parametrize("pooled", [False, True])
def test_where_a_new_tasks_statistics_come_from(tasks, pooled):
    made = tasks(4)
    policy, few = policy_of(made[:3], pooled), made[3].select([1, 4])
    auto = FewShots(policy, [few])
    shared, own = FewShots(policy, [few], statistics="policy"), FewShots(policy, [few], statistics="shots")
    mean, deviation = few.statistics()
    np.testing.assert_allclose(own.table.mean[0], mean, rtol=1e-6)
    np.testing.assert_allclose(own.table.deviation[0], deviation, rtol=1e-6)
    chosen = shared if pooled else own
    torch.testing.assert_close(auto.table.mean, chosen.table.mean)
    torch.testing.assert_close(auto.table.deviation, chosen.table.deviation)
    assert auto.statistics == chosen.statistics == {"task-3": "the training tasks" if pooled else "the shots"}
    if pooled:
        torch.testing.assert_close(shared.table.mean[0], policy.table.mean[0])
        assert float(shared.table.scale) == pytest.approx(float(policy.table.scale[0]))
    else:  # tasks of equal weight: mean and variance of their mixture
        table = policy.table
        torch.testing.assert_close(shared.table.mean[0], table.mean.mean(0))
        second = (table.deviation.square() + table.mean.square()).mean(0) - table.mean.mean(0).square()
        torch.testing.assert_close(shared.table.deviation[0], second.sqrt(), rtol=1e-4, atol=1e-5)


def test_prompts_may_come_from_other_episodes_than_the_windows(tasks):
    made = tasks(1)
    good, bad = made[0].select([9, 10, 11]), made[0].select([0, 1])
    shots = FewShots(policy_of(made), [good], [bad])
    assert shots.pool is not None
    assert shots.pool.count(0) == 2
    assert float(shots.table.target) == pytest.approx(float(np.quantile(good.returns, 0.9)), rel=1e-5)
    g = bad.returns_to_go[bad.offsets[1:] - 4] / float(shots.table.scale)
    best = int(np.argmax(bad.returns))
    assert shots.table.prompt is not None
    np.testing.assert_allclose(shots.table.prompt["returns_to_go"][0, 0], g[best], rtol=1e-5)
    assert "rewards" not in shots.table.prompt


def test_the_imitation_loss_is_the_mean_over_valid_steps_and_the_network_stays_frozen(tasks):
    made = tasks(2)
    shots = FewShots(policy_of(made), made)
    batch = shots.batch(0, batch_size=5)
    found = imitation_losses(shots.model, dict(shots.model.named_parameters()), batch, batch.prompt)
    assert not found.requires_grad
    assert batch.prompt is not None
    for task in range(2):
        steps = {k: v[task] for k, v in batch.steps.items()}
        acted = shots.model(steps, {k: v[task] for k, v in batch.prompt.items()})
        errors = (acted - steps["actions"])[steps["valid"]].square()
        torch.testing.assert_close(found[task], errors.mean())


def test_what_cannot_serve_a_new_task_is_refused(tasks):
    made = tasks(2)
    policy = policy_of(made)
    zeros = [{"observations": np.zeros((3, 5)), "actions": np.zeros((3, 2)), "rewards": np.zeros(3)}]
    short = made[0].from_episodes("short", zeros)
    with pytest.raises(ManyoneError, match="no episode is longer than 3 steps"):
        FewShots(policy, [short])
    with pytest.raises(ManyoneError, match="mask of each task"):
        FewShots(policy._replace(masks=TaskMasks.ones(maskable_shapes(policy.model), 2)), made)  # type: ignore[arg-type]
    tokens = DecisionTransformer(5, 2, width=8, layers=1, heads=2, context=4, prompt=3, id_tokens=2)
    with pytest.raises(ManyoneError, match="tokens"):
        FewShots(policy._replace(model=tokens), made)
    wide = DecisionTransformer(6, 2, width=8, layers=1, heads=2, context=4, prompt=3)
    with pytest.raises(ManyoneError, match=r"5 and 2 wide, but the policy reads 6"):
        FewShots(policy._replace(model=wide), made)
    with pytest.raises(ManyoneError, match="1 targets for 2 tasks"):
        FewShots(policy, made, targets=[1.0])
    with pytest.raises(ManyoneError, match="statistics 'test'"):
        FewShots(policy, made, statistics="test")  # type: ignore[arg-type]
    with pytest.raises(ManyoneError, match="prompts of 1 tasks"):
        PromptPool.from_trajectories(made[:1], policy.table, 3, 20)
