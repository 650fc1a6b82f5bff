"""What encoders ask of their input, and how feature maps become one vector an image.

Public names: :func:`images`, :func:`channels`, :func:`pooled`, :func:`padded`, :func:`weights_digest`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from manyone.data.rasters.bands import Band
from manyone.earth.spec import Pooling
from manyone.errors import ManyoneError


def images(pixels: Tensor, encoder: str) -> Tensor:
    """``pixels`` as [B, C, H, W]; one date [B, 1, C, H, W] is taken, several are refused."""
    if pixels.ndim == 5 and pixels.shape[1] == 1:
        pixels = pixels[:, 0]
    if pixels.ndim != 4 or not pixels.is_floating_point():
        raise ManyoneError(
            f"pixels of shape {list(pixels.shape)}, {pixels.dtype}: {encoder} takes floats [B, C, H, W]; "
            "encode several dates one by one"
        )
    return pixels


def channels(bands: tuple[Band, ...] | None, encoder: str) -> int:
    """The number of bands that ``encoder`` is made for."""
    if not bands:
        raise ManyoneError(f"bands = {bands!r}: {encoder} is made for certain bands: name them")
    return len(bands)


def pooled(maps: Tensor) -> dict[Pooling, Tensor]:
    """Mean and maximum over the cells of a map, [B, D, h, w] -> [B, D] each."""
    cells = maps.flatten(2)
    return {"mean": cells.mean(2), "max": cells.amax(2)}


def padded(pixels: Tensor, patch: int) -> Tensor:
    """``pixels`` [B, C, H, W] with their last rows and columns repeated up to a multiple of ``patch``."""
    down, right = -pixels.shape[2] % patch, -pixels.shape[3] % patch
    return F.pad(pixels, (0, right, 0, down), mode="replicate") if down or right else pixels


def weights_digest(settings: Mapping[str, Any], tensors: Iterable[tuple[str, Tensor]] = ()) -> str:
    """SHA-256 of JSON settings and named tensors, in whichever order they come."""
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, tensor in sorted(tensors, key=lambda pair: pair[0]):
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"\0{name} {list(plain.shape)} {plain.dtype}\0".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data if plain.numel() else b"")
    return digest.hexdigest()
