"""Few labels: any protocol on n samples a class, or on a share of train, over several seeds.

A class's samples are drawn from (seed, class) alone: every model gets the same subsets, a larger n holds the smaller
one, and other classes change nothing. Classes are compared as numbers (a public benchmark keyed its strata by tensors,
each its own class, and so trained on everything).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from manyone.earth.protocols.probe import probe
from manyone.earth.protocols.scores import Scores, kind_of
from manyone.earth.splits import Splits
from manyone.errors import ManyoneError
from manyone.randomness import seed_for

SHOTS = (1, 5, 10, 20, 50)
FRACTIONS = (0.01, 0.1, 0.5, 1.0)


@dataclass(frozen=True)
class FewShot:
    """Size (n a class, or a share) -> the scores of every seed."""

    scores: Mapping[float, tuple[Scores, ...]]

    def mean_std(self, metric: str) -> dict[float, tuple[float, float]]:
        """Size -> (mean, standard deviation with n - 1) over seeds."""
        found = {size: [s.values[metric] for s in scores] for size, scores in self.scores.items()}
        spread = {k: float(np.std(v, ddof=1)) if len(v) > 1 else float("nan") for k, v in found.items()}
        return {k: (float(np.mean(v)), spread[k]) for k, v in found.items()}


def few(targets: np.ndarray, train: np.ndarray, size: float, seed: int = 0) -> np.ndarray:
    """Positions (sorted) of a stratified part of ``train``: ``size`` of each class if an int, that share if a float.

    A class has at least one; one that has fewer than n gives all. Label vectors and numbers take shares only.
    """
    by_share = isinstance(size, float)
    if not (0 < size <= 1 if by_share else size >= 1):
        raise ManyoneError(f"size: {size!r} is neither samples a class (int, 1 or more) nor a share (float, 0 to 1)")
    if kind_of(targets) != "class":
        if not by_share:
            raise ManyoneError(f"size: {size} a class needs one class a sample; give a share such as 0.1 instead")
        order = np.random.default_rng(seed_for(seed, "few-shot")).permutation(len(train))
        return np.sort(train[order[: max(1, round(size * len(train)))]])
    labels, parts = np.asarray(targets)[train], []
    for label in np.unique(labels):
        members = train[labels == label]
        order = np.random.default_rng(seed_for(seed, "few-shot", str(label))).permutation(len(members))
        count = max(1, round(size * len(members))) if by_share else int(size)
        parts.append(members[order[:count]])
    return np.sort(np.concatenate(parts))


def few_shot(
    features: Any,
    targets: np.ndarray,
    splits: Splits,
    *,
    sizes: Sequence[float] = SHOTS,
    seeds: int = 5,
    protocol: str = "linear",
    **options: Any,
) -> FewShot:
    """Scores on the whole test part for every size and seed; val chooses, and is never trained on."""
    if protocol in ("linear", "ridge"):
        options = {"refit": False} | options
    scores = {}
    for size in sizes:
        parts = [replace(splits, train=few(targets, splits.train, size, seed)) for seed in range(seeds)]
        scores[size] = tuple(probe(features, targets, part, protocol=protocol, **options) for part in parts)
    return FewShot(scores)
