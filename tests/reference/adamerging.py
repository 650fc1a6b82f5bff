"""AdaMerging spelt out with autograd: one weighted copy of every expert; TIES by sorting."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

Weights = Mapping[str, Tensor]


def features(
    encoder: nn.Module, base: Weights, taus: Sequence[Weights], coefficients: Tensor, x: Tensor, clamp: bool = False
) -> Tensor:
    """Features under theta_0 + sum_i lambda_ki tau_ki; coefficients [K, N] (K in the order of ``base``) or [N]."""
    if clamp:
        coefficients = coefficients.clamp(0, 1)
    weights = {}
    for k, name in enumerate(base):
        row = coefficients[k] if coefficients.ndim == 2 else coefficients
        weights[name] = base[name]
        for i, tau in enumerate(taus):
            weights[name] = weights[name] + row[i] * tau[name]
    return functional_call(encoder, weights, (x,))


def ties(taus: Sequence[Weights], density: float) -> list[dict[str, Tensor]]:
    """Trimmed and sign-consistent task vectors."""
    names = sorted(taus[0])
    flat = torch.stack([torch.cat([tau[n].flatten() for n in names]) for tau in taus])
    size = flat.shape[1]
    for i, row in enumerate(flat):
        threshold = row.abs().sort().values[size - int(density * size) - 1]
        flat[i] = torch.where(row.abs() >= threshold, row, 0.0)
    sign = torch.sign(flat.sum(0))
    sign = torch.where(sign == 0, torch.sign(sign.sum()), sign)
    flat = torch.where(torch.sign(flat) == sign, flat, 0.0)
    parts = flat.split([taus[0][n].numel() for n in names], 1)
    return [{n: p[i].view(taus[0][n].shape) for n, p in zip(names, parts)} for i in range(len(taus))]
