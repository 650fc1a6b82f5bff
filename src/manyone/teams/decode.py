"""Acting agent after agent: the same draw by a full pass per agent, or by fixed-point passes over all agents.

Public: ``decode``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .commformer import CommFormer, Encoded


def decode(
    policy: CommFormer, encoded: Encoded, available: Tensor | None, noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    """(actions, log-probabilities [B, n]); ``noise`` None takes the likeliest actions."""
    if not policy.autoregressive:
        outputs = policy.heads(encoded.rep)
        actions = choose(policy, outputs, available, noise)
        return actions, policy.score(outputs, actions, available)[0]
    return _full(policy, encoded, available, noise)


def choose(policy: CommFormer, outputs: Tensor, available: Tensor | None, noise: Tensor | None) -> Tensor:
    """Actions from logits [..., A] (Gumbel-max) or means [..., a] with the noise given."""
    if policy.spec.discrete:
        if available is not None:
            outputs = outputs.masked_fill(~available, -torch.inf)
        return (outputs if noise is None else outputs + noise).argmax(-1)
    return outputs if noise is None else outputs + policy.std() * noise


def _nothing_yet(policy: CommFormer, rep: Tensor) -> Tensor:
    batch, agents = rep.shape[:2]
    if policy.spec.discrete:
        return torch.zeros(batch, agents, dtype=torch.long, device=rep.device)
    return rep.new_zeros(batch, agents, policy.spec.action_dim)


def _full(
    policy: CommFormer, encoded: Encoded, available: Tensor | None, noise: Tensor | None
) -> tuple[Tensor, Tensor]:
    """One pass of the whole decoder for each agent."""
    actions = _nothing_yet(policy, encoded.rep)
    for i in range(policy.spec.agents):
        outputs = policy.outputs(encoded, actions)
        actions[:, i] = choose(policy, outputs, available, noise)[:, i]
    return actions, policy.score(outputs, actions, available)[0]
