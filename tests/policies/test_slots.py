"""One saved policy in n environments side by side, with targets of the moment: each slot acts as it would alone."""

import gymnasium
import numpy as np
import pytest
import torch

from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError
from manyone.policies import (
    AgnosticPolicy,
    CloningNetwork,
    PolicyData,
    SequencePolicy,
    TaskMasks,
    build_model,
    load_policy,
    maskable_shapes,
    save_agnostic,
    save_policy,
)
from manyone.policies.g_harmodt.gate import Gate
from manyone.policies.tasks import POOLED

SHAPE = {"width": 16, "layers": 1, "heads": 2, "max_timestep": 32}


@pytest.fixture
def saved(tasks, tmp_path):
    """Folders of a masked policy with prompts, one that needs no task, and a cloned one."""
    data, pooled = PolicyData(tasks(2), context=4, prompt=2), PolicyData(tasks(2), context=4, **POOLED)
    model = build_model("harmodt", data, **SHAPE)
    save_policy(tmp_path / "masked", model, data.table, TaskMasks.random(maskable_shapes(model), 2, 0.5, seed=1))
    free = build_model("mt-dt", pooled, **SHAPE)
    masks, gate = TaskMasks.random(maskable_shapes(free), 2, 0.5, seed=1), Gate(5, 2, 2, context=3, width=16)
    save_agnostic(tmp_path / "free", free, pooled.table, masks, gate=gate)
    save_policy(tmp_path / "cloned", CloningNetwork(5, 2, 2, width=16), data.table)
    return tmp_path


@pytest.mark.parametrize("kind", ["masked", "free", "cloned"])
def test_a_slot_that_begins_anew_acts_as_a_fresh_episode_and_the_others_go_on(saved, kind):
    draw = np.random.Generator(np.random.Philox(5))
    observations = draw.normal(size=(9, 3, 5)).astype(np.float32)
    rewards = draw.random((9, 3)).astype(np.float32)
    ends = {3: [1], 5: [0, 1], 6: np.array([False, False, True])}  # after the step: slots, or a mask
    names = ["task-0", "task-1", "task-1"]
    together, alone = load_policy(saved / kind), [load_policy(saved / kind) for _ in range(3)]
    together.reset(names)
    for policy, name in zip(alone, names):
        policy.reset(name)
    for step in range(9):
        before = rewards[step - 1] if step else 0.0
        found = together.act(observations[step], before)
        one = [p.act(observations[step, i], 0.0 if not step else before[i]) for i, p in enumerate(alone)]
        np.testing.assert_allclose(found, np.stack(one), atol=1e-6)
        if step in ends:
            together.reset(slots=ends[step])
            for slot in np.arange(3)[ends[step]]:
                alone[slot].reset(names[slot])
    together.reset("task-0", slots=[2])
    alone[2].reset("task-0")
    np.testing.assert_allclose(
        together.act(observations[0], rewards[0])[2], alone[2].act(observations[0, 2]), atol=1e-6
    )


def test_a_target_of_the_moment_is_the_return_to_go_that_the_network_reads(saved):
    policy, observation = load_policy(saved / "masked"), np.ones(5, np.float32)
    own = float(policy.table.target[0])
    acted = {}
    for target in (None, own, 2 * own, 0.0):
        policy.reset("task-0", target=target)
        acted[target] = policy.act(observation)
        assert float(policy.batched._left[0]) == pytest.approx(own if target is None else target)
    assert np.array_equal(acted[None], acted[own])
    assert not np.allclose(acted[None], acted[0.0])
    policy.reset(["task-0", "task-1"], target=[0.0, 1.0])
    np.testing.assert_allclose(policy.act(np.stack([observation] * 2))[0], acted[0.0], atol=1e-6)
    policy.reset(slots=[1])
    assert policy.batched._left.tolist() == [0.0, 1.0], "as asked for before"
    free = load_policy(saved / "free")
    free.reset(target=3.5)
    free.act(observation)
    assert float(free.batched._left[0]) == 3.5
    with pytest.raises(ManyoneError, match="behaviour cloning reads no target return"):
        load_policy(saved / "cloned").reset("task-0", target=1.0)


def test_an_observation_that_is_not_finite_is_refused_with_slot_and_task(saved):
    bad = np.zeros((2, 5), np.float32)
    bad[1, 3] = np.nan
    for kind in ("masked", "free", "cloned"):
        policy = load_policy(saved / kind)
        policy.reset(["task-0", "task-1"])
        with pytest.raises(ManyoneError, match=r"slot 1 \(task-1\): entry 3 of the observation is nan"):
            policy.act(bad)
        with pytest.raises(ManyoneError, match=r"observations \[2, 4\]: expected \[2, 5\]"):
            policy.act(np.zeros((2, 4)))
    policy.act(np.zeros((2, 5)))
    with pytest.raises(ManyoneError, match=r"slot 0 \(task-0\): the reward is inf"):
        policy.act(np.zeros((2, 5)), [np.inf, 0.0])


