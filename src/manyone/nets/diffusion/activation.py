"""Mish, x tanh(log(1 + e^x)), in half the time of the library's on a CPU, and its derivative nearly for nothing.

Misra, "Mish: A Self Regularized Non-Monotonic Activation Function" (arXiv 1908.08681, eq. 1 and 2). With the logistic
s = 1 / (1 + e^x) and r = 1 / (1 + s^2)::

    f = tanh(log(1 + e^x)) = 2 r - 1        mish = x f        mish' = f + x (1 - s) (1 - f^2)

one transcendental function instead of three, which nothing overflows. The library's own serves other devices, other
types and small tensors. Once differentiable.
Public names: :func:`mish`, :func:`mish_with_slope`, :func:`is_plain`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

_SMALL = 2048  # entries below which the starts of five kernels cost more than they save


def is_plain(x: Tensor) -> bool:
    """Whether ``x`` lies on a CPU in single or double precision, outside of autocast, as fast formulations ask."""
    return x.device.type == "cpu" and x.dtype in (torch.float32, torch.float64) and not torch.is_autocast_enabled("cpu")


def mish(x: Tensor) -> Tensor:
    """Entry by entry, any shape."""
    if x.numel() < _SMALL or not is_plain(x):
        return F.mish(x)
    if not (torch.is_grad_enabled() and x.requires_grad):
        return _value(x)
    return _Mish.apply(x)  # type: ignore[no-untyped-call]


def mish_with_slope(x: Tensor) -> tuple[Tensor, Tensor]:
    """mish(x) and mish'(x), without a graph."""
    share = torch.sigmoid(x)
    factor = torch.rsub(share, 1).square_().add_(1).reciprocal_().mul_(2).sub_(1)
    value = x * factor
    slope = torch.addcmul(factor, x, share)
    return value, slope.addcmul_(share.mul_(value), factor, value=-1)


def _value(x: Tensor) -> Tensor:
    negative = -x
    r = torch.sigmoid(negative).square_().add_(1).reciprocal_()
    return negative.addcmul_(x, r, value=2)


class _Mish(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        value, slope = mish_with_slope(x)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        (slope,) = ctx.saved_tensors
        return gradient * slope
