"""Units of pixels: reflectance as a fraction or as counts, radar as power or decibels. Conversion goes through one
physical quantity (rsfm.md 2.2, step 2)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import numpy as np
import torch

from manyone.data.rasters.bands import REFLECTANCES, Unit
from manyone.errors import ManyoneError

Numbers = TypeVar("Numbers", np.ndarray, torch.Tensor)
_RADAR = ("db", "linear_power")
_LEAST_POWER = 1e-10


def convert(x: Numbers, from_unit: Unit, to_unit: Unit) -> Numbers:
    """``x`` (any shape) in ``to_unit``; ``ManyoneError`` where there is no way from one to the other."""
    if from_unit == to_unit:
        return x
    if from_unit in REFLECTANCES and to_unit in REFLECTANCES:
        refl = {"refl": x, "refl_dn": x / 10_000, "refl_dn_off": (x - 1000) / 10_000}[from_unit]
        return {"refl": refl, "refl_dn": refl * 10_000, "refl_dn_off": refl * 10_000 + 1000}[to_unit]
    if from_unit == "dn8" and to_unit in REFLECTANCES:
        return convert(x / 255, "refl", to_unit)
    if from_unit in REFLECTANCES and to_unit == "dn8":
        return convert(x, from_unit, "refl") * 255
    if from_unit in _RADAR and to_unit in _RADAR:
        if to_unit == "linear_power":
            return 10 ** (x / 10)
        if isinstance(x, torch.Tensor):
            return 10 * torch.log10(x.clamp(min=_LEAST_POWER))
        return 10 * np.log10(np.maximum(x, _LEAST_POWER))
    raise ManyoneError(f"unit: {from_unit} cannot be converted to {to_unit}")


def guess(maxima: Sequence[float]) -> Unit:
    """The unit that per-band ``maxima`` speak for: above 1000 refl_dn, above 10 dn8, else refl."""
    units: set[Unit] = {"refl_dn" if m > 1000 else "dn8" if m > 10 else "refl" for m in maxima}
    if len(units) != 1:
        raise ManyoneError(f"unit: maxima of the bands disagree ({', '.join(sorted(units))}): declare it")
    return units.pop()
