"""Both stages as one training, resumed anywhere; acting behind drawn prompts; the artefact; zero-shot."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch

from manyone.errors import ManyoneError
from manyone.policies.acting import SequencePolicy
from manyone.policies.artefact import read_policy
from manyone.policies.loading import load_policy
from manyone.policies.prompt_diffuser.acting import PromptedPolicy, read_base
from manyone.policies.prompt_diffuser.learner import PromptDiffuserLearner
from manyone.policies.prompt_diffuser.model import PromptDiffuser
from manyone.policies.prompt_diffuser.prompts import FewShots
from manyone.policies.prompt_diffuser.training import Recipe

SMALL = Recipe(batch_size=4, guidance_batch=2)


class Episode(NamedTuple):
    task: str


@pytest.fixture
def begin(tasks, policy, diffuser):
    """A learner for one new task and one of the training's, with three training tasks."""
    made = tasks(4)
    saved = policy(made[:3])
    new = FewShots(saved, [one.select(range(5)) for one in (made[3], made[1])])
    training = FewShots(saved, made[:3])

    def make(stage_1: bool = True, **changes) -> PromptDiffuserLearner:
        shape = changes.pop("shape", {})
        options = {"steps": 4, "adapt_steps": 3, "recipe": SMALL, **changes}
        return PromptDiffuserLearner(diffuser(**shape), new, training if stage_1 else None, **options)

    return make


def act(policy, names, steps=3):
    """Actions [episodes, steps, A] on made observations."""
    draw = np.random.Generator(np.random.Philox(7))
    observations = draw.normal(size=(steps, len(names), 5)).astype(np.float32)
    policy.start([Episode(name) for name in names])
    slots, found = np.arange(len(names)), []
    for seen in observations:
        found.append(policy.act(slots, seen))
        policy.reward(slots, np.ones(len(names), np.float32))
    return np.stack(found, 1)


NAMES = ("task-3", "task-1", "task-3", "task-3")


@pytest.mark.parametrize("cut", [2, 4, 6])
def test_a_resumed_training_is_bit_identical_in_either_stage_and_between_them(begin, cut):
    whole, first, second = begin(), begin(), begin()
    for _ in range(cut):
        whole.step()
        first.step()
    second.load_state_dict(first.state_dict())
    for _ in range(whole.total - cut):
        assert whole.step() == second.step()
    ours, theirs = whole.prompted().generator.tensors(), second.prompted().generator.tensors()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    np.testing.assert_array_equal(act(whole.policy(), NAMES), act(second.policy(), NAMES))


def test_stages_take_their_tasks_and_stage_2_begins_with_the_average_of_stage_1(begin):
    learner = begin(tasks_per_step=2)
    stages = [learner.step()["stage"] for _ in range(5)]
    assert stages == [1, 1, 1, 1, 2]
    assert learner.first.members == 1
    assert learner.second.members == 2
    assert learner.total == 7
    fresh = begin(tasks_per_step=2)
    for _ in range(4):
        fresh.step()
    stage_1 = fresh.prompted("stage-1").generator
    assert all(len(value) == 1 for value in stage_1.weights.values())
    fresh.step()
    for name, value in fresh.prompted().generator.weights.items():
        assert value.shape == (2, *stage_1.weights[name].shape[1:])
        assert 0 < float((value - stage_1.weights[name]).abs().max()) < 1e-3
    sizes = fresh.sizes()
    assert sizes["trainable_parameters"] == sum(v.numel() for v in fresh.diffuser.parameters())
    assert sizes["bytes_per_task"] == 4 * sizes["trainable_parameters"]
    assert fresh.effort()["updates"] == 1


def test_the_artefact_acts_in_the_same_way_and_later_tasks_start_from_its_stage_1(begin, tmp_path, tasks):
    learner = begin()
    for _ in range(learner.total):
        learner.step()
    learner.export(tmp_path)
    ours = act(learner.policy(), NAMES)
    loaded = load_policy(tmp_path)
    assert loaded.tasks == ("task-3", "task-1")
    np.testing.assert_array_equal(act(loaded.batched, NAMES), ours)
    other = load_policy(tmp_path, seed=5)
    assert np.abs(act(other.batched, NAMES) - ours).max() > 1e-4, "another seed draws other prompts"
    loaded.reset("task-1")
    assert loaded.act(np.zeros(5)).shape == (2,)

    saved = read_policy(tmp_path)
    base = read_base(saved)
    assert base is not None
    later = FewShots(saved, [tasks(4)[2].select(range(3))])
    third = PromptDiffuserLearner(PromptDiffuser(**base.diffuser.config()), later, base=base, adapt_steps=2,
                                  recipe=SMALL)  # fmt: skip
    for name, value in third.prompted("stage-1").generator.weights.items():
        torch.testing.assert_close(value, learner.prompted("stage-1").generator.weights[name])
    torch.testing.assert_close(third.diffuser.mean, learner.diffuser.mean)
    assert third.total == 2
    third.step()
    assert np.isfinite(act(third.policy(), ["task-2"])).all()


