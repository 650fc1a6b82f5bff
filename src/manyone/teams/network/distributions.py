"""How outputs of a network become actions, their log-probabilities and entropies: categorical, one categorical for each
digit of an action, or normal with one deviation an entry for all agents.

    pi(a | o) = prod_j pi_j(a_j | o): digits are drawn apart, so that an action of k digits needs their choices' sum of
    outputs and not the product. A sum of log-probabilities and of entropies follows.
Public names: :func:`choose`, :func:`score`, :func:`as_tokens`.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def choose(
    outputs: Tensor, available: Tensor | None, noise: Tensor | None, std: Tensor | None, digits: tuple[int, ...] = ()
) -> Tensor:
    """Actions [...] from logits [..., A] (with Gumbel ``noise``), or from means [..., a] when there is a ``std`` [a]
    (with normal noise); ``noise`` None: the likeliest. ``available`` bool [..., A]; ``digits``: how A is parted among k
    numbers, and then actions are [..., k]."""
    if std is not None:
        return outputs if noise is None else outputs + std * noise
    if available is not None:
        outputs = outputs.masked_fill(~available, -torch.inf)
    outputs = outputs if noise is None else outputs + noise
    return (_by_digit(outputs, digits, -torch.inf) if digits else outputs).argmax(-1)


def score(
    outputs: Tensor, actions: Tensor, available: Tensor | None, std: Tensor | None, digits: tuple[int, ...] = ()
) -> tuple[Tensor, Tensor]:
    """(log-probabilities, entropies) [...] of ``actions``, summed over the entries of a continuous action and over
    ``digits``; entropies are those of the masked distribution, without NaN where one action is left."""
    if digits:
        if available is None and len(set(digits)) > 1:
            available = torch.ones_like(outputs, dtype=torch.bool)  # what fills up the shorter digits is not
        allowed = None if available is None else _by_digit(available, digits, False)
        log_probs, entropies = score(_by_digit(outputs, digits, 0.0), actions, allowed, None)
        return log_probs.sum(-1), entropies.sum(-1)
    if std is not None:
        constant = std.log().sum() + 0.5 * outputs.shape[-1] * math.log(2 * math.pi)
        log_probs = -0.5 * ((actions - outputs) / std).square().sum(-1) - constant
        return log_probs, (constant + 0.5 * outputs.shape[-1]).expand(outputs.shape[:-1])
    if available is not None:
        outputs = outputs.masked_fill(~available, torch.finfo(outputs.dtype).min)
    log = outputs.log_softmax(-1)
    terms = log.exp() * (log if available is None else log.masked_fill(~available, 0.0))
    return log.gather(-1, actions.unsqueeze(-1)).squeeze(-1), -terms.sum(-1)


def as_tokens(actions: Tensor, digits: tuple[int, ...]) -> Tensor:
    """What an action is to those who act after it, float [..., A]: ones at the digits' choices. Continuous actions,
    which have no ``digits``, are themselves."""
    if not digits:
        return actions
    parts = zip(actions.unbind(-1), digits, strict=True)
    return torch.cat([F.one_hot(part, choices) for part, choices in parts], -1).float()


def _by_digit(entries: Tensor, digits: tuple[int, ...], fill: float | bool) -> Tensor:
    """[..., k, m] of [..., A]: a row for each digit, filled up to the m choices of the widest."""
    widest = max(digits)
    if min(digits) == widest:
        return entries.unflatten(-1, (len(digits), widest))
    rows = [F.pad(part, (0, widest - part.shape[-1]), value=fill) for part in entries.split(digits, -1)]
    return torch.stack(rows, -2)
