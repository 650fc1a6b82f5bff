"""A sweep: grid points of one laboratory under the names that their results have.

Public: ``Entry``, ``Sweep``, ``distinct_points``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from manyone.minimax.stability.laboratory import Laboratory, PointResult


class Entry(NamedTuple):
    """One row of results; ``point`` is its grid point (see ``Laboratory``)."""

    method: str
    variant: str
    condition: str
    point: Mapping[str, Any]


@dataclass(frozen=True)
class Sweep:
    """``where``: for each entry the number of its grid point in the laboratory; ``inputs``: what was read -> digest."""

    lab: Laboratory
    entries: list[Entry]
    where: list[int]
    inputs: Mapping[str, str]

    def results(self) -> list[PointResult]:
        """One result an entry, once everything has run."""
        found = self.lab.results()
        return [found[i] for i in self.where]


def distinct_points(entries: Sequence[Entry]) -> tuple[list[Mapping[str, Any]], list[int]]:
    """The distinct grid points, and for each entry the number of its own: equal points are computed once."""
    numbers: dict[tuple[Any, ...], int] = {}
    points: list[Mapping[str, Any]] = []
    where = []
    for entry in entries:
        key = tuple(sorted(entry.point.items()))
        if key not in numbers:
            numbers[key] = len(points)
            points.append(entry.point)
        where.append(numbers[key])
    return points, where
