"""What stands in a slot that no band of the sensor fills (rsfm.md 2.2, step 5).

======== =============================================================================================
error    nothing: the pairing is refused, with the slots named
mean     the slot's mean: 0 after normalisation
nearest  the nearest band that fills another slot, as that slot has it after normalisation
interp   linear in λ between the two neighbouring optical bands, likewise; beyond the sensor's range, its last band
slice    the slot is left out, and the encoder leaves out the weights' channels (a fixed convolution)
drop     the slot is left out (models that take any bands)
======== =============================================================================================

Values are copied after normalisation: a slot's statistics are those of another wavelength, and what fits them is not
the neighbour's raw value (where the atmosphere absorbs, it lies nine deviations away) but how far that is from its own
mean. Measured: interpolation keeps most of a probe that was fitted with the band, then the nearest band, then the mean;
nothing saves a sensor that lacks a whole part of the spectrum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from manyone.data.rasters.bands import Band
from manyone.earth.sensors.options import MissingPolicy
from manyone.errors import ManyoneError


@dataclass(frozen=True)
class Filling:
    """How slots that are missing are filled."""

    weights: np.ndarray
    """float64 [slots, source]: rows of the missing slots are set, the others as they were given."""
    zero: tuple[int, ...] = ()
    """Slots that are 0 after normalisation."""
    left_out: tuple[int, ...] = ()
    """Slots that are not passed on."""
    notes: tuple[str, ...] = ()
    """One line a filled slot."""
    mixes: tuple[tuple[int, tuple[tuple[int, float], ...]], ...] = ()
    """(slot, ((another slot, its share), ...)): what it is after normalisation, where bands of other slots fill it."""


def fill(source: Sequence[Band], slots: Sequence[Band], weights: np.ndarray, policy: MissingPolicy) -> Filling:
    """Fills the rows of ``weights`` (float [slots, source]) that are all zero, by ``policy``.

    ``ManyoneError`` for "error", and where no slot at all is filled or a policy has nothing to copy from.
    """
    missing = [t for t in range(len(slots)) if not weights[t].any()]
    if not missing:
        return Filling(weights)
    names = ", ".join(f"{slots[t].name} ({slots[t].common})" for t in missing)
    if policy == "error":
        raise ManyoneError(
            f"no band for the slots {names}: choose how to fill them "
            "(missing: nearest, mean, interp, or slice/drop to leave them out)"
        )
    if len(missing) == len(slots):
        raise ManyoneError(f"none of the bands {', '.join(b.name for b in source)} fits any slot: {names}")
    if policy == "mean":
        return Filling(weights, zero=tuple(missing), notes=tuple(f"{slots[t].name}: its mean" for t in missing))
    if policy in ("slice", "drop"):
        return Filling(weights, left_out=tuple(missing), notes=tuple(f"{slots[t].name}: left out" for t in missing))
    rows, notes = weights.copy(), []
    used = [int(weights[t].argmax()) for t in range(len(slots)) if weights[t].any()]
    for t in missing:
        rows[t], note = _nearest(source, used, slots[t]) if policy == "nearest" else _interpolate(source, slots[t])
        notes.append(f"{slots[t].name}: {note}")
    return Filling(rows, notes=tuple(notes), mixes=tuple(_mixes(weights, rows, missing)))


def _mixes(
    weights: np.ndarray, rows: np.ndarray, missing: Sequence[int]
) -> Iterator[tuple[int, tuple[tuple[int, float], ...]]]:
    """Filled slots as shares of slots, where each band that fills them is the whole of one."""
    slot_of = {int(row.argmax()): t for t, row in enumerate(weights) if (row > 0).sum() == 1}
    for t in missing:
        parts = [(slot_of.get(int(s)), float(rows[t, s])) for s in np.flatnonzero(rows[t])]
        if all(slot is not None for slot, _ in parts):
            yield t, tuple((slot, share) for slot, share in parts if slot is not None)


def _nearest(source: Sequence[Band], used: Sequence[int], slot: Band) -> tuple[np.ndarray, str]:
    candidates = [s for s in used if source[s].kind == slot.kind == "optical"]
    if not candidates or slot.center_nm is None:
        raise ManyoneError(f"slot {slot.name} ({slot.common}) has no optical neighbour to copy: use missing=mean")
    nearest = min(candidates, key=lambda s: (abs(_center(source[s]) - _center(slot)), s))
    row = np.zeros(len(source))
    row[nearest] = 1
    return row, f"copy of {source[nearest].name}, {abs(_center(source[nearest]) - _center(slot)):.0f} nm away"


def _interpolate(source: Sequence[Band], slot: Band) -> tuple[np.ndarray, str]:
    optical = sorted((s for s, band in enumerate(source) if band.kind == "optical"), key=lambda s: _center(source[s]))
    if not optical or slot.kind != "optical":
        raise ManyoneError(f"slot {slot.name} ({slot.common}) cannot be interpolated in wavelength: use missing=mean")
    row, at = np.zeros(len(source)), _center(slot)
    below = [s for s in optical if _center(source[s]) <= at]
    above = [s for s in optical if _center(source[s]) >= at]
    if not below or not above:
        end = optical[0] if not below else optical[-1]
        row[end] = 1
        return row, f"beyond the sensor's range: copy of {source[end].name}"
    left, right = below[-1], above[0]
    span = _center(source[right]) - _center(source[left])
    share = (at - _center(source[left])) / span if span else 0.0
    row[left] += 1 - share
    row[right] += share
    return row, f"{1 - share:.2f} {source[left].name} + {share:.2f} {source[right].name}"


def _center(band: Band) -> float:
    if band.center_nm is None:
        raise ManyoneError(f"band {band.name} has no wavelength: give its center_nm")
    return band.center_nm
