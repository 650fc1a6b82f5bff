"""Locomotion families whose tasks differ in the reward alone: Cheetah-dir, Cheetah-vel and Ant-dir.

The rewards of the meta-learning benchmarks (Finn et al. 2017, MAML; PEARL; MACAW), with the tasks and the train/test
split of Prompt-DT (Xu et al. 2022; configuration files ``cheetah_dir_2.json``, ``cheetah_vel_40.json``,
``ant_dir_50.json`` of its public repository), on today's MuJoCo models HalfCheetah-v5 and Ant-v5 of Gymnasium::

    cheetah-dir:i   r = d_i v - 0.05 |a|^2                            d_0 = 1 (forward), d_1 = -1 (backward)
    cheetah-vel:i   r = -|v - v_i| - 0.05 |a|^2                       v_i = 0.075 (i + 1), i < 40
    ant-dir:i       r = v_xy . u_i - 0.5 |a|^2 - 0.0005 |clip(c, -1, 1)|^2 + 1    u_i at the angle 2 pi i / 50

v is the velocity of the root over the step, c the contact forces. Episodes have 200 steps; Ant-dir ends early when
the torso leaves the height 0.2-1.0.

Differences from the original environments, which stood on Gym 0.1x and MuJoCo 1.5/2.0: contact dynamics are those of
current MuJoCo; contact forces are really computed (mujoco-py with MuJoCo >= 2 returned zeros); Ant-dir's fifty
directions are evenly spaced here (the originals are one uniform draw that is published only inside pickles); ant
observations are Ant-v5's 27 entries (positions without x, y; velocities), cheetah observations the originals' 20
(positions without x, velocities, torso position). Returns are therefore comparable between methods run here and only
roughly with published tables.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manyone.engine.extras import need
from manyone.errors import ManyoneError

if TYPE_CHECKING:
    import gymnasium

HORIZON = 200


@dataclass(frozen=True)
class Family:
    """Tasks 0..tasks-1 that share a body; ``train`` and ``test`` are the indices of Prompt-DT's split."""

    name: str
    model: str
    tasks: int
    test: tuple[int, ...]
    state_dim: int
    action_dim: int

    @property
    def train(self) -> tuple[int, ...]:
        """Every index that is not in ``test``; all of them for Cheetah-dir, which has no unseen task."""
        held_out = () if len(self.test) == self.tasks else self.test
        return tuple(i for i in range(self.tasks) if i not in held_out)


FAMILIES = {
    "cheetah-dir": Family("cheetah-dir", "HalfCheetah-v5", 2, (0, 1), 20, 6),
    "cheetah-vel": Family("cheetah-vel", "HalfCheetah-v5", 40, (2, 7, 15, 23, 26), 20, 6),
    "ant-dir": Family("ant-dir", "Ant-v5", 50, (6, 17, 23, 30, 41), 27, 8),
}


def parse(task: str) -> tuple[Family, int]:
    """``"cheetah-vel:7"`` -> (family, 7)."""
    name, _, index = task.partition(":")
    family = FAMILIES.get(name)
    if family is None:
        raise ManyoneError(
            f"unknown locomotion family in {task!r}; allowed: {', '.join(FAMILIES)} (e.g. cheetah-vel:7)"
        )
    if not index.isdecimal() or int(index) >= family.tasks:
        raise ManyoneError(f"task {task!r}: the index after the colon must be 0 to {family.tasks - 1}")
    return family, int(index)


def suite_tasks(suite: str) -> list[str]:
    """Task names of a family (``cheetah-vel``) or of one side of its split (``cheetah-vel:train``, ``:test``)."""
    name, _, side = suite.partition(":")
    family = FAMILIES.get(name)
    if family is None or side not in ("", "train", "test"):
        allowed = ", ".join(f"{f}[:train|:test]" for f in FAMILIES)
        raise ManyoneError(f"unknown suite {suite!r}; allowed: {allowed}")
    indices = {"": tuple(range(family.tasks)), "train": family.train, "test": family.test}[side]
    return [f"{name}:{i}" for i in indices]


def target(task: str) -> float:
    """What the task asks for: the direction's sign, the velocity in m/s, or the direction's angle in radians."""
    family, index = parse(task)
    if family.name == "cheetah-dir":
        return (1.0, -1.0)[index]
    return 0.075 * (index + 1) if family.name == "cheetah-vel" else 2 * math.pi * index / family.tasks


def make_env(
    task: str, goal: int = 0, seed: int = 0, *, horizon: int = HORIZON, render_mode: str | None = None, **simulator: Any
) -> gymnasium.Env:
    """The environment of ``task``, e.g. ``"ant-dir:3"``; its only goal is 0, an episode's start follows its seed."""
    family, _ = parse(task)
    if goal != 0:
        raise ManyoneError(f"{task}: the task's index is its goal, so goal must be 0 (got {goal})")
    if horizon < 1:
        raise ManyoneError(f"horizon {horizon} of {task}: must be at least 1")
    wrappers = need("gymnasium", task, "policies").wrappers
    need("mujoco", task, "policies")
    from manyone.envs.single.bodies import Ant, Cheetah

    if family.model == "Ant-v5":
        env: gymnasium.Env = Ant(target(task), render_mode=render_mode, **simulator)
    else:
        env = Cheetah(target(task), velocity=family.name == "cheetah-vel", render_mode=render_mode, **simulator)
    env.reset(seed=seed)
    env.action_space.seed(seed)
    return wrappers.TimeLimit(env, max_episode_steps=horizon)
