"""Intervals over seeds, paired differences, and robust aggregates (bootstrap, interquartile mean).

Values are what one seed (or episode) gave each; all functions take plain sequences of numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from manyone.randomness import seed_for


@dataclass(frozen=True)
class Interval:
    """An estimate with its lower and upper end; the ends are NaN where there are too few values to tell."""

    value: float
    low: float
    high: float
    n: int
    level: float = 0.95

    @property
    def half_width(self) -> float:
        """Half the interval's length."""
        return (self.high - self.low) / 2

    def excludes(self, number: float) -> bool:
        """Whether ``number`` lies outside; False while the ends are unknown."""
        return number < self.low or number > self.high


def t_interval(values: Sequence[float], level: float = 0.95) -> Interval:
    """Mean and Student-t interval mean +- t_{n-1} s / sqrt(n)."""
    x = _array(values)
    mean, n = float(x.mean()), len(x)
    if n < 2:
        return Interval(mean, math.nan, math.nan, n, level)
    from scipy.stats import t

    half = float(t.ppf(0.5 + level / 2, n - 1)) * float(x.std(ddof=1)) / math.sqrt(n)
    return Interval(mean, mean - half, mean + half, n, level)


def wilson_interval(successes: int, n: int, level: float = 0.95) -> Interval:
    """A share of ``n`` trials with Wilson's score interval, which has width even when all trials end alike."""
    if not 0 <= successes <= n or n == 0:
        raise ValueError(f"{successes} successes of {n} trials is no share")
    z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
    p = successes / n
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(p, max(0.0, min(p, middle - half)), min(1.0, max(p, middle + half)), n, level)


def paired_difference(
    first: Mapping[object, float] | Sequence[float],
    second: Mapping[object, float] | Sequence[float],
    level: float = 0.95,
) -> Interval:
    """Mean of first - second with a t-interval over pairs.

    Mappings (e.g. seed -> accuracy) are paired over the keys that both have; sequences position by position.
    """
    if isinstance(first, Mapping) and isinstance(second, Mapping):
        keys = [k for k in first if k in second]
        if not keys:
            raise ValueError("the two mappings share no key, so nothing can be paired")
        return t_interval([first[k] - second[k] for k in keys], level)
    if isinstance(first, Mapping) or isinstance(second, Mapping):
        raise TypeError("pair two mappings or two sequences")
    if len(first) != len(second):
        raise ValueError(f"cannot pair {len(first)} values with {len(second)}")
    return t_interval([a - b for a, b in zip(first, second)], level)


def interquartile_mean(values: Sequence[float]) -> float:
    """Mean of the middle half; values on the edge of a quartile count with the part that lies inside."""
    x = np.sort(_array(values))
    n = len(x)
    edges = np.arange(n + 1)
    weight = np.clip(np.minimum(edges[1:], 0.75 * n) - np.maximum(edges[:-1], 0.25 * n), 0, None)
    return float((weight * x).sum() / weight.sum())


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[[Sequence[float]], float] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a statistic (default: the mean) with ``resamples`` seeded resamples."""
    x = _array(values)
    generator = np.random.default_rng(seed_for(seed, "bootstrap"))
    drawn = x[generator.integers(len(x), size=(resamples, len(x)))]
    if statistic is None:
        value, replicates = float(x.mean()), drawn.mean(1)
    else:
        value, replicates = statistic(x.tolist()), np.array([statistic(row) for row in drawn.tolist()])
    if len(x) < 2:
        return Interval(value, math.nan, math.nan, len(x), level)
    low, high = np.quantile(replicates, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(value, float(low), float(high), len(x), level)


def bootstrap_totals(
    parts: np.ndarray,
    statistic: Callable[[np.ndarray], np.ndarray],
    *,
    level: float = 0.95,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Percentile bootstrap of a function of sums: ``parts`` [B, M] holds what each sample (or block of samples) adds.

    ``statistic`` maps totals [..., M] to values [...], e.g. a confusion matrix to a score. Resamples draw B parts with
    replacement, the same ones as :func:`bootstrap_interval` for the same seed. Resamples without a value (NaN) do not
    count; the ends are moved to hold the estimate itself, which a biased statistic (a mean over classes) can leave
    outside.
    """
    parts = np.asarray(parts, dtype=np.float64)
    if parts.ndim != 2 or not len(parts):
        raise ValueError(f"parts of shape {parts.shape}: needs one row for each sample or block")
    b = len(parts)
    value = float(statistic(parts.sum(0)))
    if b < 2:
        return Interval(value, math.nan, math.nan, b, level)
    generator = np.random.default_rng(seed_for(seed, "bootstrap"))
    step, replicates = max(1, (1 << 23) // b), []
    for start in range(0, resamples, step):  # a few at a time: draws of all would be resamples x B numbers
        count = min(step, resamples - start)
        drawn = generator.integers(b, size=(count, b)) + b * np.arange(count)[:, None]
        times = np.bincount(drawn.ravel(), minlength=count * b).reshape(count, b)
        replicates.append(statistic(times @ parts))
    ends = np.nanquantile(np.concatenate(replicates), [0.5 - level / 2, 0.5 + level / 2])
    return Interval(value, min(float(ends[0]), value), max(float(ends[1]), value), b, level)


def _array(values: Sequence[float]) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1 or len(x) == 0:
        raise ValueError("an interval needs a non-empty sequence of numbers")
    return x
