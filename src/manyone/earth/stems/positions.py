"""Sin-cos positions in one, two and three dimensions, and in metres on the ground (Scale-MAE, arXiv 2212.14532).

    PE(v)_j = [sin(v ω_j), cos(v ω_j)],  ω_j = 10000^(-j / (D/2)): first all sines, then all cosines

Scale-MAE's position of token (i, j) is PE(r i) and PE(r j), half the width each, r = ground distance of a pixel / 1 m:
the same place on the ground has the same position at any resolution.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.errors import ManyoneError

TEMPERATURE = 10_000.0


def sincos(values: Tensor, width: int) -> Tensor:
    """PE of ``values`` [...]: float32 [..., width]; angles in float64, so that large values keep their phase."""
    if width % 2:
        raise ManyoneError(f"width {width}: sin-cos positions need an even width")
    omega = TEMPERATURE ** (-torch.arange(width // 2, dtype=torch.float64, device=values.device) / (width / 2))
    angles = values.double()[..., None] * omega
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def grid_positions(rows: int, columns: int, width: int, *, ratio: float = 1.0, cls: bool = False) -> Tensor:
    """Positions of a grid, float32 [rows * columns, width] row by row; with ``cls`` a first one of zeros.

    ``ratio``: metres a pixel (Scale-MAE's r); 1: counts of tokens. The first half of the width is the row.
    """
    if width % 4:
        raise ManyoneError(f"width {width}: positions in two dimensions need a multiple of 4")
    down = sincos(ratio * torch.arange(rows, dtype=torch.float64), width // 2)
    across = sincos(ratio * torch.arange(columns, dtype=torch.float64), width // 2)
    table = torch.cat(
        [down[:, None].expand(rows, columns, -1), across[None].expand(rows, columns, -1)], dim=-1
    ).reshape(rows * columns, width)
    return torch.cat([torch.zeros(1, width), table]) if cls else table


def volume_positions(frames: int, rows: int, columns: int, width: int) -> Tensor:
    """Positions of T x H x W tokens, float32 [T * H * W, width]: 6/16 column, 6/16 row and 4/16 date (Prithvi)."""
    if width % 16:
        raise ManyoneError(f"width {width}: positions in three dimensions need a multiple of 16")
    space, time = width // 16 * 6, width // 16 * 4
    shape = (frames, rows, columns, -1)
    across = sincos(torch.arange(columns), space)[None, None].expand(shape)
    down = sincos(torch.arange(rows), space)[None, :, None].expand(shape)
    dates = sincos(torch.arange(frames), time)[:, None, None].expand(shape)
    return torch.cat([across, down, dates], dim=-1).reshape(-1, width)
