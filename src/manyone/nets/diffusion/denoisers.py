"""Denoisers without convolutions: perceptrons over a short sequence x [B, T, C] at a diffusion step, under a condition.

    MLPDenoiser           concat(x, condition, step) -> layers x [Linear, Mish] -> Linear
                          (Wang et al., "Diffusion Policies as an Expressive Policy Class", arXiv 2208.06193)
    ResidualMLPDenoiser   h = Linear(concat(x, step, condition)); layers x [h += Mish(Linear(LayerNorm(h)))];
                          Linear(Mish(h)) (ours)

The first may run under weights of many members at once, which is how many small diffusers train as one program.
Public names: :class:`MLPDenoiser`, :class:`ResidualMLPDenoiser`, :data:`Layout`.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Literal

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.nets.diffusion.activation import mish
from manyone.nets.diffusion.embedding import (
    ConditionEmbedding,
    StepEmbedding,
    check_condition,
    frequencies,
    sinusoids,
)
from manyone.nets.diffusion.initial import WIDEST, check_sizes, draw_weights
from manyone.nets.diffusion.process import Network
from manyone.nets.members import linear

Layout = Literal["flat", "per_step"]


class MLPDenoiser(nn.Module):
    """For x [B, T, C] with ``length`` T and ``channels`` C; ``condition`` is the width of what it is told (0: nothing).

    ``flat``: all T steps in one vector, the condition [B, D]; ``per_step``: each step on its own under shared weights,
    the condition [B, T, D]. ``embedding`` e: the step's vector, sinusoids -> 2 e -> Mish -> e.
    """

    def __init__(
        self,
        channels: int,
        length: int,
        condition: int = 0,
        *,
        layout: Layout = "flat",
        embedding: int = 16,
        width: int = 256,
        layers: int = 3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        if layout not in ("flat", "per_step"):
            raise ManyoneError(f"layout {layout!r}: must be flat or per_step")
        check_sizes(channels=(channels, 1, WIDEST), length=(length, 1, WIDEST), condition=(condition, 0, WIDEST),
                    embedding=(embedding, 4, WIDEST), width=(width, 1, WIDEST), layers=(layers, 1, 64))  # fmt: skip
        self._config = {"channels": channels, "length": length, "condition": condition, "layout": layout,
                        "embedding": embedding, "width": width, "layers": layers}  # fmt: skip
        self.condition, self.layout, self.embedding, self.layers = condition, layout, embedding, layers
        out = channels * (length if layout == "flat" else 1)
        sizes = [out + condition + embedding] + [width] * layers + [out]
        self.step = nn.ModuleList((nn.Linear(embedding, 2 * embedding), nn.Linear(2 * embedding, embedding)))
        self.body = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.register_buffer("frequency", frequencies(embedding), persistent=False)
        draw_weights(self, seed, "mlp denoiser")

    frequency: Tensor

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        return dict(self._config)

    def forward(self, x: Tensor, n: Tensor, condition: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """As x [B, T, C], for steps n int64 [B]; without condition in the rows that are not ``present`` (bool [B])."""
        return self.run(dict(self.named_parameters()), x, n, condition, present)

    def run(
        self,
        weights: Mapping[str, Tensor],
        x: Tensor,
        n: Tensor,
        condition: Tensor | None = None,
        present: Tensor | None = None,
    ) -> Tensor:
        """The same under ``weights``: parameters by name, plain or with a leading axis of m members.

        With members the rows lie one member after the other, B / m each.
        """
        check_condition(condition, self.condition)
        rows = x.flatten(1) if self.layout == "flat" else x
        if condition is None:
            condition = rows.new_zeros(*rows.shape[:-1], self.condition)
        elif present is not None:
            condition = condition * present.view(-1, *[1] * (condition.ndim - 1))
        step = self._step(weights, n)
        step = step if self.layout == "flat" else step.unsqueeze(1).expand(-1, x.shape[1], -1)
        h = torch.cat((rows, condition, step), -1)
        for place in range(self.layers):
            h = mish(_layer(weights, f"body.{place}", h))
        return _layer(weights, f"body.{self.layers}", h).view_as(x)

    def chain(self, weights: Mapping[str, Tensor], condition: Tensor | None, steps: int) -> Network:
        """:meth:`run` for the calls of one chain of up to ``steps`` diffusion steps, every row at the same step.

        The first layer is a sum over what it reads: the condition's share is computed once, the share of every step
        once, and a call only adds that of x. ``condition`` as in :meth:`run`; differentiable like it.
        """
        check_condition(condition, self.condition)
        weight, bias = weights["body.0.weight"], weights["body.0.bias"]
        own = weight.shape[-1] - self.condition - self.embedding
        by_x, by_condition, by_step = weight.split((own, self.condition, self.embedding), -1)
        members = len(weight) if weight.ndim == 3 else 1
        of_step = self._step(weights, torch.arange(steps + 1, device=weight.device).repeat(members))
        table = linear(of_step, by_step, bias).view(members, steps + 1, -1)
        given = None
        if condition is not None and self.condition:
            given = linear(condition, by_condition, torch.zeros_like(bias)).reshape(members, -1, bias.shape[-1])

        def network(x: Tensor, n: Tensor) -> Tensor:
            place = int(n[0])
            start = table[:, place : place + 1]
            start = start if given is None else start + given
            rows = x.reshape(members, -1, own)
            stacked = weight.ndim == 3
            h = torch.baddbmm(start, rows, by_x.mT) if stacked else torch.addmm(start[0], rows[0], by_x.mT)
            h = mish(h).view(-1, h.shape[-1])
            for place in range(1, self.layers):
                h = mish(_layer(weights, f"body.{place}", h))
            return _layer(weights, f"body.{self.layers}", h).view_as(x)

        return network

    def _step(self, weights: Mapping[str, Tensor], n: Tensor) -> Tensor:
        """The vectors of steps [R], [R, e]."""
        hidden = _layer(weights, "step.0", sinusoids(n, self.frequency.to(weights["step.0.weight"])))
        return _layer(weights, "step.1", mish(hidden))


class ResidualMLPDenoiser(nn.Module):
    """A residual perceptron over the flattened x [B, T, C]: ``layers`` blocks of ``width`` units.

    ``condition`` is the width of what it is told; where that is absent its embedding is zero.
    """

    def __init__(
        self,
        channels: int,
        horizon: int,
        condition: int = 1,
        *,
        width: int = 384,
        layers: int = 4,
        embedding: int = 64,
        seed: int = 0,
    ) -> None:
        super().__init__()
        check_sizes(channels=(channels, 1, WIDEST), horizon=(horizon, 1, WIDEST), condition=(condition, 1, WIDEST),
                    width=(width, 1, WIDEST), layers=(layers, 1, 64), embedding=(embedding, 4, WIDEST))  # fmt: skip
        self._config = {"channels": channels, "horizon": horizon, "condition": condition, "width": width,
                        "layers": layers, "embedding": embedding}  # fmt: skip
        self.step = StepEmbedding(embedding, 2 * embedding)
        self.told = ConditionEmbedding(condition, embedding)
        self.first = nn.Linear(horizon * channels + 2 * embedding, width)
        self.blocks = nn.ModuleList(nn.ModuleDict({"norm": _Norm(width), "linear": nn.Linear(width, width)})
                                    for _ in range(layers))  # fmt: skip
        self.last = nn.Linear(width, horizon * channels)
        draw_weights(self, seed, "residual denoiser")

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        return dict(self._config)

    def forward(self, x: Tensor, n: Tensor, condition: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """As x [B, T, C], for steps n int64 [B]; without condition in the rows that are not ``present`` (bool [B])."""
        told = self.told(condition, present, len(x))
        h = self.first(torch.cat((x.flatten(1), self.step(n), told), -1))
        for block in self.blocks:
            h = h + mish(block["linear"](block["norm"](h)))  # type: ignore[index]
        return self.last(mish(h)).view_as(x)


class _Norm(nn.Module):
    """LayerNorm, its parameters named as those of all norms here."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gain, self.shift = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """[..., width]"""
        return nn.functional.layer_norm(x, x.shape[-1:], self.gain, self.shift)


def _layer(weights: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    return linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])
