"""Convolutions over the steps of short windows [B, T, C] as one matrix product each, forward and backward.

Planners look at windows of a few steps with many channels, which libraries' convolutions are not made for: one row of 8
steps and 32 channels is nothing but overhead, and at 2 steps of 1,024 channels the gradients take four times what their
products do. Here the neighbours of every step are laid side by side (:func:`_gather`) and multiplied by
the kernel [k, C, O] as one matrix [k C, O]; the transposed convolution is the adjoint (:func:`_scatter`). Taps that
reach over both ends of the window from every step are left out: at T = 2 three of five stay.

:func:`conv_norm_mish` is the planners' block, convolution -> GroupNorm -> Mish, as one function with a gradient of its
own. On other devices, in other types and under autocast the library's functions compute the same. Once differentiable.
Public names: :func:`conv_norm_mish`, :func:`convolve`, :func:`convolve_up`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from manyone.nets.diffusion.activation import is_plain, mish, mish_with_slope

_EPS = 1e-5  # of GroupNorm, as everywhere
_VECTOR = 8  # steps below which the library's gradient of GroupNorm goes entry by entry


def conv_norm_mish(
    x: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, shift: Tensor, groups: int, plus: Tensor | None = None
) -> Tensor:
    """mish(GroupNorm(x * weight + bias)) + plus, of x [B, T, C]: [B, T, O].

    ``weight`` [k, C, O] with k odd, the window padded with k // 2 zeros at both ends; ``plus`` [B, T or 1, O]; the
    others [O].
    """
    if is_plain(x) and torch.is_grad_enabled():
        return _Block.apply(x, weight, bias, gain, shift, groups, plus)  # type: ignore[no-untyped-call]
    before = _product(x, weight, bias, 1) if is_plain(x) else _library(x, weight, bias, 1)
    found = mish(F.group_norm(before.mT, groups, gain, shift, _EPS)).mT
    return found if plus is None else found + plus


def convolve(x: Tensor, weight: Tensor, bias: Tensor, stride: int = 1) -> Tensor:
    """x [B, T, C] * weight [k, C, O] + bias [O] at each ``stride``-th step, padded alike: [B, ceil(T / stride), O]."""
    if is_plain(x):
        return _Convolution.apply(x, weight, bias, stride)  # type: ignore[no-untyped-call]
    return _library(x, weight, bias, stride)


def convolve_up(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The transposed convolution of stride 2: x [B, T, C] by weight [4, O, C] plus bias [O]: [B, 2 T, O]."""
    if is_plain(x):
        return _Up.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return F.conv_transpose1d(x.mT, weight.permute(2, 1, 0), bias, stride=2, padding=1).mT


