"""Random features: a linear score of them is a kernel machine's, with as many parameters as one likes.

    phi(x)_k = sqrt(2 / D) cos(omega_k^T x + u_k),   omega ~ N(0, I / width^2),  u ~ Unif[0, 2 pi)

phi(x)^T phi(x') tends to exp(-||x - x'||^2 / (2 width^2)) as D grows (Rahimi and Recht, NeurIPS 2007), so rows keep a
norm of about 1. Public: ``random_cosines``.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from manyone.randomness import generator_for

_WIDTH = 0.3
"""Of the kernel, for rows of norm 1: most pairs are further apart, so that their features are nearly orthogonal."""


def random_cosines(rows: Tensor, count: int, seed: int = 0) -> Tensor:
    """[N, count] features of ``rows`` [N, d], the same for the same seed, width and count."""
    source = generator_for(seed, "random features")
    omega = torch.randn(rows.shape[1], count, generator=source, dtype=torch.float64) / _WIDTH
    phase = 2 * math.pi * torch.rand(count, generator=source, dtype=torch.float64)
    return (math.sqrt(2 / count) * torch.cos(rows.double() @ omega + phase)).to(rows)
