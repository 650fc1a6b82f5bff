"""Success and return of roll-outs, per task and over tasks, with intervals; paired differences of two methods.

The mean over tasks weighs every task alike: ``mean_i mean_e x_{i,e}``. Intervals are percentile bootstraps that draw
episodes again *within* each task (the tasks are the benchmark, they are not a sample), as in Agarwal et al. 2021 with
tasks as strata. They tell how well these episodes determine this policy's score; the spread over training seeds is a
different one (:func:`manyone.evaluation.t_interval` over the seeds' scores).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from manyone.errors import ManyoneError
from manyone.evaluation.intervals import Interval, interquartile_mean
from manyone.evaluation.rollouts import Episode, EpisodeResult
from manyone.randomness import seed_for

RESAMPLES = 2000


@dataclass(frozen=True)
class Summary:
    """The scores of one policy; success is None when no environment reports it."""

    episodes: int
    success: Interval | None
    return_: Interval
    iqm_return: Interval
    success_by_task: dict[str, float]
    return_by_task: dict[str, float]
    mean_length: float
    unstable: int

    def as_metrics(self) -> dict[str, float]:
        """Plain numbers for a log: ``success``, ``return``, ``return_iqm``, their ends, and one per task."""
        metrics = {"return": self.return_.value, "return_low": self.return_.low, "return_high": self.return_.high}
        metrics |= {"return_iqm": self.iqm_return.value, "episode_length": self.mean_length}
        if self.success is not None:
            metrics |= {"success": self.success.value, "success_low": self.success.low}
            metrics |= {"success_high": self.success.high}
        metrics |= {f"success/{task}": value for task, value in self.success_by_task.items()}
        return metrics | {f"return/{task}": value for task, value in self.return_by_task.items()}


def summarise(results: Sequence[EpisodeResult], *, level: float = 0.95, seed: int = 0) -> Summary:
    """Every score of ``results``; ``seed`` fixes the resampling."""
    _some(results)
    known = all(r.success is not None for r in results)
    return Summary(
        episodes=len(results),
        success=mean_success(results, level=level, seed=seed) if known else None,
        return_=mean_return(results, level=level, seed=seed),
        iqm_return=iqm_return(results, level=level, seed=seed),
        success_by_task=success_by_task(results) if known else {},
        return_by_task=return_by_task(results),
        mean_length=float(np.mean([r.length for r in results])),
        unstable=sum(bool(r.info.get("unstable")) for r in results),
    )


def success_by_task(results: Sequence[EpisodeResult]) -> dict[str, float]:
    """The share of successful episodes of each task, in the order of first appearance."""
    return {task: float(x.mean()) for task, x in _by_task(results, _success).items()}


def return_by_task(results: Sequence[EpisodeResult]) -> dict[str, float]:
    """The mean return of each task."""
    return {task: float(x.mean()) for task, x in _by_task(results, _return).items()}


def mean_success(results: Sequence[EpisodeResult], *, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean over tasks of the success rate.

    Where all episodes ended alike a bootstrap has no spread, so the interval is widened to Wilson's for n equal trials.
    """
    strata = list(_by_task(results, _success).values())
    interval = _bootstrap(strata, level, seed)
    if interval.value in (0.0, 1.0):
        z2 = NormalDist().inv_cdf(0.5 + level / 2) ** 2
        far = z2 / (interval.n + z2)
        low, high = (0.0, far) if interval.value == 0 else (1 - far, 1.0)
        return Interval(interval.value, low, high, interval.n, level)
    return interval


def mean_return(results: Sequence[EpisodeResult], *, level: float = 0.95, seed: int = 0) -> Interval:
    """Mean over tasks of the mean return."""
    return _bootstrap(list(_by_task(results, _return).values()), level, seed)


def iqm_return(results: Sequence[EpisodeResult], *, level: float = 0.95, seed: int = 0) -> Interval:
    """Interquartile mean of all episodes' returns; sensible where tasks' returns have one scale."""
    strata = list(_by_task(results, _return).values())
    value = interquartile_mean(np.concatenate(strata).tolist())
    drawn = np.concatenate([x[_draws(x, i, seed)] for i, x in enumerate(strata)], axis=1)
    drawn.sort(axis=1)
    n = drawn.shape[1]
    edges = np.arange(n + 1)
    weight = np.clip(np.minimum(edges[1:], 0.75 * n) - np.maximum(edges[:-1], 0.25 * n), 0, None)
    return _interval(value, drawn @ weight / weight.sum(), n, level)


def paired_difference_of(
    first: Sequence[EpisodeResult],
    second: Sequence[EpisodeResult],
    what: str = "success",
    *,
    level: float = 0.95,
    seed: int = 0,
) -> Interval:
    """Mean over tasks of ``first - second`` on the same episodes; ``what`` is "success" or "return".

    Both must have played the same episodes (:func:`manyone.evaluation.rollouts.paired_episodes`), in any order.
    """
    if what not in ("success", "return"):
        raise ManyoneError(f"what {what!r}: allowed are 'success' and 'return'")
    value = _success if what == "success" else _return
    _some(first)
    others = {r.episode: value(r) for r in second}
    missing: list[Episode] = [r.episode for r in first if r.episode not in others]
    if missing or len(others) != len(first):
        which = str(missing[0]) if missing else f"{len(others)} against {len(first)} episodes"
        raise ManyoneError(f"the two methods did not play the same episodes ({which}); give both the same list")
    strata: dict[str, list[float]] = {}
    for result in first:
        strata.setdefault(result.episode.task, []).append(value(result) - others[result.episode])
    return _bootstrap([np.array(x) for x in strata.values()], level, seed)


def _success(result: EpisodeResult) -> float:
    if result.success is None:
        raise ManyoneError(f"{result.episode.task} does not report success; score it by its return")
    return float(result.success)


def _return(result: EpisodeResult) -> float:
    return result.return_


def _some(results: Sequence[EpisodeResult]) -> None:
    if not results:
        raise ManyoneError("there are no results to score; play at least one episode")


def _by_task(results: Sequence[EpisodeResult], value: Callable[[EpisodeResult], float]) -> dict[str, np.ndarray]:
    _some(results)
    groups: dict[str, list[float]] = {}
    for result in results:
        groups.setdefault(result.episode.task, []).append(value(result))
    return {task: np.array(x, np.float64) for task, x in groups.items()}


def _draws(x: np.ndarray, stratum: int, seed: int) -> np.ndarray:
    generator = np.random.Generator(np.random.Philox(seed_for(seed, "episode bootstrap", stratum)))
    return generator.integers(len(x), size=(RESAMPLES, len(x)))


def _bootstrap(strata: list[np.ndarray], level: float, seed: int) -> Interval:
    means = np.stack([x[_draws(x, i, seed)].mean(1) for i, x in enumerate(strata)])
    value = float(np.mean([x.mean() for x in strata]))
    return _interval(value, means.mean(0), sum(len(x) for x in strata), level)


def _interval(value: float, replicates: np.ndarray, n: int, level: float) -> Interval:
    if n < 2:
        return Interval(value, math.nan, math.nan, n, level)
    low, high = np.quantile(replicates, [0.5 - level / 2, 0.5 + level / 2])
    return Interval(value, float(low), float(high), n, level)
