"""CROMA's attention bias (arXiv 2311.00566): no positions, but attention that falls with distance.

bias_h(a, b) = -s_h |a - b|,   s_h = r^(h+1),   r = 2^(-2^-(log2 n_heads - 3))
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manyone.errors import ManyoneError


def head_slopes(heads: int) -> Tensor:
    """s_h, float64 [heads], strictly falling."""
    if heads < 1 or heads & (heads - 1):
        raise ManyoneError(f"heads {heads}: must be a power of 2")
    start = 2.0 ** -(2.0 ** -(math.log2(heads) - 3))
    return start ** torch.arange(1, heads + 1, dtype=torch.float64)


def distance_bias(rows: int, columns: int, heads: int) -> Tensor:
    """float32 [heads, L, L] for tokens of a grid row by row, to be added to the attention's scores."""
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    places = torch.stack([row.flatten(), column.flatten()], dim=1).double()
    apart = (places[:, None] - places[None]).square().sum(-1).sqrt()
    return (-head_slopes(heads)[:, None, None] * apart).float()
