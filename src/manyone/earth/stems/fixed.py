"""A convolution over bands in one fixed order, and what becomes of it when some are missing (SSL4EO, Satlas, CLIP).

A missing band can be 0 after normalisation, or its channels of the kernel be left out: the two are the same sum.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError


class FixedStem(nn.Module):
    """Conv2d(C, D, p, p): tokens [B, L, D] from [B, C, H, W]."""

    def __init__(self, bands: int, width: int, patch: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(bands, width, patch, stride=patch)

    def forward(self, x: Tensor) -> Tensor:
        """[B, L, D]."""
        return as_tokens(self.project(x))


def as_tokens(maps: Tensor) -> Tensor:
    """[B, D, h, w] -> [B, h w, D]."""
    return maps.flatten(2).transpose(1, 2)


def slice_weight(weight: Tensor, kept: Sequence[int], *, rescale: bool = False) -> Tensor:
    """The kernel [D, C, ...] for the bands ``kept`` alone, in their order.

    ``rescale`` multiplies by C / |kept|, so that the sum keeps its size where bands are much alike.
    """
    bands = weight.shape[1]
    if not kept or min(kept) < 0 or max(kept) >= bands or len(set(kept)) != len(kept):
        raise ManyoneError(f"kept {list(kept)}: must be different positions from 0 to {bands - 1}")
    part = weight[:, list(kept)]
    return part * (bands / len(kept)) if rescale else part


def sliced(stem: FixedStem, kept: Sequence[int], *, rescale: bool = False) -> FixedStem:
    """A stem for the bands ``kept``, with the weights of ``stem``."""
    old = stem.project
    made = FixedStem(len(kept), old.out_channels, old.kernel_size[0]).to(old.weight)
    with torch.no_grad():
        made.project.weight.copy_(slice_weight(old.weight, kept, rescale=rescale))
        if old.bias is not None and made.project.bias is not None:
            made.project.bias.copy_(old.bias)
    return made
