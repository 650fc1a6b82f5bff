"""Prompt Diffuser written plainly from its equations: one member, one prompt, loops; imports nothing of the package."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

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
