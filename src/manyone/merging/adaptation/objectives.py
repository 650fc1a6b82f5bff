"""What test-time adaptation minimises on unlabelled inputs.

``entropy`` is the papers' loss. ``information-maximisation`` subtracts the entropy of the batch's mean prediction,
which guards against collapse onto one class. ``expert-kl`` needs the experts' predictions; it is this project's own
extension.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Objective = Literal["entropy", "information-maximisation", "expert-kl"]


def entropy(logits: Tensor) -> Tensor:
    """Mean over samples of H(softmax(z)) in nats; logits [n, classes]. Exact at one-hot limits (no epsilon)."""
    log_p = F.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(-1).mean()


def marginal_entropy(logits: Tensor) -> Tensor:
    """H(mean over samples of softmax(z)) in nats: low when predictions collapse onto few classes."""
    p = F.softmax(logits, dim=-1).mean(0)
    return -(p * p.clamp_min(1e-12).log()).sum()


def information_maximisation(logits: Tensor) -> Tensor:
    """Conditional minus marginal entropy (negative mutual information between input and prediction), in nats."""
    return entropy(logits) - marginal_entropy(logits)


def expert_kl(logits: Tensor, expert_logits: Tensor) -> Tensor:
    """Mean KL(expert || merged) in nats; both [n, classes]; the expert is a constant."""
    target = F.log_softmax(expert_logits.detach(), dim=-1)
    return F.kl_div(F.log_softmax(logits, dim=-1), target, log_target=True, reduction="batchmean")


def objective_value(name: Objective, logits: Tensor, expert_logits: Tensor | None = None) -> Tensor:
    """The objective called ``name`` on one task's batch."""
    if name == "entropy":
        return entropy(logits)
    if name == "information-maximisation":
        return information_maximisation(logits)
    if name == "expert-kl":
        if expert_logits is None:
            raise ValueError("objective 'expert-kl' needs the experts' logits on the same inputs")
        return expert_kl(logits, expert_logits)
    raise ValueError(f"unknown objective {name!r}: use entropy, information-maximisation or expert-kl")
