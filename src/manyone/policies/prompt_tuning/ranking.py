"""A direction from ranks alone: which of some perturbed points is better, never by how much.

Prompt-Tuning DT (Hu et al., arXiv 2305.09648) tunes a prompt so, by the estimator of Tang et al., "Zeroth-Order
Optimization Meets Human Feedback" (arXiv 2303.03751): for x + mu xi_j, j = 1..m, with xi_j normal,

    g = 1 / |E| sum over pairs E, k worse than j, of (xi_k - xi_j),    x <- x - eta g

with E all pairs that differ: :func:`rank_weights` gives each xi its factor in g, :func:`rank_direction` is g.
"""

from __future__ import annotations

import torch
from torch import Tensor


def rank_weights(losses: Tensor) -> Tensor:
    """Factor of each perturbation in g for ``losses`` [..., m]: (better ones - worse ones) / pairs that differ."""
    better = (losses.unsqueeze(-2) < losses.unsqueeze(-1)).sum(-1)
    worse = (losses.unsqueeze(-2) > losses.unsqueeze(-1)).sum(-1)
    pairs = better.sum(-1, keepdim=True).clamp(min=1)
    return (better - worse).to(losses) / pairs


def rank_direction(perturbations: Tensor, losses: Tensor) -> Tensor:
    """g [..., P] of ``perturbations`` [..., m, P] and their ``losses`` [..., m]; it points uphill."""
    return torch.einsum("...m,...mp->...p", rank_weights(losses.to(perturbations)), perturbations)
