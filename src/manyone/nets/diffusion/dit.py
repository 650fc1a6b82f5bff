"""A diffusion transformer over the steps of a window, modulated by the diffusion step and the condition.

Peebles and Xie, "Scalable Diffusion Models with Transformers" (arXiv 2212.09748, section 3.2, adaLN-Zero)::

    e = silu(step(n) + told(condition)),  (b1, s1, g1, b2, s2, g2) = map(e) of each block
    h <- h + g1 attention((1 + s1) norm(h) + b1);  h <- h + g2 mlp((1 + s2) norm(h) + b2)

A token is a step of the window, its place a sinusoid. The maps of all blocks are one matrix, which starts at 0 as the
last layer does: a fresh block is the identity, a fresh network gives 0.
Public names: :class:`DiT`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.nets.diffusion.embedding import (
    ConditionEmbedding,
    StepEmbedding,
    check_condition,
    frequencies,
    sinusoids,
)
from manyone.nets.diffusion.initial import WIDEST, check_sizes, draw_weights


class DiT(nn.Module):
    """x [B, T, channels] -> the same, for any T; ``width`` is even and a multiple of ``heads``.

    ``condition`` is the width of what it is told (0: nothing). Where that is absent its embedding is zero. Weights are
    drawn from ``seed``.
    """

    frequency: Tensor

    def __init__(
        self,
        channels: int,
        condition: int = 1,
        *,
        width: int = 128,
        layers: int = 4,
        heads: int = 4,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(channels=(channels, 1, WIDEST), condition=(condition, 0, WIDEST), width=(width, 4, WIDEST),
                    layers=(layers, 1, 64), heads=(heads, 1, width))  # fmt: skip
        if width % heads or width % 2:
            raise ManyoneError(f"width = {width}: must be even and a multiple of heads = {heads}")
        self._config = {"channels": channels, "condition": condition, "width": width, "layers": layers, "heads": heads}
        self.channels, self.width = channels, width
        self.register_buffer("frequency", frequencies(width), persistent=False)
        self.step = StepEmbedding(width, 4 * width)
        self.told = ConditionEmbedding(condition, width) if condition else None
        self.first = nn.Linear(channels, width)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
        self.modulate = nn.Linear(width, (6 * layers + 2) * width)
        self.last = nn.Linear(width, channels)
        draw_weights(self, seed, "dit", zero=("modulate.", "last."))

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        return dict(self._config)

    def forward(self, x: Tensor, n: Tensor, condition: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """As x [B, T, C], for steps n int64 [B]; without condition in the rows that are not ``present`` (bool [B])."""
        if x.shape[-1] != self.channels:
            raise ManyoneError(f"x has {x.shape[-1]} channels: this network was built for {self.channels}")
        known = self.step(n)
        if self.told is not None:
            known = known + self.told(condition, present, len(x))
        elif condition is not None:
            check_condition(condition, 0)
        vectors = self.modulate(F.silu(known)).unsqueeze(1).split(self.width, -1)
        h = self.first(x) + sinusoids(torch.arange(x.shape[1], device=x.device), self.frequency)
        for number, block in enumerate(self.blocks):
            h = block(h, vectors[6 * number : 6 * number + 6])
        return self.last(_modulated(h, *vectors[-2:]))


class Block(nn.Module):
    """Attention and a perceptron of four times the width, both modulated."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.project = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.narrow = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, h: Tensor, vectors: tuple[Tensor, ...]) -> Tensor:
        """h [B, T, E] under six vectors [B, 1, E]."""
        shift1, scale1, gate1, shift2, scale2, gate2 = vectors
        q, k, v = self.qkv(_modulated(h, shift1, scale1)).unflatten(-1, (3, self.heads, -1)).transpose(1, 3).unbind(2)
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        h = torch.addcmul(h, gate1, self.project(mixed))
        inner = F.gelu(self.wide(_modulated(h, shift2, scale2)), approximate="tanh")
        return torch.addcmul(h, gate2, self.narrow(inner))


def _modulated(h: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    return torch.addcmul(shift, F.layer_norm(h, h.shape[-1:], eps=1e-6), 1 + scale)
