"""Step sizes and numbers of local steps as functions of time.

A step size is a number, ``decaying(c0)`` = c0 / (s + 1), or any function of the global local step s (0, 1, ...). The
number of local steps K is a number or a function of the round t.
Public: ``decaying``, ``step_size``, ``round_ends``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from manyone.errors import ManyoneError
from manyone.minimax.arguments import number, whole

StepSize = float | Callable[[int], float]
LocalStepCount = int | Callable[[int], int]


@dataclass(frozen=True)
class decaying:
    """eta(s) = c0 / (s + 1), the step size of the non-convex analysis."""

    c0: float

    def __call__(self, s: int) -> float:
        return self.c0 / (s + 1)


def step_size(value: StepSize, s: int, name: str = "eta") -> float:
    """The step size at global step ``s``; raises unless it is a finite number >= 0."""
    eta = number(f"{name} at step {s}", value(s) if callable(value) else value)
    if eta < 0:
        raise ManyoneError(f"{name} = {eta} at step {s}: a step size is a finite number of at least 0")
    return eta


def round_ends(steps: LocalStepCount, rounds: int) -> list[int]:
    """Global step numbers at which the rounds 0..rounds-1 end (K, 2K, ... for a constant K)."""
    each = [steps(t) if callable(steps) else steps for t in range(whole("rounds", rounds, 1))]
    counts = [whole("steps (of a round)", count, -(1 << 62)) for count in each]
    if min(counts) < 1:
        raise ManyoneError(f"steps = {min(counts)} local steps in a round: must be at least 1")
    return list(accumulate(counts))
