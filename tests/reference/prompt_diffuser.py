"""Prompt Diffuser written plainly from its equations: one member, one prompt, loops; imports nothing of the package."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor


def project_vector(v: Tensor, d: Tensor) -> Tensor:
    """v - (<v, d> / (<d, d> + 1e-12)) d"""
    return v - (v @ d) / (d @ d + 1e-12) * d


def project_subspace(
    v: Tensor, gradients: Sequence[Tensor], shapes: Iterable[Sequence[int]], space: str, energy: float
) -> Tensor:
    """V - U U^T V tensor by tensor, with U from the SVD of the gradients of each tensor."""
    out, first = [], 0
    for shape in shapes:
        size = math.prod(shape)
        part = slice(first, first + size)
        first += size
        matrix = space != "vectors" and len(shape) == 2

        def laid(x: Tensor, shape: Sequence[int] = shape, matrix: bool = matrix) -> Tensor:
            if not matrix:
                return x.reshape(-1, 1)
            return x.reshape(*shape) if space == "columns" else x.reshape(*shape).T

        stacked = torch.cat([laid(g[part]) for g in gradients], 1)
        u, s, _ = torch.linalg.svd(stacked, full_matrices=False)
        share = (s**2).cumsum(0) / (s**2).sum()
        rank = int((share < energy - 1e-12).sum()) + 1
        rank = min(rank, int((s > 1e-5 * s[0]).sum()))
        u = u[:, :rank]
        left = laid(v[part]) - u @ (u.T @ laid(v[part]))
        out.append((left.T if matrix and space == "rows" else left).reshape(-1))
    return torch.cat(out)


def alpha_bars(steps: int, beta_min: float = 0.1, beta_max: float = 10.0) -> list[float]:
    """abar_0 .. abar_N of beta_n = 1 - exp(-beta_min / N - 0.5 (beta_max - beta_min) (2 n - 1) / N^2)."""
    found = [1.0]
    for n in range(1, steps + 1):
        beta = 1 - math.exp(-beta_min / steps - 0.5 * (beta_max - beta_min) * (2 * n - 1) / steps**2)
        found.append(found[-1] * (1 - beta))
    return found


def reverse_chain(eps: Callable[[Tensor, int], Tensor], noise: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x^0 of one prompt [K*, C] from noise [N, K*, C]: x^N, then the noise of each reverse step but the last."""
    steps = len(noise)
    bars, x = alpha_bars(steps), noise[0]
    for k, n in enumerate(range(steps, 0, -1)):
        alpha, bar, before = bars[n] / bars[n - 1], bars[n], bars[n - 1]
        x0 = ((x - math.sqrt(1 - bar) * eps(x, n)) / math.sqrt(bar)).clamp(low, high)
        mean = math.sqrt(before) * (1 - alpha) / (1 - bar) * x0 + math.sqrt(alpha) * (1 - before) / (1 - bar) * x
        deviation = math.sqrt((1 - alpha) * (1 - before) / (1 - bar))
        x = mean + deviation * noise[k + 1] if n > 1 else mean
    return x
