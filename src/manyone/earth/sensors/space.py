"""From the pixels of a scene to a model's input size, and back (rsfm.md 2.2, step 6).

Images are resized bilinearly with antialiasing, over valid pixels only; targets by the nearest pixel. Larger scenes
are read by windows whose overlapping results are averaged. gsd_out = gsd_in H_in / H_out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from manyone.data.rasters.scenes import Window
from manyone.errors import ManyoneError


def resize(x: Tensor, valid: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """(pixels, valid) with the last two dimensions brought to ``size``; both [..., C, H, W].

    Invalid pixels do not reach their neighbours: pixels and mask are resized and divided. A result is valid where at
    least half of what it was made of is.
    """
    if x.shape[-2:] == (size, size):
        return x, valid
    flat, mask = x.reshape(-1, 1, *x.shape[-2:]), valid.reshape(-1, 1, *x.shape[-2:])
    shape = (*x.shape[:-2], size, size)
    if bool(mask.all()):
        return _bilinear(flat, size).reshape(shape), torch.ones(shape, dtype=torch.bool, device=x.device)
    share = _bilinear(mask.to(flat.dtype), size)
    summed = _bilinear(torch.where(mask, flat, torch.zeros_like(flat)), size)
    enough = share >= 0.5
    return torch.where(enough, summed / share.clamp(min=0.5), 0.0).reshape(shape), enough.reshape(shape)


def resize_target(target: Tensor, size: int) -> Tensor:
    """[..., size, size] of class numbers [..., H, W] by the nearest pixel: no class and no IGNORE is ever mixed."""
    flat = target.reshape(-1, 1, *target.shape[-2:])
    exact = F.interpolate(flat.double(), size=(size, size), mode="nearest-exact")
    return exact.to(target.dtype).reshape(*target.shape[:-2], size, size)


def crop(x: Tensor, size: int, generator: torch.Generator | None = None) -> Tensor:
    """The centre of the last two dimensions, or a place drawn with ``generator``."""
    height, width = x.shape[-2:]
    if size > min(height, width):
        raise ManyoneError(f"size {size}: a crop must fit into {height} x {width} pixels: use fit=resize")
    if generator is None:
        row, column = (height - size) // 2, (width - size) // 2
    else:
        row = int(torch.randint(height - size + 1, (1,), generator=generator))
        column = int(torch.randint(width - size + 1, (1,), generator=generator))
    return x[..., row : row + size, column : column + size]


def gsd_after(gsd_m: float | None, height_in: int, height_out: int) -> float | None:
    """Ground sampling distance after a resize."""
    return None if gsd_m is None else gsd_m * height_in / height_out


def windows(shape: tuple[int, int], size: int, stride: int) -> list[Window]:
    """Windows of ``size`` that cover ``shape`` completely; the last of a row or column is moved inside."""
    if not 1 <= stride <= size:
        raise ManyoneError(f"stride {stride}: must be from 1 to the size of a window, {size}")
    if size > min(shape):
        raise ManyoneError(f"size {size}: a window must fit into {shape[0]} x {shape[1]} pixels")
    starts = [[*range(0, length - size, stride), length - size] for length in shape]
    return [Window(row, column, size, size) for row in starts[0] for column in starts[1]]


def overlap_average(tiles: Sequence[Tensor], places: Sequence[Window], shape: tuple[int, int]) -> Tensor:
    """[D, H, W] from ``tiles`` [D, h, w] at ``places``, each pixel the mean of the windows that cover it."""
    if len(tiles) != len(places):
        raise ManyoneError(f"tiles: {len(tiles)} for {len(places)} windows: give one a window")
    total = torch.zeros(tiles[0].shape[0], *shape, dtype=tiles[0].dtype, device=tiles[0].device)
    count = torch.zeros(shape, dtype=tiles[0].dtype, device=tiles[0].device)
    for tile, at in zip(tiles, places, strict=True):
        total[:, at.row : at.row + at.height, at.column : at.column + at.width] += tile
        count[at.row : at.row + at.height, at.column : at.column + at.width] += 1
    if bool((count == 0).any()):
        raise ManyoneError("windows leave pixels uncovered: take a stride that is at most their size")
    return total / count


def _bilinear(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, size=(size, size), mode="bilinear", antialias=True, align_corners=False)
