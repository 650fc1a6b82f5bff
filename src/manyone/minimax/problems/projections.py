"""Exact Euclidean projections on the sets that minimax problems use, batched over leading axes.

Public: ``simplex``, ``nonnegative``, ``box``, ``ball``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.errors import ManyoneError


def simplex(y: Tensor, total: float = 1.0) -> Tensor:
    """The nearest point with non-negative entries that sum to ``total``, along the last axis.

    Sort-based and exact (Held, Wolfe, Crowder 1974): y - theta clipped at 0, with theta from the largest entries.
    """
    if total <= 0:
        raise ManyoneError(f"simplex: total = {total}, must be positive")
    ordered = y.sort(dim=-1, descending=True).values
    excess = ordered.cumsum(-1) - total
    count = torch.arange(1, y.shape[-1] + 1, dtype=y.dtype, device=y.device)
    support = (ordered * count > excess).sum(-1, keepdim=True)  # the largest k with y_(k) > excess_k / k
    theta = excess.gather(-1, support - 1) / support.to(y.dtype)
    return (y - theta).clamp_min(0.0)


def nonnegative(y: Tensor) -> Tensor:
    """The nearest point with non-negative entries."""
    return y.clamp_min(0.0)


def box(y: Tensor, low: float, high: float) -> Tensor:
    """The nearest point with entries in [low, high]."""
    if low > high:
        raise ManyoneError(f"box: low = {low} is above high = {high}")
    return y.clamp(low, high)


def ball(y: Tensor, radius: float) -> Tensor:
    """The nearest point of Euclidean norm at most ``radius``, along the last axis."""
    if radius <= 0:
        raise ManyoneError(f"ball: radius = {radius}, must be positive")
    norm = torch.linalg.vector_norm(y, dim=-1, keepdim=True)
    return y * (radius / norm.clamp_min(radius))
