"""The reverse chain of a perceptron of prompts with its gradient by hand: every weight's gradient in one product.

Through N steps autograd makes, for every weight matrix, N small gradients and adds them up: as much traffic over memory
as arithmetic, and all of it again for each member of a stack. Here the chain goes forward without a graph, keeps what
each layer saw, goes back step by step, and multiplies once a layer over all steps:

    z_l = W_l h_{l-1} + b_l,  h_l = mish(z_l),  out = W_L h_{L-1} + b_L                  step n of x
    x_0 = clip(a x + b out),  x' = c x_0 + e x + f out + s noise                         coefficients
    dW_l = sum over steps and rows of (dz_l h_{l-1}^T)                                   one product of all of them

The sampler's steps are those of :func:`manyone.nets.diffusion.sampling.sample` for ddpm and ddim (eta 0); the first
layer's part of condition and step is a sum that comes ready made, with a gradient of its own.
Public names: :func:`guided_chain`, :func:`coefficients`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from manyone.nets.diffusion.activation import mish_with_slope
from manyone.nets.diffusion.process import Prediction
from manyone.nets.diffusion.schedules import Schedule


class Coefficients(NamedTuple):
    """Of one reverse step; see the module's description."""

    a: float
    b: float
    c: float
    e: float
    f: float
    s: float


def coefficients(schedule: Schedule, prediction: Prediction, sampler: str) -> list[Coefficients]:
    """Those of the steps N, N - 1, ..., 1 of ``sampler`` ddpm or ddim."""
    bars = schedule.alpha_bar.tolist()
    found = []
    for n in range(schedule.steps, 0, -1):
        bar, after = bars[n], bars[n - 1]
        signal, spread = math.sqrt(bar), math.sqrt(1 - bar)
        a, b = {"noise": (1 / signal, -spread / signal), "data": (0.0, 1.0), "velocity": (signal, -spread)}[prediction]
        # the noise is the network's own, also where x_0 is clipped
        to_x, to_out = {"noise": (0.0, 1.0), "data": (1 / spread, -signal / spread), "velocity": (spread, signal)}[
            prediction
        ]
        if n == 1:
            found.append(Coefficients(a, b, 1.0, 0.0, 0.0, 0.0))
        elif sampler == "ddim":
            left = math.sqrt(1 - after)
            found.append(Coefficients(a, b, math.sqrt(after), left * to_x, left * to_out, 0.0))
        else:
            alpha = bar / after
            c, e = math.sqrt(after) * (1 - alpha) / (1 - bar), math.sqrt(alpha) * (1 - after) / (1 - bar)
            found.append(Coefficients(a, b, c, e, 0.0, math.sqrt((1 - alpha) * (1 - after) / (1 - bar))))
    return found


def guided_chain(
    noise: Tensor, told: Tensor, weights: Sequence[tuple[Tensor, Tensor]], limits: tuple[Tensor, Tensor],
    steps: Sequence[Coefficients],
) -> Tensor:  # fmt: skip
    """x^0 [m, R, D] by the chain of ``steps`` from ``noise`` [N, m, R, D]: x^N, then the noise of each step.

    ``told`` [N, m, R or 1, H]: what condition, step and bias add to the first layer. ``weights``: that layer's over x,
    [m, H, D], with an empty bias, then the others', [m, O, I] and [m, O]. ``limits`` [m, 1, D] each. Gradients reach
    ``told`` and ``weights``.
    """
    flat = [part for pair in weights for part in pair]
    return _Chain.apply(noise, told, limits[0], limits[1], tuple(steps), *flat)  # type: ignore[no-untyped-call]


class _Chain(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, noise: Tensor, told: Tensor, low: Tensor, high: Tensor, steps: Any, *flat: Tensor) -> Tensor:
        pairs = list(zip(flat[::2], flat[1::2]))
        x, seen = noise[0], []
        for k, by in enumerate(steps):
            hidden, slopes, h = [x], [], x
            for place, (weight, bias) in enumerate(pairs[:-1]):
                z = torch.bmm(h, weight.mT)
                z += told[k] if place == 0 else bias.unsqueeze(1)
                h, slope = mish_with_slope(z)
                hidden.append(h)
                slopes.append(slope)
            out = torch.baddbmm(pairs[-1][1].unsqueeze(1), h, pairs[-1][0].mT)
            raw = by.a * x + by.b * out
            inside = (raw > low) & (raw < high)
            after = by.c * torch.minimum(torch.maximum(raw, low), high)
            if by.e:
                after += by.e * x
            if by.f:
                after += by.f * out
            if by.s:
                after += by.s * noise[k + 1]
            seen.append((hidden, slopes, inside))
            x = after
        ctx.save_for_backward(*flat)
        ctx.seen, ctx.steps, ctx.shared = seen, steps, told.shape[2] == 1
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        flat = ctx.saved_tensors
        pairs, layers = list(zip(flat[::2], flat[1::2])), len(flat) // 2
        deltas: list[list[Tensor]] = [[] for _ in range(layers)]
        for (_, slopes, inside), by in zip(reversed(ctx.seen), reversed(ctx.steps)):
            through = gradient * inside
            delta = (by.c * by.b) * through
            if by.f:
                delta += by.f * gradient
            before = (by.c * by.a) * through
            if by.e:
                before += by.e * gradient
            for place in range(layers - 1, -1, -1):
                deltas[place].append(delta)
                delta = torch.bmm(delta, pairs[place][0])
                if place:
                    delta.mul_(slopes[place - 1])
            gradient = before + delta
        grads: list[Tensor | None] = []
        for place in range(layers):
            each = torch.cat(deltas[place][::-1], 1)  # [m, N R, O]
            inputs = torch.cat([hidden[place] for hidden, _, _ in ctx.seen], 1)
            grads += [torch.bmm(each.mT, inputs), each.sum(1) if place else None]
        told = torch.stack(deltas[0][::-1])
        return (None, told.sum(2, keepdim=True) if ctx.shared else told, None, None, None, *grads)
