"""SpectralGPT's tokens (arXiv 2311.07113): cubes of p x p pixels and three neighbouring bands.

Twelve bands give four spectral groups; for dense tasks the features of the groups are put side by side (4 D channels).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError

DEPTH = 3
"""Bands a token."""


class SpectralStem(nn.Module):
    """Tokens [B, G L, D], group after group, from [B, 3 G, H, W]; positions of place and of spectrum are learned."""

    def __init__(self, bands: int, width: int, patch: int, grid: int) -> None:
        super().__init__()
        if bands % DEPTH:
            raise ManyoneError(f"bands {bands}: must be a multiple of {DEPTH}")
        self.groups, self.grid = bands // DEPTH, grid
        self.project = nn.Conv3d(1, width, (DEPTH, patch, patch), stride=(DEPTH, patch, patch))
        self.place = nn.Parameter(torch.empty(grid * grid, width).normal_(std=0.02))
        self.spectrum = nn.Parameter(torch.empty(self.groups, width).normal_(std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        """Tokens with their positions."""
        cubes = self.project(x[:, None]).flatten(3).permute(0, 2, 3, 1)  # [B, G, L, D]
        if cubes.shape[1:3] != (self.groups, len(self.place)):
            wanted = f"[B, {DEPTH * self.groups}, H, W] of {self.grid} x {self.grid} patches"
            raise ManyoneError(f"x: shape {tuple(x.shape)}, must be {wanted}")
        return (cubes + self.place + self.spectrum[:, None]).flatten(1, 2)


def side_by_side(tokens: Tensor, groups: int) -> Tensor:
    """The map [B, G D, h, w] of tokens [B, G L, D] of a square grid."""
    batch, count, width = tokens.shape
    side = int((count // groups) ** 0.5)
    if groups * side * side != count:
        raise ManyoneError(f"tokens: {count} are not {groups} square grids")
    return tokens.reshape(batch, groups, side, side, width).permute(0, 1, 4, 2, 3).flatten(1, 2)
