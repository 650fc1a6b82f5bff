"""Episodes of n environments side by side in one process: one call of the policy a step.

This module imports no torch: worker processes start fast.

Public names: ``episodes``, ``built``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from manyone.envs.single import make as build

Act = Callable[[np.ndarray, np.ndarray, int], np.ndarray]
"""(rows int64 [k], their observations float64 [k, S], step) -> actions [k, A]; rows of ended episodes are left out."""
_environments: dict[str, list[Any]] = {}


def episodes(task: str, seeds: Sequence[int], horizon: int, act: Act) -> list[dict[str, Any]]:
    """One episode a seed, as trajectories take them; ``survival`` is the bonus that was received for staying alive."""
    states, width, _ = build.spaces(task)
    count = len(seeds)
    envs = built(task, count, horizon)
    observations = np.zeros((count, horizon + 1, states))
    actions = np.zeros((count, horizon, width), np.float32)
    rewards = np.zeros((count, horizon))
    survival, lengths = np.zeros(count), np.zeros(count, np.int64)
    terminated = np.zeros(count, bool)
    for i, seed in enumerate(seeds):
        observations[i, 0], _ = envs[i].reset(seed=seed)
    running = np.arange(count)
    for t in range(horizon):
        # the action that is stored is the one that is played
        actions[running, t] = act(running, observations[running, t], t)
        for i in running.tolist():
            state, reward, ended, _, info = envs[i].step(actions[i, t])
            observations[i, t + 1], rewards[i, t] = state, reward
            survival[i] += info.get("reward_survive", 0.0)
            terminated[i], lengths[i] = ended, t + 1
        running = running[~terminated[running]]
        if not len(running):
            break
    return [
        {
            "observations": observations[i, : n + 1],
            "actions": actions[i, :n],
            "rewards": rewards[i, :n],
            "terminated": bool(terminated[i]),
            "goal": 0,
            "survival": float(survival[i]),
        }
        for i, n in enumerate(lengths)
    ]


def built(task: str, count: int, horizon: int) -> list[Any]:
    """``count`` environments of ``task``; those of another task are closed."""
    key = f"{task}/{horizon}"
    for other in [k for k in _environments if k != key]:
        for env in _environments.pop(other):
            env.close()
    envs = _environments.setdefault(key, [])
    while len(envs) < count:
        envs.append(build.make_env(task, horizon=horizon))
    return envs[:count]
