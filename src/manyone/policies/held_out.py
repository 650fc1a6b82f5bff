"""Evaluation without an environment: a policy's actions beside those of episodes that it was not trained on.

The policy is led along the recorded episodes: it sees their states, rewards and earlier actions and is asked for the
episode's own return. Its error at a step is the mean over dimensions of ((a' - a) / h)^2, with half the range h of the
task's training actions, so that tasks of different units compare.
Public names: :func:`split`, :func:`action_errors`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError
from manyone.randomness import generator_for

SHARE = 0.1
"""Share of a task's episodes that is left out."""


class _Recorded(NamedTuple):
    task: str
    target: float


def split(data: Trajectories, seed: int) -> tuple[Trajectories, Trajectories]:
    """(training, left out): a tenth of the episodes, at least one, is drawn from ``seed`` and left out."""
    if data.episodes < 2:
        raise ManyoneError(f"{data.name}: one episode cannot be training data and left out of it: give two or more")
    order = torch.randperm(data.episodes, generator=generator_for(seed, "held out", data.name)).numpy()
    count = max(1, round(SHARE * data.episodes))
    return data.select(np.sort(order[count:])), data.select(np.sort(order[:count]))


def half_ranges(data: Trajectories) -> np.ndarray:
    """Half the range of each dimension of the actions, [A]; 1 where they are all equal."""
    half = (data.actions.max(0) - data.actions.min(0)) / 2
    return np.where(half > 0, half, 1.0)


def action_errors(policy: Any, data: Sequence[Trajectories], halves: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Task -> mean squared error of the actions of ``policy`` along its episodes in ``data``; ``halves``: task -> h."""
    names = [one.name for one in data for _ in range(one.episodes)]
    lengths = np.concatenate([one.lengths for one in data])
    starts = np.concatenate([[0], np.cumsum(lengths)])
    returns = np.concatenate([one.returns for one in data])
    observations, actions = (_stacked([getattr(one, key) for one in data]) for key in ("observations", "actions"))
    rewards = np.concatenate([one.rewards for one in data])
    half = _stacked([halves[name][None] for name in names])
    dims = np.array([len(halves[name]) for name in names])
    half[np.arange(half.shape[1]) >= dims[:, None]] = 1
    total = np.zeros(len(names))
    policy.start([_Recorded(name, float(target)) for name, target in zip(names, returns)])
    for step in range(int(lengths.max())):
        slots = np.flatnonzero(lengths > step)
        rows = starts[slots] + step
        found = policy.act(slots, observations[rows])
        total[slots] += np.square((found - actions[rows]) / half[slots]).sum(1) / dims[slots]
        policy.took(slots, actions[rows])
        policy.reward(slots, rewards[rows])
    errors = total / lengths
    weights = {name: lengths[[n == name for n in names]] for name in dict.fromkeys(names)}
    return {n: float(np.average(errors[[m == n for m in names]], weights=w)) for n, w in weights.items()}


def _stacked(parts: Sequence[np.ndarray]) -> np.ndarray:
    """``parts`` [n, w] one after the other, zeros behind those that are narrower than the widest."""
    most = max(part.shape[1] for part in parts)
    return np.concatenate([np.pad(part, ((0, 0), (0, most - part.shape[1]))) for part in parts])
