"""The losses of multi-agent PPO, per agent, with dead agents left out.

    L_pi = - mean min(r A, clip(r, 1 - eps, 1 + eps) A),      r = exp(log pi(a) - log pi_old(a))
    L_V  = mean max(h(R - V), h(R - (V_old + clip(V - V_old, -eps, eps)))),   h: Huber with threshold delta
    L    = L_pi + c_v L_V - c_e H(pi)

The mean runs over samples and agents; ``count`` divides the sum by another number than that of the entries given, so
that the terms of a batch's pieces add up to the term of the batch. The Huber loss is linear on both sides (the authors'
program lets large negative errors count as nothing). Public names: :func:`masked_mean`, :func:`normalise_advantages`,
:func:`policy_loss`, :func:`value_loss`, :func:`huber`.
"""

from __future__ import annotations

import torch
from torch import Tensor


def masked_mean(values: Tensor, mask: Tensor | None = None, count: Tensor | int | None = None) -> Tensor:
    """Sum of ``values`` over the entries where ``mask`` (same shape) is True, by their number or by ``count``; 0 when
    there is none."""
    if mask is None:
        return values.mean() if count is None else values.sum() / count
    return torch.where(mask, values, 0.0).sum() / (mask.sum().clamp(min=1) if count is None else count)


def normalise_advantages(advantages: Tensor, mask: Tensor | None = None) -> Tensor:
    """Advantages with mean 0 and standard deviation 1 over the entries where ``mask`` is True."""
    mean = masked_mean(advantages, mask)
    deviation = masked_mean((advantages - mean).square(), mask).sqrt()
    return (advantages - mean) / (deviation + 1e-5)


def policy_loss(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    clip: float,
    mask: Tensor | None = None,
    count: Tensor | int | None = None,
) -> tuple[Tensor, Tensor]:
    """(L_pi, mean |r - 1|): the clipped surrogate, and how far the policy is from the one that acted."""
    ratio = (log_probs - old_log_probs).exp()
    surrogate = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
    return -masked_mean(surrogate, mask, count), masked_mean((ratio.detach() - 1).abs(), mask, count)


def huber(error: Tensor, delta: float) -> Tensor:
    """error^2 / 2 where |error| <= delta, delta (|error| - delta / 2) beyond, on either side."""
    size = error.abs()
    inner = size.clamp(max=delta)
    return inner * (size - 0.5 * inner)


def value_loss(
    values: Tensor,
    old_values: Tensor,
    targets: Tensor,
    clip: float,
    delta: float,
    mask: Tensor | None = None,
    count: Tensor | int | None = None,
) -> Tensor:
    """L_V; all in the unit in which the network predicts (normalised)."""
    clipped = old_values + (values - old_values).clamp(-clip, clip)
    loss = torch.maximum(huber(targets - values, delta), huber(targets - clipped, delta))
    return masked_mean(loss, mask, count)
