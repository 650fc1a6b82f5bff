"""What learning one task after the other has done to each of them, from scores p[i, j] of task i after learning task j.

The definitions are those of Continual World (Wołczyk et al. 2021, arXiv 2105.10919, section 4.1) and, of backward
transfer, Lopez-Paz and Ranzato (2017, arXiv 1706.08840); I tasks, numbered from 0 here:

    average             mean_i p[i, I-1]                                        average
    forgetting          mean_i (p[i, i] - p[i, I-1])                            forgetting
    plasticity          mean_i p[i, i]                                          plasticity
    backward transfer   mean_{i < I-1} (p[i, I-1] - p[i, i])                    backward_transfer
    forward transfer    FT_i = (AUC_i - AUC_i^ref) / (1 - AUC_i^ref)            forward_transfer

AUC is the mean of a task's score over its own training, ref the same of a run on this task alone; scores are in [0, 1].

Public names: :func:`average`, :func:`forgetting`, :func:`plasticity`, :func:`backward_transfer`,
:func:`forward_transfer`, :func:`sequence_metrics`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from manyone.errors import ManyoneError

Matrix = NDArray[np.float64]


def average(scores: ArrayLike) -> float:
    """Mean score of all tasks at the end; ``scores`` [I, I], tasks x times."""
    return float(_matrix(scores)[:, -1].mean())


def plasticity(scores: ArrayLike) -> float:
    """Mean score of each task when it had just been learned."""
    return float(_matrix(scores).diagonal().mean())


def forgetting(scores: ArrayLike) -> float:
    """How much lower scores are at the end than when each task had just been learned, the mean over all tasks."""
    matrix = _matrix(scores)
    return float((matrix.diagonal() - matrix[:, -1]).mean())


def backward_transfer(scores: ArrayLike) -> float:
    """How much higher scores of all tasks but the last are at the end than when just learned; 0 for one task."""
    matrix = _matrix(scores)
    return float((matrix[:-1, -1] - matrix.diagonal()[:-1]).mean()) if len(matrix) > 1 else 0.0


def forward_transfer(curves: Sequence[ArrayLike], reference: Sequence[ArrayLike]) -> list[float]:
    """FT of each task, from its scores in [0, 1] over its own training and those of a run on it alone.

    Scores of a task are at equally spaced steps. Where the reference is 1 throughout nothing is left to gain: its
    transfer is 0 if the curve is 1 too, and minus infinity if it is not.
    """
    if len(curves) != len(reference):
        raise ManyoneError(f"curves of {len(curves)} tasks and references of {len(reference)}: must be as many")
    found = []
    for task, (curve, alone) in enumerate(zip(curves, reference, strict=True)):
        area, base = (_area(values, task) for values in (curve, alone))
        left = 1 - base
        found.append((area - base) / left if left > 0 else 0.0 if area == base else -math.inf)
    return found


def sequence_metrics(scores: ArrayLike) -> dict[str, float]:
    """All figures of the matrix alone, by name."""
    return {
        "average": average(scores),
        "forgetting": forgetting(scores),
        "plasticity": plasticity(scores),
        "backward_transfer": backward_transfer(scores),
    }


def _area(values: ArrayLike, task: int) -> float:
    scores = np.asarray(values, np.float64)
    if scores.ndim != 1 or not len(scores) or not bool(((scores >= 0) & (scores <= 1)).all()):
        raise ManyoneError(f"scores of task {task} over its training: must be one or more numbers from 0 to 1")
    return float(scores.mean())


def _matrix(scores: ArrayLike) -> Matrix:
    """[I, I] with numbers where the figures read: the diagonal and the last column."""
    matrix = np.asarray(scores, np.float64)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or not len(matrix):
        raise ManyoneError(f"scores {list(matrix.shape)}: must be tasks x times, [I, I]")
    if not (np.isfinite(matrix.diagonal()).all() and np.isfinite(matrix[:, -1]).all()):
        raise ManyoneError("scores: every task must have been evaluated after it was learned and at the end")
    return matrix
