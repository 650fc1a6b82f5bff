"""Linear policies rolled out side by side: n environments in lock-step, one batched matrix product a step.

The policy is a = clip(M (s - mean) / deviation + noise, -1, 1). Every roll-out depends on its own weights and seed
alone, so a batch may be cut into any pieces. This module imports no torch: worker processes start fast.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from manyone.envs.single import lockstep


def returns(
    task: str, weights: np.ndarray, mean: np.ndarray, deviation: np.ndarray, seeds: Sequence[int], horizon: int
) -> dict[str, np.ndarray]:
    """Return (without the bonus for survival) and the sums of the states of each roll-out.

    ``weights`` [n, A, S], ``mean`` and ``deviation`` [S], ``seeds`` n. Gives ``returns`` [n], ``counts`` [n], ``sums``
    and ``squares`` [n, S] over the states visited, float64.
    """
    played = episodes(task, weights, mean, deviation, seeds, horizon)
    states = [one["observations"][:-1].astype(np.float64) for one in played]
    return {
        # what is paid for staying alive would reward standing still (Mania et al., section 4.1)
        "returns": np.array([one["rewards"].sum() - one["survival"] for one in played]),
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
    jitter = np.zeros((len(seeds), horizon, weights.shape[1]))
    if noise is not None:
        for i, (seed, level) in enumerate(zip(seeds, noise, strict=True)):
            jitter[i] = level * np.random.Generator(np.random.Philox(seed)).standard_normal(jitter.shape[1:])
    means, deviations = (np.broadcast_to(x, (len(seeds), weights.shape[2])) for x in (mean, deviation))

    def act(rows: np.ndarray, observations: np.ndarray, step: int) -> np.ndarray:
        scaled = (observations - means[rows]) / deviations[rows]
        return np.clip(np.matmul(weights[rows], scaled[..., None])[..., 0] + jitter[rows, step], -1, 1)

    return lockstep.episodes(task, seeds, horizon, act)
