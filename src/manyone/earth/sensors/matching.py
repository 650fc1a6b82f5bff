"""Which band of a sensor fills which input slot of a model: a rectangular assignment (rsfm.md 2.2, step 3).

    optical   c(s, t) = |λs - λt| / (0.5 (fwhm_s + fwhm_t)), an unknown fwhm counts as 40 nm;  allowed where c <= limit
    radar     by polarisation and orbit; others (heights, bands without a wavelength) by common name
    never     panchromatic, thermal and radar bands for reflective slots, or the reverse

An empty slot costs as much as the worst pair that is allowed, so that no pair is made for the sake of a number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from manyone.data.rasters.bands import Band
from manyone.errors import ManyoneError

FWHM_NM = 40.0
"""Width of a band whose width is unknown."""
_ABSORPTION = ("watervapor", "cirrus")
_FORBIDDEN = 1e6
_TIE = 1e-9
# Of the total cost a nanometre: breaks ties by distance without outweighing a real difference of cost.


@dataclass(frozen=True)
class Pair:
    """One input slot and the source band that fills it."""

    slot: int
    source: int | None = None
    """Position among the source bands; None: the slot stays empty."""
    cost: float | None = None
    delta_nm: float | None = None
    """λ of the source minus λ of the slot; None where one of them has no wavelength."""


@dataclass(frozen=True)
class Match:
    """The result for one sensor and one model."""

    source: tuple[Band, ...]
    slots: tuple[Band, ...]
    pairs: tuple[Pair, ...]
    """One a slot, in the order of the slots."""

    @property
    def indices(self) -> tuple[int | None, ...]:
        """Source position a slot; None: missing."""
        return tuple(pair.source for pair in self.pairs)

    @property
    def missing(self) -> tuple[Band, ...]:
        """Slots that no band fills."""
        return tuple(self.slots[p.slot] for p in self.pairs if p.source is None)

    @property
    def unused(self) -> tuple[Band, ...]:
        """Source bands that fill no slot."""
        used = set(self.indices)
        return tuple(band for i, band in enumerate(self.source) if i not in used)

    def lines(self) -> list[str]:
        """The pairing as text, a line a slot, then the unused bands."""
        rows = [("slot", "λ nm", "band", "λ nm", "Δλ nm", "cost")]
        for pair in self.pairs:
            slot = self.slots[pair.slot]
            head = (f"{slot.name} {slot.common}", _nm(slot.center_nm))
            if pair.source is None:
                rows.append((*head, "MISSING", "", "", ""))
                continue
            band = self.source[pair.source]
            delta = "" if pair.delta_nm is None else f"{pair.delta_nm:+.1f}"
            rows.append((*head, f"{band.name} {band.common}", _nm(band.center_nm), delta, f"{pair.cost:.2f}"))
        widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip() for row in rows]
        if self.unused:
            lines.append("unused: " + ", ".join(f"{band.name} {band.common}" for band in self.unused))
        return lines


def match(source: Sequence[Band], slots: Sequence[Band], limit: float = 1.0) -> Match:
    """Pairs the ``source`` bands with the ``slots`` at the least total cost.

    Ties go to the smaller |Δλ|, then to the earlier band. ``ManyoneError`` for a limit that is not positive or for
    names that are twice among the source bands (the pairing could not be told).
    """
    if not limit > 0:
        raise ManyoneError(f"limit {limit}: must be above 0")
    source, slots = tuple(source), tuple(slots)
    names = [(band.sensor, band.name, band.orbit) for band in source]
    if twice := sorted({f"{name[1]}" for name in names if names.count(name) > 1}):
        raise ManyoneError(f"source bands {', '.join(twice)} are named twice: give each band a name of its own")
    costs = np.full((len(slots), len(source)), np.inf)
    deltas = np.full_like(costs, np.nan)
    for t, slot in enumerate(slots):
        for s, band in enumerate(source):
            cost = pair_cost(band, slot)
            if cost is not None and cost <= limit:
                costs[t, s] = cost
            if band.center_nm is not None and slot.center_nm is not None:
                deltas[t, s] = band.center_nm - slot.center_nm
    chosen = _assign(costs, np.nan_to_num(np.abs(deltas)), limit)
    pairs = tuple(
        Pair(t) if s is None else Pair(t, s, float(costs[t, s]), _number(deltas[t, s])) for t, s in enumerate(chosen)
    )
    return Match(source, slots, pairs)


def pair_cost(band: Band, slot: Band) -> float | None:
    """c(band, slot); None where one can never stand for the other."""
    kinds = (band.kind, slot.kind)
    if "radar" in kinds:
        if band.common != slot.common or kinds[0] != kinds[1]:
            return None
        if band.orbit and slot.orbit and band.orbit != slot.orbit:
            return None
        return 0.0 if band.orbit == slot.orbit else 0.5
    # a band that sees the atmosphere measures another quantity than its neighbours in wavelength
    if band.common != slot.common and (band.common in _ABSORPTION or slot.common in _ABSORPTION):
        return None
    if band.center_nm is None or slot.center_nm is None:
        return 0.0 if band.common == slot.common else None
    if kinds[0] != kinds[1]:
        return None
    width = (band.fwhm_nm or FWHM_NM) + (slot.fwhm_nm or FWHM_NM)
    return abs(band.center_nm - slot.center_nm) / (0.5 * width)


def _assign(costs: np.ndarray, distances: np.ndarray, limit: float) -> list[int | None]:
    """Source position a slot. Each slot has an empty column of its own beside the source bands."""
    slots, sources = costs.shape
    table = np.full((slots, sources + slots), _FORBIDDEN)
    table[:, :sources] = np.where(np.isfinite(costs), costs + _TIE * distances, _FORBIDDEN)
    empty = limit + 1e-4  # above the limit, so that a pair just allowed is made
    table[np.arange(slots), sources + np.arange(slots)] = empty
    rows, columns = linear_sum_assignment(table)
    chosen: list[int | None] = [None] * slots
    for t, s in zip(rows.tolist(), columns.tolist(), strict=True):
        chosen[t] = s if s < sources else None
    return _earlier_first(chosen, table[:, :sources])


def _earlier_first(chosen: list[int | None], table: np.ndarray) -> list[int | None]:
    """Equal totals settled by band order: earlier bands are used first, and in the order of the slots."""
    moved = True
    while moved:
        moved = False
        for t, s in enumerate(chosen):
            if s is None:
                continue
            for free in (i for i in range(s) if i not in chosen and table[t, i] == table[t, s]):
                chosen[t], moved = free, True
                break
            for u in range(t + 1, len(chosen)):
                a, b = chosen[t], chosen[u]
                if a is not None and b is not None and b < a and table[t, b] + table[u, a] == table[t, a] + table[u, b]:
                    chosen[t], chosen[u], moved = b, a, True
    return chosen


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _nm(value: float | None) -> str:
    return "" if value is None else f"{value:.0f}" if value < 100_000 else f"{value / 1e7:.2f} cm"
