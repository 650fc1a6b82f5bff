"""A residual MLP over small grey images: the smallest network with the block structure that merging needs.

x in R^784 -> Linear 128 -> GELU -> 4 x [x + fc2(GELU(fc1(LN x)))] -> LN -> feature in R^128.
Parameter names: ``stem``, ``blocks.N.norm``, ``blocks.N.mlp.fc1``, ``blocks.N.mlp.fc2``, ``norm``.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from manyone.nets.images import scaled
from manyone.nets.mlp import Mlp


class ResidualMlpBlock(nn.Module):
    """x + Mlp(LN x)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """[n, width] -> [n, width]."""
        return x + self.mlp(self.norm(x))


class ResMLP(nn.Module):
    """Encoder of flattened images: uint8 or float [n, ...] with ``inputs`` numbers each -> features [n, width]."""

    def __init__(self, inputs: int = 784, width: int = 128, hidden: int = 512, depth: int = 4) -> None:
        super().__init__()
        self.stem = nn.Linear(inputs, width)
        self.blocks = nn.ModuleList(ResidualMlpBlock(width, hidden) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def embed(self, images: Tensor) -> Tensor:
        """The part before the blocks, [n, ...] -> [n, width]; a fixed function where the stem is frozen."""
        return F.gelu(self.stem(scaled(images, self.stem.weight.dtype).flatten(1)))

    def encode(self, embedded: Tensor) -> Tensor:
        """The part after :meth:`embed`, [n, width] -> [n, width]."""
        for block in self.blocks:
            embedded = block(embedded)
        return self.norm(embedded)

    def forward(self, images: Tensor) -> Tensor:
        """Features [n, width]."""
        return self.encode(self.embed(images))
