"""Intervals over samples or blocks of ground, and what may be said of models over several data sets.

Samples of one block of ground are not independent: intervals draw whole blocks where there are any. Scores of several
data sets are compared as ranks (Friedman's test, Nemenyi's critical difference; Demsar, JMLR 7, 2006) and as
(v - min) / (max - min) among the compared models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from manyone.earth.metrics import OF_CONFUSION
from manyone.errors import ManyoneError
from manyone.evaluation.intervals import Interval, bootstrap_totals

FEWEST_DATA_SETS = 5
"""Below that neither Friedman's test nor the critical difference is computed."""


def totals_of_blocks(per_sample: np.ndarray, blocks: np.ndarray | None) -> np.ndarray:
    """Sums [B, M] over the samples of each block (sorted by block) of what each sample adds [N, M]."""
    if blocks is None:
        return per_sample
    if len(blocks) != len(per_sample):
        raise ManyoneError(f"blocks: {len(blocks)} for {len(per_sample)} samples; give one block for each sample")
    _, place = np.unique(blocks, return_inverse=True)
    totals = np.zeros((place.max() + 1, per_sample.shape[1]))
    np.add.at(totals, place.reshape(-1), per_sample)
    return totals


def mean_interval(
    values: np.ndarray, blocks: np.ndarray | None = None, *, resamples: int = 2000, seed: int = 0, level: float = 0.95
) -> Interval:
    """Mean of one value a sample [N], e.g. whether it was right, with its bootstrap interval."""
    per_sample = np.column_stack([np.asarray(values, dtype=np.float64), np.ones(len(values))])
    parts = totals_of_blocks(per_sample, blocks)
    return bootstrap_totals(parts, lambda t: t[..., 0] / t[..., 1], resamples=resamples, seed=seed, level=level)


def metric_interval(
    metric: str | Callable[[np.ndarray], np.ndarray],
    truth: np.ndarray,
    predicted: np.ndarray,
    classes: int,
    blocks: np.ndarray | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """A metric of the confusion matrix (a name of ``metrics.OF_CONFUSION``) of labels 0..K-1 with its interval."""
    if isinstance(metric, str) and metric not in OF_CONFUSION:
        raise ManyoneError(f"metric: {metric!r} is unknown; there are {', '.join(OF_CONFUSION)}")
    score = OF_CONFUSION[metric] if isinstance(metric, str) else metric
    cells = np.asarray(truth, dtype=np.int64) * classes + np.asarray(predicted, dtype=np.int64)
    # the cells that occur, not all K^2: many classes would make the sums long
    seen, cell = np.unique(cells, return_inverse=True)
    units = np.arange(len(cells)) if blocks is None else np.unique(blocks, return_inverse=True)[1].reshape(-1)
    count = int(units.max()) + 1
    parts = np.bincount(units * len(seen) + cell.reshape(-1), minlength=count * len(seen)).reshape(count, len(seen))

    def of_totals(totals: np.ndarray) -> np.ndarray:
        matrix = np.zeros((*totals.shape[:-1], classes * classes))
        matrix[..., seen] = totals
        return score(matrix.reshape(*totals.shape[:-1], classes, classes))

    return bootstrap_totals(parts, of_totals, resamples=resamples, seed=seed, level=level)


def regression_interval(
    metric: str,
    truth: np.ndarray,
    predicted: np.ndarray,
    blocks: np.ndarray | None = None,
    *,
    resamples: int = 2000,
    seed: int = 0,
    level: float = 0.95,
) -> Interval:
    """``rmse``, ``mae`` or ``r2`` with its interval."""
    error = np.asarray(predicted, dtype=np.float64) - truth
    centred = np.asarray(truth, dtype=np.float64) - np.mean(truth)  # for the spread: sums of large squares cancel
    per_sample = np.column_stack([np.ones(len(error)), np.abs(error), error**2, centred, centred**2])
    of_totals: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "rmse": lambda t: np.sqrt(t[..., 2] / t[..., 0]),
        "mae": lambda t: t[..., 1] / t[..., 0],
        "r2": lambda t: 1 - t[..., 2] / (t[..., 4] - t[..., 3] ** 2 / t[..., 0]),
    }
    if metric not in of_totals:
        raise ManyoneError(f"metric: {metric!r} is unknown; there are {', '.join(of_totals)}")
    parts = totals_of_blocks(per_sample, blocks)
    return bootstrap_totals(parts, of_totals[metric], resamples=resamples, seed=seed, level=level)


