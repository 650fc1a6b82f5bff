"""Tokens of (place, date, group of channels) as in Presto, Galileo and AnySat (arXiv 2304.14065, 2502.09356
and 2412.14123).

    token = W_g patch_g + e_g + PE(place in metres) + PE(month) + W_l xyz(lon, lat)

A group that is absent is not tokenised: nothing stands in for it. AnySat's patches are a size in metres.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from manyone.earth.stems.positions import grid_positions, sincos
from manyone.errors import ManyoneError


@dataclass(frozen=True)
class Tokens:
    """A sequence and what each of its tokens is."""

    values: Tensor
    """[B, N, D]."""
    group: Tensor
    """int64 [N], position among the stem's groups."""
    date: Tensor
    """int64 [N]."""
    place: Tensor
    """int64 [N], row by row."""


class SpaceTimeStem(nn.Module):
    """Groups of channels, each with a linear projection of its own."""

    def __init__(self, groups: Mapping[str, int], width: int, patch: int) -> None:
        super().__init__()
        self.names, self.patch, self.width = tuple(groups), patch, width
        self.project = nn.ModuleDict({n: nn.Conv2d(c, width, patch, stride=patch) for n, c in groups.items()})
        self.kind = nn.ParameterDict({n: nn.Parameter(torch.empty(width).normal_(std=0.02)) for n in groups})
        self.location = nn.Linear(3, width)

    def forward(
        self,
        groups: Mapping[str, Tensor],
        *,
        months: Tensor | None = None,
        lonlat: Tensor | None = None,
        gsd_m: float = 1.0,
    ) -> Tokens:
        """``groups``: name -> [B, T, C, H, W], those that there are; ``months`` [B, T] from 0; ``lonlat`` [B, 2]."""
        if odd := [name for name in groups if name not in self.project]:
            raise ManyoneError(f"group {odd[0]!r}: must be one of {', '.join(self.names)}")
        if not groups:
            raise ManyoneError("groups: there is none")
        values, group, date, place = [], [], [], []
        for number, name in enumerate(self.names):
            if name not in groups:
                continue
            x = groups[name]
            batch, frames = x.shape[:2]
            maps = self.project[name](x.flatten(0, 1))
            rows, columns = maps.shape[-2:]
            grid = grid_positions(rows, columns, self.width, ratio=gsd_m * self.patch).to(x)
            tokens = maps.flatten(2).transpose(1, 2).unflatten(0, (batch, frames)) + grid + self.kind[name]
            if months is not None:
                tokens = tokens + sincos(months, self.width).to(x)[:, :, None]
            if lonlat is not None:
                tokens = tokens + self.location(xyz(lonlat).to(x))[:, None, None]
            values.append(tokens.flatten(1, 2))
            length = tokens.shape[2]
            group.append(torch.full((frames * length,), number))
            date.append(torch.arange(frames).repeat_interleave(length))
            place.append(torch.arange(length).repeat(frames))
        return Tokens(torch.cat(values, 1), torch.cat(group), torch.cat(date), torch.cat(place))


def xyz(lonlat: Tensor) -> Tensor:
    """Points of the unit sphere [..., 3] of longitudes and latitudes [..., 2] in degrees."""
    lon, lat = (lonlat * (math.pi / 180)).unbind(-1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=-1)


def patch_pixels(metres: float, gsd_m: float, sides: Sequence[int]) -> int:
    """Pixels a side of a patch of ``metres`` (AnySat); ``ManyoneError`` where it does not divide the ``sides``."""
    pixels = round(metres / gsd_m)
    if pixels < 1 or abs(pixels * gsd_m - metres) > 1e-6 * metres or any(side % pixels for side in sides):
        raise ManyoneError(f"patch of {metres} m: must be whole pixels of {gsd_m} m that divide {list(sides)}")
    return pixels
