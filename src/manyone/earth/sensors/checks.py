"""What makes a sensor layer doubtful: units that cannot be right, inputs out of range.

The public sweeps that these checks come from had 105 cells with a unit error (a model at chance), double
normalisations (20 points) and forgotten offsets; none was noticed by a program (rsfm.md 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from manyone.data.rasters import units
from manyone.data.rasters.bands import REFLECTANCES, Band

_MEAN, _STD = 3.0, (0.1, 10.0)
_DARK, _OFFSET = 0.01, 0.1
_BELOW_ZERO = -0.03


class Figure(NamedTuple):
    """Mean and standard deviation of one prepared slot."""

    slot: str
    mean: float
    std: float
    share_valid: float


def doubtful_offset(bands: Sequence[Band], pixels: Tensor, valid: Tensor) -> list[str]:
    """Lines where an offset of 1,000 seems forgotten, or taken away twice; pixels [..., C, H, W] in ``bands``' units.

    Counts of Sentinel-2 carry it from processing baseline 04.00 on: forgotten, all reflectances are 0.1 too high.
    """
    dark: list[float] = []
    for c, band in enumerate(bands):
        values = pixels[..., c, :, :][valid[..., c, :, :]].float()
        # absorption bands are near zero by nature, and a handful of pixels tells nothing
        if band.unit not in REFLECTANCES or band.kind != "optical" or len(values) < 100:
            continue
        if band.common in ("watervapor", "cirrus"):
            continue
        sample = values[:: max(1, len(values) // 100_000)]
        dark.append(float(units.convert(torch.quantile(sample, _DARK), band.unit, "refl")))
    if len(dark) < 3:
        return []
    if min(dark) >= _OFFSET * 0.99 and any(b.sensor.startswith("sentinel-2") and b.unit == "refl_dn" for b in bands):
        return [
            f"the darkest 1 % of every band is {min(dark):.3f} reflectance or more: counts of baseline 04.00 and later "
            "carry 1000; declare refl_dn_off (all reflectances are 0.1 too high otherwise)"
        ]
    if max(dark) <= _BELOW_ZERO and any(b.unit == "refl_dn_off" for b in bands):
        return [
            f"the darkest 1 % of every band is {max(dark):.3f} reflectance or less: the offset of 1000 seems to have "
            "been taken away already; declare refl_dn"
        ]
    return []


def figures(prepared: Tensor, valid: Tensor, slots: Sequence[Band]) -> list[Figure]:
    """Mean and std over the valid pixels of each channel of ``prepared`` [..., M, H, W]."""
    found = []
    for c, slot in enumerate(slots):
        mask = valid[..., c, :, :]
        values = prepared[..., c, :, :][mask].double()
        mean = float(values.mean()) if len(values) else float("nan")
        std = float(values.std(correction=0)) if len(values) else float("nan")
        found.append(Figure(f"{slot.name} {slot.common}", mean, std, float(mask.double().mean())))
    return found


def out_of_range(rows: Sequence[Figure], skip: Sequence[int] = ()) -> list[str]:
    """A line a slot whose input is not of the size that networks are fed with: |mean| > 3 or std outside 0.1 .. 10."""
    lines = []
    for c, row in enumerate(rows):
        if c in skip:
            continue
        if row.share_valid == 0:
            lines.append(f"slot {row.slot}: no valid pixel")
        elif abs(row.mean) > _MEAN or not _STD[0] <= row.std <= _STD[1]:
            lines.append(
                f"slot {row.slot}: mean {row.mean:.3g}, std {row.std:.3g} after normalisation (expected |mean| <= 3, "
                "std 0.1 to 10): a wrong unit, or data that were normalised already?"
            )
    return lines