@dataclass(frozen=True)
class Ranking:
    """Models over data sets; what could not be computed is None, and ``notes`` say why."""

    models: tuple[str, ...]
    data_sets: tuple[str, ...]
    """The common subset: every model has a score there."""
    normalised: tuple[Interval, ...]
    """Mean normalised score of each model, 0 to 1, higher is better."""
    ranks: tuple[Interval, ...]
    """Mean rank of each model, 1 is best."""
    friedman_p: float | None
    critical_difference: float | None
    """Nemenyi's: mean ranks that differ by less are not told apart at 5 %."""
    notes: tuple[str, ...]


def normalised_scores(table: np.ndarray) -> np.ndarray:
    """(v - min) / (max - min) of each column of [models, data sets]; 0.5 where all models are equal."""
    low, high = table.min(0), table.max(0)
    return np.where(high > low, (table - low) / np.where(high > low, high - low, 1), 0.5)


def rank(
    table: np.ndarray,
    models: Sequence[str],
    data_sets: Sequence[str],
    *,
    lower_is_better: Sequence[bool] | None = None,
    resamples: int = 2000,
    seed: int = 0,
) -> Ranking:
    """Ranks of a table of scores [models, data sets] with NaN where there is none.

    ``lower_is_better``: one a data set (RMSE, MAE); their scores are negated first. Data sets that lack a model are
    left out. Intervals are bootstrapped over data sets.
    """
    table = np.array(table, dtype=np.float64)
    if table.shape != (len(models), len(data_sets)):
        raise ManyoneError(f"table: shape {table.shape} for {len(models)} models and {len(data_sets)} data sets")
    if lower_is_better is not None:
        table[:, np.asarray(lower_is_better, dtype=bool)] *= -1
    common = ~np.isnan(table).any(0)
    names, notes = tuple(np.asarray(data_sets)[common].tolist()), []
    if not common.all():
        left_out = [d for d, there in zip(data_sets, common) if not there]
        kept = f"{common.sum()} of {len(common)} data sets that every model has"
        notes.append(f"ranked on the {kept}; without {', '.join(left_out)}")
    if not common.any() or len(models) < 2:
        why = "no data set has scores of every model" if len(models) > 1 else "there is one model"
        return Ranking(tuple(models), names, (), (), None, None, (*notes, f"no ranking: {why}"))
    table = table[:, common]
    ranks = stats.rankdata(-table, axis=0)
    n, k = table.shape[1], len(models)

    def over_data_sets(values: np.ndarray) -> tuple[Interval, ...]:
        parts = np.stack([values, np.ones_like(values)], -1)  # the same draws for every model
        return tuple(
            bootstrap_totals(p, lambda t: t[..., 0] / t[..., 1], resamples=resamples, seed=seed) for p in parts
        )

    p_value = difference = None
    if n < FEWEST_DATA_SETS:
        notes.append(f"{n} data sets: Friedman's test and critical difference not computed, need {FEWEST_DATA_SETS}")
    else:
        difference = critical_difference(k, n)
        if k < 3:
            notes.append("two models: Friedman's test needs three; not computed")
        elif (table == table[0]).all():
            p_value = 1.0  # all tied everywhere: the statistic is 0 / 0
        else:
            p_value = float(stats.friedmanchisquare(*table).pvalue)
    normalised = over_data_sets(normalised_scores(table))
    return Ranking(tuple(models), names, normalised, over_data_sets(ranks), p_value, difference, tuple(notes))


def critical_difference(models: int, data_sets: int, level: float = 0.95) -> float:
    """Nemenyi's CD = q sqrt(k (k + 1) / (6 N)), q the studentised range for infinite degrees of freedom over sqrt 2."""
    q = float(stats.studentized_range.ppf(level, models, math.inf)) / math.sqrt(2)
    return q * math.sqrt(models * (models + 1) / (6 * data_sets))
