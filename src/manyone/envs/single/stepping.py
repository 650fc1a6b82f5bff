"""Episodes of one task side by side in this process: bodies that are known in lock-step, other environments in turn.

Which of the two it is makes no difference to what happens. This module imports no torch: worker processes start fast.

Public names: ``stepper``, ``Start``, ``Step``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from manyone.envs.single import make as build
from manyone.envs.single.batched import Bodies, batched

_environments: dict[str, list[Any]] = {}
_bodies: dict[str, Bodies | None] = {}

Start = Callable[[Sequence[int]], np.ndarray]
"""seeds n -> first observations [n, S]"""
Step = Callable[[np.ndarray, np.ndarray], tuple[Any, Any, Any, Any]]
"""rows [b], actions [b, A] -> observations [b, S], rewards [b], whether episodes ended [b], bonus for survival [b]"""


def stepper(task: str, count: int, horizon: int) -> tuple[Start, Step]:
    """How ``count`` episodes of ``task``, of at most ``horizon`` steps, are started and stepped in this process."""
    return _together(task) or _one_by_one(task, count, horizon)


def _together(task: str) -> tuple[Start, Step] | None:
    """Bodies that are stepped together; None where the environment is none of these."""
    if task not in _bodies:
        _bodies.clear()
        _bodies[task] = batched(task)
    bodies = _bodies[task]
    if bodies is None:
        return None
    known = bodies

    def step(rows: np.ndarray, actions: np.ndarray) -> tuple[Any, Any, Any, Any]:
        seen = known.step(rows, actions)
        return seen.observations, seen.rewards, seen.terminated, seen.survival

    return lambda seeds: known.reset(range(len(seeds)), seeds), step


def _one_by_one(task: str, count: int, horizon: int) -> tuple[Start, Step]:
    """One environment a row."""
    envs = _built(task, count, horizon)

    def step(rows: np.ndarray, actions: np.ndarray) -> tuple[Any, Any, Any, Any]:
        seen = [envs[row].step(action) for row, action in zip(rows.tolist(), actions)]
        states, rewards, ended, _, infos = zip(*seen)
        return np.array(states), rewards, ended, [info.get("reward_survive", 0.0) for info in infos]

    return lambda seeds: np.array([env.reset(seed=seed)[0] for env, seed in zip(envs, seeds)]), step


def _built(task: str, count: int, horizon: int) -> list[Any]:
    """``count`` environments of ``task``; those of another task are closed."""
    key = f"{task}/{horizon}"
    for other in [k for k in _environments if k != key]:
        for env in _environments.pop(other):
            env.close()
    envs = _environments.setdefault(key, [])
    while len(envs) < count:
        envs.append(build.make_env(task, horizon=horizon))
    return envs[:count]
