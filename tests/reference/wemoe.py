"""WEMoE spelt out: merge the critical weights of every sample explicitly, one expert after another, with autograd.

Works on :class:`tests.reference.toy.Toy` networks, whose blocks are ``x + fc2(gelu(fc1(norm x)))``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Weights = Mapping[str, Tensor]


def gate(tokens: Tensor, router: Mapping[str, Tensor], mask: Tensor | None = None) -> Tensor:
    """G applied to every token, then the mean over real tokens: [B, L, h] -> [B, N]."""
    if "weight" not in router:
        gated = router["bias"].expand(*tokens.shape[:2], -1)
    elif "hidden_weight" not in router:
        gated = tokens @ router["weight"].T + router["bias"]
    else:
        hidden = torch.relu(tokens @ router["hidden_weight"].T + router["hidden_bias"])
        gated = hidden @ router["weight"].T + router["bias"]
    if mask is None:
        return gated.mean(1)
    return torch.stack([g[m.bool()].mean(0) for g, m in zip(gated, mask)])


def prune(tau: Tensor, ratio: float) -> Tensor:
    """Strictly above the linearly interpolated quantile of the magnitudes."""
    threshold = torch.quantile(tau.abs().flatten().double(), ratio)
    return tau * (tau.abs().double() > threshold)


def features(
    x: Tensor,
    base: Weights,
    experts: Sequence[Weights],
    routers: Sequence[Mapping[str, Tensor]],
    *,
    scale: float,
    depth: int,
    batch_routing: bool = False,
    prune_ratio: float | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The features of a Toy network with weight-ensembled blocks, x [B, L, 6]."""
    merged = {k: v + scale * sum(e[k] - v for e in experts) for k, v in base.items()}
    x = F.linear(x, merged["stem.weight"], merged["stem.bias"])
    for block in range(depth):
        prefix = f"blocks.{block}."
        u = F.layer_norm(x, x.shape[-1:], merged[prefix + "norm.weight"], merged[prefix + "norm.bias"])
        r = gate(u, routers[block], mask)
        if batch_routing:
            r = r.mean(0, keepdim=True).expand(len(x), -1)
        out = []
        for b in range(len(x)):
            w = {}
            for name in ("fc1.weight", "fc1.bias", "fc2.weight", "fc2.bias"):
                key = prefix + "mlp." + name
                w[name] = base[key]
                for i, expert in enumerate(experts):
                    tau = expert[key] - base[key]
                    w[name] = w[name] + r[b, i] * (tau if prune_ratio is None else prune(tau, prune_ratio))
            hidden = F.gelu(F.linear(u[b], w["fc1.weight"], w["fc1.bias"]))
            out.append(F.linear(hidden, w["fc2.weight"], w["fc2.bias"]))
        x = x + torch.stack(out)
    return x.mean(1)
