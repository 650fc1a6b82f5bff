"""Linear layers of many members in one product, each member with weights and rows of its own.

The same as ``torch.baddbmm`` under autograd, with less memory traffic: gradients of the weights come out in the layout
of the weights, biases are added in place, and a hidden layer's gradient is cut by its ReLU in place. For networks so
small that the passes over memory cost as much as the products, that is a third of a training step.
Where weights may be shared or a member's own, :func:`linear`, :func:`product`, :func:`mlp`, :func:`norm` and
:func:`lookup` take both. Public names: :func:`linear_members`, :func:`mlp_members`, and these five.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def linear_members(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [M, n, I] by weight [M, O, I] plus bias [O] or [M, 1, O]: [M, n, O]."""
    if torch.is_autocast_enabled(x.device.type):  # a function of its own would not be cast
        return torch.baddbmm(bias.expand(len(x), 1, -1), x, weight.mT)
    if not torch.is_grad_enabled():
        return torch.bmm(x, weight.mT).add_(bias)
    return _Linear.apply(x, weight, bias)  # type: ignore[no-untyped-call]


def mlp_members(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Two linear layers with a ReLU between them; shapes as in :func:`linear_members`."""
    if torch.is_autocast_enabled(x.device.type) or not torch.is_grad_enabled():
        return linear_members(linear_members(x, weight1, bias1).relu_(), weight2, bias2)
    return _Mlp.apply(x, weight1, bias1, weight2, bias2)  # type: ignore[no-untyped-call]


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [M, ..., I] by weight [O, I] or [m, O, I] with m a divisor of M; the bias [O] or [m', O] alike."""
    if weight.ndim == 2 and bias.ndim == 1:
        return F.linear(x, weight, bias)
    members = max(weight.shape[0] if weight.ndim == 3 else 1, bias.shape[0] if bias.ndim == 2 else 1)
    flat = x.reshape(members, -1, x.shape[-1])
    rows = _rows(bias, members)
    out = F.linear(flat, weight) + rows if weight.ndim == 2 else linear_members(flat, _each(weight, members), rows)
    return out.view(*x.shape[:-1], -1)


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x [M, ..., I] by weight [O, I] or [m, O, I] with m a divisor of M."""
    if weight.ndim == 2:
        return F.linear(x, weight)
    return torch.bmm(x.reshape(len(weight), -1, x.shape[-1]), weight.mT).view(*x.shape[:-1], -1)


def mlp(x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
    """Linear, ReLU, linear; shapes as in :func:`linear`."""
    if weight1.ndim == 3 and weight2.ndim == 3:
        members = max(weight1.shape[0], weight2.shape[0], *(b.shape[0] for b in (bias1, bias2) if b.ndim == 2))
        weights = (_each(weight1, members), _rows(bias1, members), _each(weight2, members), _rows(bias2, members))
        return mlp_members(x.reshape(members, -1, x.shape[-1]), *weights).view(x.shape)
    return linear(linear(x, weight1, bias1).relu_(), weight2, bias2)


def norm(x: Tensor, gain: Tensor, bias: Tensor) -> Tensor:
    """LayerNorm (epsilon 1e-5) with gain and bias [E] or [m, E]."""
    if gain.ndim == 1 and bias.ndim == 1:
        return F.layer_norm(x, gain.shape, gain, bias)
    members = max(v.shape[0] if v.ndim == 2 else 1 for v in (gain, bias))
    flat = F.layer_norm(x, x.shape[-1:]).reshape(members, -1, x.shape[-1])
    return torch.addcmul(_rows(bias, members), flat, _rows(gain, members)).view(x.shape)


def _rows(vector: Tensor, members: int) -> Tensor:
    """[O] as it is, [m, O] as [members, 1, O]."""
    return vector if vector.ndim == 1 else _each(vector, members).unsqueeze(1)


def _each(value: Tensor, members: int) -> Tensor:
    """[m, ...] repeated to [members, ...], each of the m for its own part of the data."""
    return value if value.shape[0] == members else value.repeat_interleave(members // value.shape[0], 0)


def lookup(table: Tensor, index: Tensor) -> Tensor:
    """Rows of a table [T, E], or [m, T, E], for index [M, ...]."""
    if table.ndim == 2:
        return F.embedding(index, table)
    members, rows, width = table.shape
    first = torch.arange(members, device=index.device).mul_(rows).unsqueeze(-1)
    flat = index.reshape(members, -1) + first
    return F.embedding(flat, table.reshape(members * rows, width)).view(*index.shape, width)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.shared_bias = bias.ndim == 1
        return torch.bmm(x, weight.mT).add_(bias)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        return _gradients(gradient, x, weight, ctx.shared_bias, ctx.needs_input_grad)


class _Mlp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight1: Tensor, bias1: Tensor, weight2: Tensor, bias2: Tensor) -> Tensor:
        hidden = torch.bmm(x, weight1.mT).add_(bias1).relu_()
        ctx.save_for_backward(x, weight1, hidden, weight2)
        ctx.shared_bias = (bias1.ndim == 1, bias2.ndim == 1)
        return torch.bmm(hidden, weight2.mT).add_(bias2)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight1, hidden, weight2 = ctx.saved_tensors
        first, second = ctx.shared_bias
        inner, *outer = _gradients(gradient, hidden, weight2, second, (True, *ctx.needs_input_grad[3:]))
        assert inner is not None
        torch.ops.aten.threshold_backward.grad_input(inner, hidden, 0, grad_input=inner)
        return (*_gradients(inner, x, weight1, first, ctx.needs_input_grad[:3]), *outer)


def _gradients(
    gradient: Tensor, x: Tensor, weight: Tensor, shared_bias: bool, wanted: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients of x, weight and bias of a linear layer, those that are wanted."""
    return (
        torch.bmm(gradient, weight) if wanted[0] else None,
        torch.bmm(gradient.mT, x) if wanted[1] else None,
        (gradient.sum((0, 1)) if shared_bias else gradient.sum(1, keepdim=True)) if wanted[2] else None,
    )
