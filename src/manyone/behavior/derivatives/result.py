"""What a training is, what the gradient through it returns, and how the outer loss enters it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from manyone.errors import ManyoneError

Outer = Callable[[dict[str, Tensor]], Tensor]
"""From the trained stack of weights to the outer loss H, a scalar."""


class Descent(NamedTuple):
    """Gradient descent with momentum."""

    steps: int
    lr: float
    momentum: float = 0.0


class MetaGradient(NamedTuple):
    """The outer loss H and its derivatives through the inner training."""

    loss: Tensor
    """H, a scalar."""
    states: Tensor
    """dH/dS, [N, S]."""
    actions: Tensor
    """dH/dA, [N, A]."""
    weights: dict[str, Tensor]
    """The trained students, [K, ...]."""
    lr: Tensor | None = None
    """dH/d(inner learning rate), a scalar, where asked for."""
    momentum: Tensor | None = None
    """dH/d(inner momentum), a scalar, where asked for."""


def outer_gradient(outer: Outer, weights: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
    """H and dH/dw; 0 where H does not depend on a tensor."""
    leaves = {name: value.detach().requires_grad_() for name, value in weights.items()}
    with torch.enable_grad():
        loss = outer(leaves)
    check_scalar(loss)
    if not loss.requires_grad:
        return loss.detach(), {name: torch.zeros_like(value) for name, value in leaves.items()}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True, materialize_grads=True)
    return loss.detach(), dict(zip(leaves, found, strict=True))


def check_scalar(loss: Tensor) -> None:
    """The outer loss is one number."""
    if not isinstance(loss, Tensor):
        raise ManyoneError(f"the outer loss is a {type(loss).__name__}: must be a tensor that depends on the weights")
    if loss.ndim:
        raise ManyoneError(f"the outer loss has shape {list(loss.shape)}: must be a scalar, e.g. the mean over members")