def test_an_episodes_prompt_depends_on_seed_task_and_number_alone(begin):
    learner = begin(shape={"context": 3})
    learner.step()
    policy = learner.prompted()
    many, alone = act(policy, NAMES), act(policy, ["task-1", "task-3"])
    first = policy.generator.draw("task-3", [0, 1, 5], 3)[0]
    second = policy.generator.draw("task-3", [5], 3)[0]
    for name, value in second.items():
        torch.testing.assert_close(value[0], first[name][2])
    assert float((first["observations"][0] - first["observations"][1]).abs().max()) > 1e-3
    assert all(bool(torch.isfinite(v).all()) for v in first.values() if v.is_floating_point())
    assert float(first["actions"].abs().max()) <= 1
    assert many.shape == (4, 3, 2)
    assert alone.shape == (2, 3, 2)
    policy.start([Episode("task-3")] * 2)
    policy.restart([0], [Episode("task-3")])  # the task's third episode
    third = policy.act(np.array([0]), np.zeros((1, 5), np.float32))
    policy.start([Episode("task-3")] * 3)
    np.testing.assert_allclose(third, policy.act(np.array([2]), np.zeros((1, 5), np.float32)), atol=1e-6)
    with pytest.raises(ManyoneError, match="no prompts of 'task-9' can be made"):
        policy.generator.draw("task-9", [0])


def test_behind_the_true_prompt_it_acts_as_prompt_dt(begin):
    learner = begin()
    shots = learner.shots

    class Real:
        def draw(self, task, numbers, seed):
            row = shots.names.index(task)
            return {k: v[[row] * len(numbers)] for k, v in shots.table.prompt.items()}, None

    found = act(PromptedPolicy(shots.model, shots.table, Real()), NAMES)
    np.testing.assert_allclose(found, act(SequencePolicy(shots.model, shots.table), NAMES), atol=1e-6)
    before = learner.policy("before")
    assert act(before, NAMES).shape == (4, 3, 2)


def test_zero_shot_reads_nothing_of_the_new_tasks(begin, tasks, policy):
    learner = begin(adapt_steps=0, zero_shot=True)
    for _ in range(learner.total):
        learner.step()
    acting = learner.prompted()
    pool = learner.training.pool
    best = torch.argsort(-pool.returns)[:3]
    assert acting.generator.conditions.count(0) == 3
    torch.testing.assert_close(acting.generator.conditions.steps["returns_to_go"], pool.steps["returns_to_go"][best])
    table = learner.training.table
    torch.testing.assert_close(acting.table.target, table.target.mean().expand(2))
    torch.testing.assert_close(acting.table.mean[1], table.mean[0])
    with pytest.raises(ManyoneError, match="must be 0"):
        begin(zero_shot=True)
    with pytest.raises(ManyoneError, match="needs a stage 1"):
        begin(stage_1=False, zero_shot=True, adapt_steps=0)
    with pytest.raises(ManyoneError, match="none in zero-shot"):
        begin(zero_shot=True, adapt_steps=0, shape={"context": 3})


def test_stage_2_alone_sees_the_new_tasks_only(begin):
    learner = begin(stage_1=False)
    assert learner.total == 3
    learner.step()
    assert learner.second.members == 2
    pool = learner.shots.pool
    x = learner.diffuser.variables(pool.steps).flatten(0, 1)
    torch.testing.assert_close(x.mean(0), torch.zeros(8), atol=1e-5, rtol=0)
    with pytest.raises(ManyoneError, match="variant 'best'"):
        learner.policy("best")


def test_figures_show_the_angle_and_the_prompts(begin):
    learner = begin()
    history: dict[str, list[tuple[int, float]]] = {}
    for step in range(1, learner.total + 1):
        for name, value in learner.step().items():
            history.setdefault(name, []).append((step, value))
    titles = [figure.title for figure in learner.figures(learner.policy(), history)]
    assert titles == ["Cosine of the two gradients", "States and actions of prompts", "Rewards of prompts"]


def test_a_diffuser_of_other_prompts_is_refused(begin, diffuser):
    learner = begin()
    with pytest.raises(ManyoneError, match="prompts have 3 steps, the diffuser's 4"):
        PromptDiffuserLearner(PromptDiffuser(5, 2, 4, 14, width=8), learner.shots)
