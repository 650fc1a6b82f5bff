"""Clay's stem (v1.5): kernels by wavelength as in DOFA, and positions that carry scale, time and place.

position = concat(PE 2D of width D - 8 in metres, sin/cos of week, hour, latitude and longitude)
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.earth.stems.dynamic import CODE, KernelWriter, check_wavelengths
from manyone.earth.stems.fixed import as_tokens
from manyone.earth.stems.positions import grid_positions, sincos
from manyone.errors import ManyoneError

_FACTS = 8


class ClayStem(nn.Module):
    """Tokens [B, L, D] from any bands, their wavelengths, and when and where they were taken."""

    def __init__(self, width: int, patch: int = 8) -> None:
        super().__init__()
        if width <= _FACTS or (width - _FACTS) % 4:
            raise ManyoneError(f"width {width}: must be 8 more than a multiple of 4")
        self.width = width
        self.writer = KernelWriter(width, patch)

    def forward(
        self, x: Tensor, wavelengths_nm: Tensor, gsd_m: float, days: Tensor | None = None, lonlat: Tensor | None = None
    ) -> Tensor:
        """``days`` [B] since 1970-01-01, the fraction being the hour; ``lonlat`` [B, 2]; what is unknown is 0."""
        check_wavelengths(x, wavelengths_nm)
        kernel, bias = self.writer(sincos(wavelengths_nm, CODE).to(x))
        maps = F.conv2d(x, kernel, bias, stride=self.writer.patch)
        rows, columns = maps.shape[-2:]
        place = grid_positions(rows, columns, self.width - _FACTS, ratio=gsd_m).to(x)
        facts = acquisition(len(x), days, lonlat).to(x)
        length = len(place)
        both = torch.cat([place.expand(len(x), -1, -1), facts[:, None].expand(-1, length, -1)], dim=-1)
        return as_tokens(maps) + both


def acquisition(batch: int, days: Tensor | None, lonlat: Tensor | None) -> Tensor:
    """[B, 8]: sin and cos of week, hour, latitude and longitude; zeros for what is not known."""
    if days is None:
        time = torch.zeros(batch, 4)
    else:
        year = 365.25 / 7  # weeks
        week, hour = (days.double() / 7).floor() % year / year, days.double() % 1
        angles = [2 * math.pi * week, 2 * math.pi * hour]
        time = torch.cat([torch.stack([a.sin(), a.cos()], -1) for a in angles], -1).float()
    if lonlat is None:
        place = torch.zeros(batch, 4)
    else:
        lon, lat = (lonlat.double() * (math.pi / 180)).unbind(-1)
        place = torch.stack([lat.sin(), lat.cos(), lon.sin(), lon.cos()], -1).float()
    return torch.cat([time.cpu(), place.cpu()], dim=-1)
