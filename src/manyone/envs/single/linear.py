"""Linear policies rolled out side by side: n environments in lock-step, one batched matrix product a step.

The policy is a = clip(M (s - mean) / deviation + noise, low, high), within the environment's bounds. Every roll-out
depends on its own weights and seed alone, so a batch may be cut into any pieces. This module imports no torch: worker
processes start fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from manyone.envs.single import make as build
from manyone.envs.single.stepping import stepper


def returns(
    task: str,
    weights: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    seeds: Sequence[int],
    horizon: int,
    *,
    survival: bool = False,
) -> dict[str, np.ndarray]:
    """Return (with or without the bonus for ``survival``) and the sums of the states of each roll-out.

    ``weights`` [n, A, S], ``mean`` and ``deviation`` [S], ``seeds`` n. Gives ``returns`` [n], ``counts`` [n], ``sums``
    and ``squares`` [n, S] over the states visited, float64.
    """
    played = episodes(task, weights, mean, deviation, seeds, horizon)
    states = [one["observations"][:-1].astype(np.float64) for one in played]
    return {
        # what is paid for staying alive would reward standing still (Mania et al., section 4.1)
        "returns": np.array([one["rewards"].sum() - (0.0 if survival else one["survival"]) for one in played]),
        "counts": np.array([float(len(s)) for s in states]),
        "sums": np.stack([s.sum(axis=0) for s in states]),
        "squares": np.stack([(s**2).sum(axis=0) for s in states]),
    }


def episodes(
    task: str,
    weights: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    seeds: Sequence[int],
    horizon: int,
    noise: Sequence[float] | None = None,
) -> list[dict[str, Any]]:
    """One episode per row of ``weights`` [n, A, S], as trajectories take them; ``survival`` is the bonus received.

    ``mean`` and ``deviation`` are [S], or [n, S] with one row per policy. Roll-out i starts from ``seeds[i]`` and adds
    ``noise[i]`` times standard normal numbers to its actions.
    """
    count, action_dim, state_dim = weights.shape
    start, step = stepper(task, count, horizon)
    observations = np.zeros((count, horizon + 1, state_dim))
    actions = np.zeros((count, horizon, action_dim), np.float32)
    rewards = np.zeros((count, horizon))
    survival, lengths = np.zeros(count), np.zeros(count, np.int64)
    terminated = np.zeros(count, bool)
    jitter = np.zeros((count, horizon, action_dim))
    if noise is not None:
        for i, (seed, level) in enumerate(zip(seeds, noise, strict=True)):
            jitter[i] = level * np.random.Generator(np.random.Philox(seed)).standard_normal((horizon, action_dim))
    observations[:, 0] = start(seeds)
    running = np.arange(count)
    low, high = build.bounds(task)
    for t in range(horizon):
        scaled = (observations[:, t] - mean) / deviation
        # the action that is stored is the one that is played
        actions[:, t] = np.clip(np.matmul(weights, scaled[..., None])[..., 0] + jitter[:, t], low, high)
        observations[running, t + 1], rewards[running, t], terminated[running], bonus = step(
            running, actions[running, t]
        )
        survival[running] += bonus
        lengths[running] = t + 1
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
