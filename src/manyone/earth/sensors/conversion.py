"""Units of pixels that are on a device: the same rules as ``manyone.data.rasters.units``, for tensors."""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.data.rasters.bands import Unit
from manyone.data.rasters.units import LEAST_POWER, affine


def convert(x: Tensor, source: Unit, target: Unit) -> Tensor:
    """``x`` of any shape in ``target``; ``ManyoneError`` where there is no way from one to the other."""
    if source == target:
        return x
    if (source, target) == ("linear_power", "db"):
        return 10 * torch.log10(x.clamp(min=LEAST_POWER))
    if (source, target) == ("db", "linear_power"):
        return 10 ** (x / 10)
    scale, shift = affine(source, target)
    return x * scale + shift
