"""SatMAE's tokens by groups of bands (arXiv 2207.08051): one projection a group, G L tokens.

    position = concat(PE 2D of width D - d_c, PE of the group of width d_c)
    temporal variant: PE of year, month and hour in place of the group's

Ten bands of Sentinel-2 in three groups: B2 B3 B4 B8, B5 B6 B7 B8A, B11 B12; B1, B9 and B10 are dropped.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from manyone.earth.stems.fixed import as_tokens
from manyone.earth.stems.positions import grid_positions, sincos
from manyone.errors import ManyoneError

GROUPS = (4, 4, 2)
"""Bands a group, in the order B2 B3 B4 B8 | B5 B6 B7 B8A | B11 B12."""


class GroupStem(nn.Module):
    """Tokens [B, G L, D], group after group, from [B, C, H, W] with C = sum(groups)."""

    def __init__(self, width: int, patch: int, *, groups: Sequence[int] = GROUPS, group_width: int = 256) -> None:
        super().__init__()
        if group_width % 2 or (width - group_width) % 4 or width <= group_width:
            raise ManyoneError(f"group_width {group_width}: must be even, and leave a multiple of 4 of width {width}")
        self.groups, self.group_width, self.width = tuple(groups), group_width, width
        self.project = nn.ModuleList(nn.Conv2d(bands, width, patch, stride=patch) for bands in groups)

    def forward(self, x: Tensor) -> Tensor:
        """Tokens with their positions."""
        if x.shape[1] != sum(self.groups):
            raise ManyoneError(f"x: {x.shape[1]} bands, must be {sum(self.groups)} in groups of {self.groups}")
        parts = [project(part) for project, part in zip(self.project, x.split(self.groups, dim=1), strict=True)]
        rows, columns = parts[0].shape[-2:]
        place = grid_positions(rows, columns, self.width - self.group_width).to(x)
        kinds = sincos(torch.arange(len(self.groups)), self.group_width).to(x)
        tokens = [
            as_tokens(part) + torch.cat([place, kind.expand(len(place), -1)], dim=-1)
            for part, kind in zip(parts, kinds, strict=True)
        ]
        return torch.cat(tokens, dim=1)


def date_positions(dates: Tensor, width: int) -> Tensor:
    """PE of year, month and hour [..., 3], ``width`` each: [..., 3 * width] (the temporal variant)."""
    return sincos(dates, width).flatten(-2)


def keep_random(
    groups: int, length: int, ratio: float, *, same: bool = False, generator: torch.Generator | None = None
) -> Tensor:
    """Which of G L tokens are kept in pre-training: bool [G, L], floor(L (1 - ratio)) a group where ``same``
    (the same places in all groups), else floor(G L (1 - ratio)) in all, each token for itself."""
    if not 0 <= ratio < 1:
        raise ManyoneError(f"ratio {ratio}: must be from 0 to below 1")
    count = length if same else groups * length
    kept = torch.zeros(count, dtype=torch.bool)
    kept[torch.randperm(count, generator=generator)[: int(count * (1 - ratio))]] = True
    return kept.expand(groups, length) if same else kept.reshape(groups, length)
