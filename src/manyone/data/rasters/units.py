"""What pixel values mean, and how one unit becomes another: always through reflectance (rsfm 2.2, step 2).

    refl_dn       refl = v / 10,000                        refl_dn_off   refl = (v - 1,000) / 10,000
    dn8, dn16     v / 255, v / 65,535: a share of the range, NOT a reflectance; ``conversion_note`` says so
    db            10 log10(max(p, 1e-10)) of linear_power

Kelvin and metre become nothing else. A unit is declared by whoever has the data; where it is not, ``guess_unit`` goes
by the largest value of each band, and refuses to guess where the bands of one sensor disagree.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from manyone.data.rasters.bands import REFLECTANCES, UNITS, Band, Unit
from manyone.errors import ManyoneError

SCALE = 10_000.0
"""Counts in a reflectance of 1."""
OFFSET = 1_000.0
"""What Sentinel-2 adds to its counts since baseline 04.00: a reflectance of 0.1."""
BASELINE_0400 = 19_017.0
"""2022-01-25 in days since 1970-01-01: Sentinel-2 products from this day on may carry the offset."""
LEAST_POWER = 1e-10
"""Backscatter below this counts as this, so that its logarithm is finite."""
_AFFINE: dict[str, tuple[float, float]] = {
    "refl": (1.0, 0.0),
    "refl_dn": (1 / SCALE, 0.0),
    "refl_dn_off": (1 / SCALE, -OFFSET / SCALE),
    "dn8": (1 / 255, 0.0),
    "dn16": (1 / 65_535, 0.0),
}
"""Reflectance (or share of the range) = scale v + shift."""
_COUNTS = ("dn8", "dn16")
_RADAR = ("db", "linear_power")


def affine(source: Unit, target: Unit) -> tuple[float, float]:
    """(a, b) of ``target = a source + b``; :class:`ManyoneError` where the way is not linear or does not exist."""
    if source == target:
        return 1.0, 0.0
    if source not in _AFFINE or target not in _AFFINE:
        raise _impossible(source, target)
    (a, b), (c, d) = _AFFINE[source], _AFFINE[target]
    return a / c, (b - d) / c


def convert(values: np.ndarray, source: Unit, target: Unit) -> np.ndarray:
    """``values`` of any shape in ``source``, as float32 (float64 stays) in ``target``; NaN stays NaN."""
    dtype: Any = np.float64 if values.dtype == np.float64 else np.float32
    if source == target:
        return values.astype(dtype, copy=False)
    if source in _RADAR and target in _RADAR:
        power = values.astype(dtype)
        if target == "db":
            return 10 * np.log10(np.maximum(power, dtype(LEAST_POWER)))
        return np.power(dtype(10), power / 10)
    for unit in (source, target):
        if unit not in _AFFINE:
            raise _impossible(source, target)
    # two steps rather than one product, so that a count that came from a reflectance gives that reflectance again
    scale, shift = _AFFINE[source]
    refl = (values.astype(dtype) + dtype(shift / scale)) * dtype(scale)
    scale, shift = _AFFINE[target]
    return (refl - dtype(shift)) / dtype(scale)


def convertible(source: Unit, target: Unit) -> bool:
    """Whether :func:`convert` has a way."""
    return source == target or all(u in _AFFINE for u in (source, target)) or {source, target} == set(_RADAR)


def conversion_note(source: Unit, target: Unit) -> str | None:
    """What a report must say of a conversion, or None."""
    if source == target or (source in _COUNTS) == (target in _COUNTS):
        return None
    counts, most = next((u, 255 if u == "dn8" else 65_535) for u in (source, target) if u in _COUNTS)
    return f"{counts} is not a reflectance: {source} to {target} goes by v / {most:,}, a share of the range"


@dataclass(frozen=True)
class Guess:
    """A unit that nobody declared."""

    unit: Unit
    line: str
    """To be printed: what was guessed, from what, and how to declare it."""


def guess_unit(bands: Sequence[Band], maxima: Sequence[float], name: str = "image") -> Guess:
    """The unit of the reflective bands by their largest valid values: above 1,000 refl_dn, above 10 dn8, else refl.

    ``maxima`` has one value a band, NaN where no pixel is valid. Bands that disagree raise: some are scaled otherwise.
    """
    votes: dict[Unit, list[str]] = {}
    for band, most in zip(bands, maxima, strict=True):
        if band.kind in ("thermal", "radar") or np.isnan(most):
            continue
        unit: Unit = "refl_dn" if most > 1000 else "dn8" if most > 10 else "refl"
        votes.setdefault(unit, []).append(f"{band.name} {most:.4g}")
    if not votes:
        raise ManyoneError(f"{name}: no unit is declared and no reflective band has a valid pixel; declare the unit")
    if len(votes) > 1:
        parts = "; ".join(f"{unit} by {', '.join(found[:4])}" for unit, found in votes.items())
        raise ManyoneError(
            f"{name}: the unit is not declared and the largest values of its bands disagree ({parts}); "
            f"declare it: one of {', '.join(UNITS)}"
        )
    unit, found = next(iter(votes.items()))
    line = f"{name}: unit guessed to be {unit} from the largest values ({', '.join(found[:4])}); declare it to be sure"
    return Guess(unit, line)


def check_units(
    bands: Sequence[Band], pixels: np.ndarray, valid: np.ndarray | None = None, time: float | None = None
) -> tuple[str, ...]:
    """Warnings about declared units that the values speak against, one line each; empty when nothing is odd.

    ``pixels`` [C, ...] in the bands' units, ``valid`` of the same shape, ``time`` in days since 1970-01-01.
    """
    low, high = extremes(pixels, valid)
    named = [(b, lo, hi) for b, lo, hi in zip(bands, low, high, strict=True) if not np.isnan(lo)]
    optical = [(b, lo, hi) for b, lo, hi in named if b.unit in REFLECTANCES and b.kind in ("optical", "pan")]
    found = []
    for band, lo, hi in named:
        if band.unit == "dn8" and not 0 <= lo <= hi <= 255:
            found.append(f"{band.name} is declared dn8 and has values from {lo:.4g} to {hi:.4g}")
        if band.unit == "kelvin" and not 100 < lo <= hi < 500:
            found.append(f"{band.name} is declared kelvin and has values from {lo:.4g} to {hi:.4g}")
        if band.unit == "linear_power" and lo < 0:
            found.append(f"{band.name} is declared linear_power and has negative values ({lo:.4g}): decibels?")
    if not optical:
        return tuple(found)
    dark = min(_refl(b, lo) for b, lo, _ in optical)
    bright = max(_refl(b, hi) for b, _, hi in optical)
    names = f"{optical[0][0].name} to {optical[-1][0].name}"
    unit = optical[0][0].unit
    if unit != "refl_dn_off" and dark >= 0.095 and bright <= 2.5 and len(optical) >= 3:
        since = "" if time is None or time < BASELINE_0400 else " and the image is from 2022-01-25 or later"
        found.append(
            f"{names} are declared {unit} and no pixel is darker than {dark:.3f}{since}: if the counts carry "
            f"Sentinel-2's offset, declare refl_dn_off, or every reflectance is 0.1 too high"
        )
    if unit == "refl_dn_off" and dark < -0.05:
        found.append(
            f"{names} are declared refl_dn_off and have reflectances down to {dark:.3f}: without the offset they "
            f"are refl_dn, else every reflectance is 0.1 too low"
        )
    if bright > 10:
        found.append(f"{names} are declared {unit}, which gives reflectances up to {bright:.4g}: rather refl_dn?")
    if bright < 0.005 and unit != "refl":
        found.append(f"{names} are declared {unit}, which gives no reflectance above {bright:.2g}: rather refl?")
    return tuple(found)


def extremes(pixels: np.ndarray, valid: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """float64 [C]: the 0.1 and 99.9 % quantiles of the valid pixels of each band; NaN where there are none."""
    low, high = np.full(len(pixels), np.nan), np.full(len(pixels), np.nan)
    for at, band in enumerate(pixels):
        good = np.isfinite(band) if valid is None else np.isfinite(band) & valid[at]
        if good.any():
            low[at], high[at] = np.quantile(band[good].astype(np.float64), (0.001, 0.999))
    return low, high


def _refl(band: Band, value: float) -> float:
    scale, shift = _AFFINE[str(band.unit)]
    return scale * value + shift


def _impossible(source: Unit, target: Unit) -> ManyoneError:
    unknown = [u for u in (source, target) if u not in UNITS]
    if unknown:
        return ManyoneError(f"unit {unknown[0]!r}: must be one of {', '.join(UNITS)}")
    return ManyoneError(f"{source} cannot become {target}: reflectances and counts, dB and power, nothing else")
