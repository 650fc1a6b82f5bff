"""Bodies in lock-step are Gymnasium's own environments, bit for bit, over whole episodes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("mujoco")

from manyone.envs.single import linear, stepping
from manyone.envs.single import make as build
from manyone.envs.single.batched import Bodies, batched
from manyone.errors import ManyoneError

BODIES = [f"gym:{name}-v{version}" for name in ("Hopper", "HalfCheetah", "Walker2d", "Ant") for version in (4, 5)]
ASKED = [
    "gym:Hopper-v5?frame_skip=2&ctrl_cost_weight=0.1&healthy_z_range=[0.9,1.3]&terminate_when_unhealthy=false",
    "gym:Hopper-v4?terminate_when_unhealthy=false&healthy_reward=3&exclude_current_positions_from_observation=false",
    "gym:HalfCheetah-v5?forward_reward_weight=2&reset_noise_scale=0.4&max_episode_steps=25",
    "gym:Walker2d-v4?healthy_angle_range=[-0.3,0.3]&reset_noise_scale=0.1",
    "gym:Ant-v4?use_contact_forces=true&contact_force_range=[-2,2]&healthy_z_range=[0.5,1]",
    "gym:Ant-v5?main_body=torso&include_cfrc_ext_in_observation=false&contact_cost_weight=0.1",
    "cheetah-dir:1",
    "cheetah-vel:3",
    "ant-dir:7",
]


def known(task: str) -> Bodies:
    bodies = batched(task)
    assert bodies is not None, task
    return bodies


def actions(kind: str, steps: int, low: np.ndarray, high: np.ndarray, rows: int) -> np.ndarray:
    """[steps, rows, A] float32: noise; or a gait that keeps a body up for longer, each row's at its own pace."""
    noise = np.random.default_rng(0).uniform(low, high, (steps, rows, len(low)))
    if kind == "noise":
        return noise.astype(np.float32)
    time, row, motor = np.ogrid[:steps, :rows, : len(low)]
    return (0.4 * high * np.sin(0.1 * (row + 1) * time + motor) + 0.05 * noise).astype(np.float32)


@pytest.mark.parametrize("kind", ["noise", "gait"])
@pytest.mark.parametrize("task", BODIES + ASKED)
def test_episodes_are_gymnasium_s(task: str, kind: str) -> None:
    rows, seeds, steps = [4, 0, 2], [11, 7, 7], 80
    bodies, envs = known(task), [build.make_env(task) for _ in rows]
    assert (bodies.state_dim, bodies.action_dim) == build.spaces(task)[:2]
    low, high = build.bounds(task)
    np.testing.assert_array_equal((bodies.low, bodies.high), (low, high))
    wanted = actions(kind, steps, low, high, len(rows))
    starts = [env.reset(seed=seed)[0] for env, seed in zip(envs, seeds)]
    np.testing.assert_array_equal(bodies.reset(rows, seeds), starts)
    running, ends = [0, 1, 2], 0
    for step in range(steps):
        seen = bodies.step([rows[i] for i in running], wanted[step, running])
        expected = [envs[i].step(wanted[step, i]) for i in running]
        for ours, theirs in zip(seen[:4], zip(*expected)):
            np.testing.assert_array_equal(ours, np.array(theirs))
        assert seen.survival.tolist() == [info.get("reward_survive", 0.0) for *_, info in expected]
        over = seen.terminated | seen.truncated
        again = [i for i, end in zip(running, over) if end]
        if again and ends == 0:  # a row that has ended starts again while the others go on
            ends += 1
            bodies.reset([rows[again[0]]], [step])
            envs[again[0]].reset(seed=step)
            over[running.index(again[0])] = False
        running = [i for i, end in zip(running, over) if not end]
        if not running:
            break
    for env in envs:
        env.close()


@pytest.mark.parametrize("body", ["Hopper-v5", "HalfCheetah-v5"])
def test_a_whole_episode_ends_where_gymnasium_s_does(body: str) -> None:
    task = f"gym:{body}?reset_noise_scale=0.01" + ("&healthy_z_range=[0.2,9]" if "Hopper" in body else "")
    bodies, env = known(task), build.make_env(task)
    env.reset(seed=3)
    bodies.reset([0], [3])
    wanted = actions("gait", 1000, bodies.low, bodies.high, 1)
    total, lengths = np.zeros(2), [0, 0]
    for place, step in enumerate((lambda a: env.step(a[0])[1:4], lambda a: [x[0] for x in bodies.step([0], a)[1:4]])):
        over = False
        while not over:
            reward, terminated, truncated = step(wanted[lengths[place]])
            total[place] += reward
            lengths[place] += 1
            over = terminated or truncated
    assert total[0] == total[1]
    assert lengths[0] == lengths[1]
    assert lengths[0] == 1000 or "Hopper" in body


def test_actions_of_double_precision_are_paid_for_in_double_precision() -> None:
    bodies, env = known("gym:HalfCheetah-v5"), build.make_env("gym:HalfCheetah-v5")
    env.reset(seed=0)
    bodies.reset([0], [0])
    action = np.full((1, 6), 0.1)
    assert bodies.step([0], action).rewards[0] == env.step(action[0])[1]


@pytest.mark.parametrize("task", ["gym:Hopper-v5", "gym:Walker2d-v4", "cheetah-vel:3", "ant-dir:7"])
def test_linear_policies_play_the_same_together_as_one_by_one(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    states, width, _ = build.spaces(task)
    weights = 0.3 * np.random.default_rng(0).normal(size=(5, width, states))
    played = []
    for way in (batched, lambda task: None):
        monkeypatch.setattr(stepping, "batched", way)
        monkeypatch.setattr(stepping, "_bodies", {})
        played.append(linear.episodes(task, weights, np.zeros(states), np.ones(states), range(5), 60, [0.1] * 5))
    for ours, theirs in zip(*played, strict=True):
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            np.testing.assert_array_equal(value, theirs[name])
    assert len({len(one["rewards"]) for one in played[0]}) > 1 or "cheetah" in task


def test_what_is_not_known_is_left_to_its_environment() -> None:
    assert batched("gym:InvertedPendulum-v5") is None
    assert batched("door-open-v3") is None
    with pytest.raises(ManyoneError, match="frame_skip"):  # version 4 takes none, so there is nothing to step
        batched("gym:Hopper-v4?frame_skip=2")
    with pytest.raises(ManyoneError, match=r"actions \[1, 2\]: \[1, 3\] are needed"):
        known("gym:Hopper-v5").step([0], np.zeros((1, 2), np.float32))
    with pytest.raises(ManyoneError, match="2 rows and 1 seeds"):
        known("gym:Hopper-v5").reset([0, 1], [0])
