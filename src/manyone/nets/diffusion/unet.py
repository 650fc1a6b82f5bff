"""A temporal U-Net that denoises plans: residual convolutions over the steps of a window at several resolutions.

Janner et al., "Planning with Diffusion for Flexible Behavior Synthesis" (arXiv 2205.09991, appendix C), with the return
as a second embedding as in Ajay et al., "Is Conditional Generative Modeling All You Need for Decision Making?" (arXiv
2211.15657). Level l has ``dim * multipliers[l]`` channels and half the steps of the one above::

    block  x -> h = mish(norm(conv_5 x)) + map(e);  mish(norm(conv_5 h)) + x (by a 1x1 map where widths differ)
    down   two blocks, a convolution of stride 2                    middle  two blocks
    up     beside the level's own output: two blocks, a transposed convolution of stride 2
    end    mish(norm(conv_5 x)), a 1x1 map

with e = mish(step, return) of 2 ``dim`` numbers. The maps of e of all blocks are one matrix. A window whose steps are
not a multiple of 2^levels loses the step that the way up has too many.
Public names: :class:`TemporalUNet`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.nets.diffusion.activation import mish
from manyone.nets.diffusion.embedding import ConditionEmbedding, StepEmbedding, check_condition
from manyone.nets.diffusion.initial import WIDEST, check_sizes, draw_weights
from manyone.nets.diffusion.temporal import conv_norm_mish, convolve, convolve_up


class TemporalUNet(nn.Module):
    """x [B, T, channels] -> the same, for any T; ``dim`` is even and a multiple of ``groups``.

    ``condition`` is the width of what it is told (a return, a return and a task; 0: nothing). Where that is absent its
    embedding is zero. Weights are drawn from ``seed``.
    """

    def __init__(
        self,
        channels: int,
        condition: int = 1,
        *,
        dim: int = 32,
        multipliers: Sequence[int] = (1, 2),
        kernel: int = 5,
        groups: int = 8,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(channels=(channels, 1, WIDEST), condition=(condition, 0, WIDEST), dim=(dim, 4, WIDEST),
                    kernel=(kernel, 1, 15), groups=(groups, 1, dim), levels=(len(multipliers), 1, 8))  # fmt: skip
        check_sizes(**{f"multipliers[{i}]": (m, 1, WIDEST // dim) for i, m in enumerate(multipliers)})
        if kernel % 2 == 0:
            raise ManyoneError(f"kernel = {kernel}: must be odd")
        if dim % groups or dim % 2:
            raise ManyoneError(f"dim = {dim}: must be even and a multiple of groups = {groups}")
        self._config = {"channels": channels, "condition": condition, "dim": dim, "multipliers": list(multipliers),
                        "kernel": kernel, "groups": groups}  # fmt: skip
        self.channels = channels
        widths = [dim * m for m in multipliers]
        self.step = StepEmbedding(dim, 4 * dim)
        self.told = ConditionEmbedding(condition, dim) if condition else None

        def pair(inputs: int, outputs: int) -> Pair:
            return Pair(inputs, outputs, kernel, groups)

        self.down = nn.ModuleList(pair(a, b) for a, b in pairwise((channels, *widths)))
        self.shorten = nn.ModuleList(Shorten(3, w, w) for w in widths[:-1])
        self.middle = pair(widths[-1], widths[-1])
        self.up = nn.ModuleList(pair(2 * b, a) for a, b in reversed(list(pairwise(widths))))
        self.lengthen = nn.ModuleList(Lengthen(4, w, w) for w in reversed(widths[:-1]))
        self.end = ConvNormMish(kernel, widths[0], widths[0], groups)
        self.out = nn.Linear(widths[0], channels)
        self.shares = [w for w in (*widths, widths[-1], *reversed(widths[:-1])) for _ in range(2)]
        self.embed = nn.Linear((2 if condition else 1) * dim, sum(self.shares))
        draw_weights(self, seed, "temporal u-net")

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        return dict(self._config)

    def forward(self, x: Tensor, n: Tensor, condition: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """As x [B, T, C], for steps n int64 [B]; without condition in the rows that are not ``present`` (bool [B])."""
        if x.shape[-1] != self.channels:
            raise ManyoneError(f"x has {x.shape[-1]} channels: this network was built for {self.channels}")
        known = self.step(n)
        if self.told is not None:
            known = torch.cat((known, self.told(condition, present, len(x))), -1)
        elif condition is not None:
            check_condition(condition, 0)
        vectors = iter(self.embed(mish(known)).unsqueeze(1).split(self.shares, -1))
        kept: list[Tensor] = []
        for level, pair in enumerate(self.down):
            x = pair(x, vectors)
            kept.append(x)
            x = self.shorten[level](x) if level < len(self.shorten) else x
        x = self.middle(x, vectors)
        for pair, lengthen in zip(self.up, self.lengthen, strict=True):
            x = lengthen(pair(torch.cat((x, kept.pop()), -1), vectors))
            x = x[:, : kept[-1].shape[1]]
        return self.out(self.end(x))


class Kernel(nn.Module):
    """Weight [k, C, O] and bias [O] of a convolution."""

    def __init__(self, taps: int, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(taps, inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))


class Shorten(Kernel):
    """Every second step: [B, T, C] -> [B, ceil(T / 2), C]."""

    def forward(self, x: Tensor) -> Tensor:
        """The convolution of stride 2."""
        return convolve(x, self.weight, self.bias, stride=2)


class Lengthen(Kernel):
    """Twice the steps: [B, T, C] -> [B, 2 T, C]."""

    def forward(self, x: Tensor) -> Tensor:
        """The transposed convolution of stride 2."""
        return convolve_up(x, self.weight, self.bias)


class ConvNormMish(Kernel):
    """The parameters of :func:`~manyone.nets.diffusion.temporal.conv_norm_mish`."""

    def __init__(self, taps: int, inputs: int, outputs: int, groups: int) -> None:
        super().__init__(taps, inputs, outputs)
        self.groups = groups
        self.gain, self.shift = nn.Parameter(torch.empty(outputs)), nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor, plus: Tensor | None = None) -> Tensor:
        """[B, T, C] -> [B, T, O], and ``plus`` added to it."""
        return conv_norm_mish(x, self.weight, self.bias, self.gain, self.shift, self.groups, plus)


class ResidualBlock(nn.Module):
    """Two convolutions, a vector added after the first, and the way around them."""

    def __init__(self, inputs: int, outputs: int, taps: int, groups: int) -> None:
        super().__init__()
        self.first = ConvNormMish(taps, inputs, outputs, groups)
        self.second = ConvNormMish(taps, outputs, outputs, groups)
        self.around = nn.Linear(inputs, outputs) if inputs != outputs else None

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """x [B, T, C] and vector [B, 1, O] -> [B, T, O]."""
        return self.second(self.first(x, vector), x if self.around is None else self.around(x))


class Pair(nn.Module):
    """The two blocks of a level."""

    def __init__(self, inputs: int, outputs: int, taps: int, groups: int) -> None:
        super().__init__()
        self.first = ResidualBlock(inputs, outputs, taps, groups)
        self.second = ResidualBlock(outputs, outputs, taps, groups)

    def forward(self, x: Tensor, vectors: Iterator[Tensor]) -> Tensor:
        """Takes the next two of ``vectors``."""
        return self.second(self.first(x, next(vectors)), next(vectors))
