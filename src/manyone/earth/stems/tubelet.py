"""Prithvi's stem (arXiv 2412.02732): tubelets of one date, positions in three dimensions, dates and places as terms.

    token + s_t concat(PE_{D/2}(year), PE_{D/2}(day of year)) + s_l concat(PE_{D/2}(lat), PE_{D/2}(lon))

s_t and s_l are learned from 0.1; what is not known has no term.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from manyone.earth.stems.positions import sincos, volume_positions
from manyone.errors import ManyoneError


class TubeletStem(nn.Module):
    """Tokens [B, T L, D], date after date, from [B, T, C, H, W]."""

    def __init__(self, bands: int, width: int, patch: int = 16) -> None:
        super().__init__()
        if width % 16:
            raise ManyoneError(f"width {width}: must be a multiple of 16")
        self.width = width
        self.project = nn.Conv3d(bands, width, (1, patch, patch), stride=(1, patch, patch))
        self.time_scale, self.place_scale = nn.Parameter(torch.tensor(0.1)), nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, days: Tensor | None = None, lonlat: Tensor | None = None) -> Tensor:
        """``days`` [B, T] since 1970-01-01 and ``lonlat`` [B, 2] in degrees; None: unknown."""
        cubes = self.project(x.transpose(1, 2))  # [B, D, T, h, w]
        frames, rows, columns = cubes.shape[2:]
        tokens = cubes.flatten(2).transpose(1, 2) + volume_positions(frames, rows, columns, self.width).to(x)
        if days is not None:
            dates = sincos(year_and_day(days).to(x.device), self.width // 2).flatten(-2)  # [B, T, D]
            tokens = tokens + self.time_scale * dates.to(x).repeat_interleave(rows * columns, dim=1)
        if lonlat is not None:
            place = sincos(lonlat.flip(-1), self.width // 2).flatten(-2)  # latitude first
            tokens = tokens + self.place_scale * place.to(x)[:, None]
        return tokens


def year_and_day(days: Tensor) -> Tensor:
    """(year, day of the year from 1) [..., 2] of days since 1970-01-01 [...]."""
    dates = np.floor(days.detach().cpu().double().numpy()).astype("datetime64[D]")
    years = dates.astype("datetime64[Y]")
    parts = np.stack([years.astype(int) + 1970, (dates - years).astype(int) + 1], axis=-1)
    return torch.from_numpy(parts.astype(np.float64))
