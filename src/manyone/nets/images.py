"""How raw images become the numbers that an encoder reads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def scaled(images: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Images in [0, 1]: uint8 is divided by 255, floating point is taken as it is."""
    return images.to(dtype) / 255 if images.dtype == torch.uint8 else images.to(dtype)


def normalised(images: Tensor, mean: Sequence[float], std: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Per channel (x - mean) / std of :func:`scaled` images [n, C, H, W]."""
    shape = (1, -1, 1, 1)
    centre = torch.tensor(mean, dtype=dtype, device=images.device).view(shape)
    spread = torch.tensor(std, dtype=dtype, device=images.device).view(shape)
    return (scaled(images, dtype) - centre) / spread