def _library(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    return F.conv1d(x.mT, weight.permute(2, 1, 0), bias, stride=stride, padding=weight.shape[0] // 2).mT


def _gather(x: Tensor, taps: int, before: int, stride: int, count: int) -> Tensor:
    """What each of ``count`` outputs sees: entry (t, j) is x at step t * stride + j - before. [B count, taps C]."""
    rows, steps, width = x.shape
    length = (count - 1) * stride + taps
    if taps > 1 or stride > 1:
        x = F.pad(x, (0, 0, before, length - before - steps))
        x = x.as_strided((rows, count, taps * width), (length * width, stride * width, 1))
    return x.reshape(rows * count, taps * width)


def _scatter(parts: Tensor, before: int, stride: int, steps: int) -> Tensor:
    """The adjoint of :func:`_gather`: adds entry (t, j) of parts [B, count, taps, C] at step t stride + j - before."""
    rows, count, taps, width = parts.shape
    reach = (count - 1) * stride + 1
    padded = parts.new_zeros(rows, max(reach - 1 + taps, before + steps), width)
    for j, part in enumerate(parts.unbind(2)):
        padded[:, j : j + reach : stride].add_(part)
    return padded[:, before : before + steps]


def _used(weight: Tensor, steps: int, stride: int) -> tuple[Tensor, int, int, int]:
    """The kernel's taps that meet the window from any output, the first of them, the zeros before the window, and the
    number of outputs."""
    taps = len(weight)
    half, count = taps // 2, (steps - 1) // stride + 1
    first, end = max(0, half - (count - 1) * stride), min(taps, half + steps)
    return (weight if end - first == taps else weight[first:end]), first, half - first, count


def _product(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
    """The convolution, [B, count, O]."""
    kernel, _, before, count = _used(weight, x.shape[1], stride)
    columns = _gather(x, len(kernel), before, stride, count)
    return torch.addmm(bias, columns, kernel.view(-1, kernel.shape[2])).view(len(x), count, -1)


def _product_gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, stride: int, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """Gradients of x, weight and bias from that of the convolution, contiguous [B, count, O]."""
    kernel, first, before, count = _used(weight, x.shape[1], stride)
    taps, width, outputs = kernel.shape
    flat = gradient.view(-1, outputs)
    by_x = by_weight = None
    if wanted[0] and stride == 1 and outputs <= len(flat):  # the kernel is smaller than what would be scattered
        mirrored = kernel.flip(0).mT.reshape(taps * outputs, width)
        by_x = (_gather(gradient, taps, before, 1, count) @ mirrored).view(x.shape)
    elif wanted[0]:
        by_x = _scatter(
            (flat @ kernel.view(-1, outputs).T).view(len(x), count, taps, width), before, stride, x.shape[1]
        )
    if wanted[1]:  # neighbours are gathered anew: k times x would be read from far away, and k times less lies near
        columns = _gather(x, taps, before, stride, count)
        if taps == len(weight):
            by_weight = (columns.T @ flat).view(weight.shape)
        else:
            by_weight = torch.zeros_like(weight)
            torch.mm(columns.T, flat, out=by_weight[first : first + taps].view(-1, outputs))
    return by_x, by_weight, flat.sum(0) if wanted[2] else None


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return _product(x, weight, bias, stride)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wanted = ctx.needs_input_grad[:3]
        return (*_product_gradients(gradient.contiguous(), x, weight, ctx.stride, wanted), None)


class _Up(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        rows, steps, width = x.shape
        flat = x.reshape(-1, width)
        ctx.save_for_backward(flat, weight)
        ctx.shape = x.shape
        parts = (flat @ weight.flatten(0, 1).T).view(rows, steps, *weight.shape[:2])
        return _scatter(parts, 1, 2, 2 * steps).add_(bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        flat, weight = ctx.saved_tensors
        columns = _gather(gradient, len(weight), 1, 2, ctx.shape[1])
        return (
            (columns @ weight.flatten(0, 1)).view(ctx.shape) if ctx.needs_input_grad[0] else None,
            (columns.T @ flat).view_as(weight) if ctx.needs_input_grad[1] else None,
            gradient.sum((0, 1)) if ctx.needs_input_grad[2] else None,
        )


class _Block(torch.autograd.Function):
    """Between its products the block works in [B, C, T], where a group of channels is one piece of memory."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor,
        gain: Tensor,
        shift: Tensor,
        groups: int,
        plus: Tensor | None,
    ) -> Tensor:
        before = _product(x, weight, bias, 1).mT.contiguous()
        width, steps = before.shape[1:]
        normed, mean, scale = torch.native_group_norm(before, gain, shift, len(x), width, steps, groups, _EPS)
        value, slope = mish_with_slope(normed)
        ctx.save_for_backward(x, weight, before, mean, scale, gain, slope)
        ctx.groups, ctx.added = groups, 0 if plus is None else plus.shape[1]
        return value.mT if plus is None else value.mT.add_(plus)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, before, mean, scale, gain, slope = ctx.saved_tensors
        inner = torch.mul(gradient.mT, slope)
        inner, by_gain, by_shift = _norm_gradients(inner, before, mean, scale, gain, ctx.groups)
        wanted = ctx.needs_input_grad[:3]
        rest = _product_gradients(inner.mT.contiguous(), x, weight, 1, wanted)
        by_plus = None
        if ctx.added:
            by_plus = gradient.sum(1, keepdim=True) if ctx.added < gradient.shape[1] else gradient
        return (*rest, by_gain, by_shift, None, by_plus)


def _norm_gradients(
    gradient: Tensor, x: Tensor, mean: Tensor, scale: Tensor, gain: Tensor, groups: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of GroupNorm's input [B, C, T], gain and shift."""
    rows, width, steps = x.shape
    gradient = gradient.contiguous()
    if steps >= _VECTOR:
        return torch.ops.aten.native_group_norm_backward(
            gradient, x, mean, scale, gain, rows, width, steps, groups, [True, True, True]
        )
    inside, mean, scale = x.view(rows, groups, -1), mean.unsqueeze(-1), scale.unsqueeze(-1)
    weighted = (gradient * gain.repeat_interleave(steps).view(width, steps)).view(inside.shape)
    found, _, _ = torch.ops.aten.native_layer_norm_backward(
        weighted, inside, inside.shape[2:], mean, scale, None, None, [True, False, False]
    )
    by_gain = ((inside - mean).mul_(scale).view(x.shape).mul_(gradient)).sum(0).sum(1)
    return found.view(x.shape), by_gain, gradient.sum(0).sum(1)
