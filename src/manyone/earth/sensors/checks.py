"""What makes a prepared input doubtful: means and spreads that networks are not fed with.

The public sweeps that these checks come from had 105 cells with a unit error (a model at chance), double
normalisations (20 points) and forgotten offsets; none was noticed by a program (rsfm.md 6).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from manyone.data.rasters.bands import Band

_MEAN, _STD = 3.0, (0.1, 10.0)


class Figure(NamedTuple):
    """Mean and standard deviation of one prepared slot."""

    slot: str
    mean: float
    std: float
    share_valid: float


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