@pytest.mark.parametrize("kind", ["masked", "free", "cloned"])
def test_a_step_that_was_refused_has_not_happened(saved, kind):
    draw = np.random.Generator(np.random.Philox(7))
    observations, rewards = draw.normal(size=(4, 2, 5)).astype(np.float32), draw.random((4, 2)).astype(np.float32)
    policy, other = load_policy(saved / kind), load_policy(saved / kind)
    for one in (policy, other):
        one.reset(["task-0", "task-1"])
    for step in range(4):
        for broken in (np.full((2, 5), np.nan), observations[step, :1], observations[step, :, :3]):
            with pytest.raises(ManyoneError):
                policy.act(broken, rewards[step])
        found = policy.act(observations[step], rewards[step])
        assert np.array_equal(found, other.act(observations[step], rewards[step]))


def test_rewards_targets_and_tasks_that_cannot_be_meant_are_refused(saved):
    policy = load_policy(saved / "masked")
    with pytest.raises(ManyoneError, match="no tasks: give one"):
        policy.reset([])
    for target in (np.nan, np.inf):
        with pytest.raises(ManyoneError, match=f"target {target}: give a finite return"):
            policy.reset("task-0", target=target)
    policy.reset(["task-0", "task-1"])
    with pytest.raises(ManyoneError, match=r"rewards \[3\]: give one for each of 2 slots"):
        policy.act(np.zeros((2, 5)), np.zeros(3))


def test_wrong_slots_say_what_is_allowed(saved):
    policy = load_policy(saved / "masked")
    with pytest.raises(ManyoneError, match="first give the tasks of all slots"):
        policy.reset(slots=[0])
    policy.reset(["task-0", "task-1"])
    for slots in ([2], [-1], [[0]], [True]):
        with pytest.raises(ManyoneError, match="numbers of 0 to 1, or a mask of 2"):
            policy.reset(slots=slots)
    with pytest.raises(ManyoneError, match="2 tasks and 1 targets for 1 slots"):
        policy.reset(["task-0", "task-1"], slots=[0])
    with pytest.raises(ManyoneError, match="must know its task"):
        policy.reset([None, "task-0"])


@pytest.mark.parametrize("mode", ["NEXT_STEP", "SAME_STEP"])
def test_gymnasiums_vector_environments_with_autoreset(tasks, tmp_path, mode):
    """Both orders in which gymnasium begins environments anew; every action is that of an episode played alone."""
    draw = np.random.Generator(np.random.Philox(2))
    one = {"observations": draw.normal(size=(9, 3)), "actions": draw.uniform(-1, 1, (9, 1)), "rewards": draw.random(9)}
    data = PolicyData([Trajectories.from_episodes("gym:Pendulum-v1", [one, one])], context=4)
    save_policy(tmp_path, build_model("mt-dt", data, **SHAPE), data.table)
    policy, alone = load_policy(tmp_path), load_policy(tmp_path)
    envs = gymnasium.make_vec(
        "Pendulum-v1", num_envs=2, vectorization_mode="sync", max_episode_steps=3,
        vector_kwargs={"autoreset_mode": gymnasium.vector.AutoresetMode[mode]},
    )  # fmt: skip
    observations, _ = envs.reset(seed=0)
    rewards, ended = np.zeros(2), np.zeros(2, bool)
    policy.reset(["gym:Pendulum-v1"] * 2)
    alone.reset("gym:Pendulum-v1")
    for _ in range(10):
        actions = policy.act(observations, rewards)
        np.testing.assert_allclose(actions[0], alone.act(observations[0], rewards[0]), atol=1e-6)
        before = ended
        observations, rewards, terminated, truncated, _ = envs.step(actions)
        ended = terminated | truncated
        first = before if mode == "NEXT_STEP" else ended  # the slots whose observation is an episode's first
        policy.reset(slots=first)
        if first[0]:
            alone.reset("gym:Pendulum-v1")
    envs.close()
    assert isinstance(policy.batched, SequencePolicy)
    assert not isinstance(policy.batched, AgnosticPolicy)
    assert policy.batched._time.max() <= 4, "clocks have begun anew"
    assert torch.isfinite(policy.batched._left).all()
