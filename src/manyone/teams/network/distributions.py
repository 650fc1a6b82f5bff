"""How outputs of a network become actions, their log-probabilities and entropies: categorical, or normal with one
deviation an entry for all agents. Public names: :func:`choose`, :func:`score`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def choose(outputs: Tensor, available: Tensor | None, noise: Tensor | None, std: Tensor | None) -> Tensor:
    """Actions from logits [..., A] (with Gumbel ``noise``), or from means [..., a] when there is a ``std`` [a] (with
    normal noise); ``noise`` None: the likeliest. ``available`` bool [..., A]."""
    if std is not None:
        return outputs if noise is None else outputs + std * noise
    if available is not None:
        outputs = outputs.masked_fill(~available, -torch.inf)
    return (outputs if noise is None else outputs + noise).argmax(-1)


def score(outputs: Tensor, actions: Tensor, available: Tensor | None, std: Tensor | None) -> tuple[Tensor, Tensor]:
    """(log-probabilities, entropies) [...] of ``actions``, summed over the entries of a continuous action; entropies
    are those of the masked distribution, without NaN where one action is left."""
    if std is not None:
        constant = std.log().sum() + 0.5 * outputs.shape[-1] * math.log(2 * math.pi)
        log_probs = -0.5 * ((actions - outputs) / std).square().sum(-1) - constant
        return log_probs, (constant + 0.5 * outputs.shape[-1]).expand(outputs.shape[:-1])
    if available is not None:
        outputs = outputs.masked_fill(~available, torch.finfo(outputs.dtype).min)
    log = outputs.log_softmax(-1)
    terms = log.exp() * (log if available is None else log.masked_fill(~available, 0.0))
    return log.gather(-1, actions.unsqueeze(-1)).squeeze(-1), -terms.sum(-1)
