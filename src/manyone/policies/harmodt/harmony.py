"""Which weights a task gives up and which it takes back: HarmoDT's mask update.

Hu et al., "HarmoDT: Harmony Multi-Task Decision Transformer for Offline Reinforcement Learning" (arXiv 2405.18080),
section 4. For task i with dense gradient u_i at theta * M_i and the mean U over tasks:

    agreement   A_i = u_i * U
    importance  I_i = u_i * u_i (Fisher)  or  |theta| (magnitude)
    harmony     H_i = gamma A_i + I_i

Of the active weights the k with the lowest H_i are pruned, of the inactive ones the k with the highest A_i recovered;
both are chosen from the mask as it was, so the number of ones stays. Every function works on flat vectors [..., d].
:func:`official_exchange` is what the authors' program does instead (see there).
Public names: :func:`agreement`, :func:`importance`, :func:`harmony`, :func:`exchange`, :func:`official_exchange`,
:func:`swap_count`, :func:`smallest`, :func:`largest`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from manyone.errors import ManyoneError

Importance = Literal["fisher", "magnitude", "none"]
Ranking = Literal["global", "quota", "z-score"]


def agreement(gradients: Tensor, mean: Tensor, out: Tensor | None = None) -> Tensor:
    """A = u * U; positive where a task and the population want to move a weight the same way."""
    return torch.mul(gradients, mean, out=out)


def importance(
    kind: Importance, gradients: Tensor, weights: Tensor, squares: Tensor | None = None, out: Tensor | None = None
) -> Tensor:
    """I by its kind; ``squares`` replaces u * u for ``fisher`` (means of squared per-sample gradients)."""
    if kind == "fisher":
        return torch.mul(gradients, gradients, out=out) if squares is None else squares
    if kind == "magnitude":
        return torch.abs(weights, out=out)
    if kind == "none":
        return torch.zeros_like(gradients)
    raise ManyoneError(f"importance {kind!r}: must be fisher, magnitude or none")


def harmony(agreement: Tensor, importance: Tensor, gamma: float = 10.0, out: Tensor | None = None) -> Tensor:
    """H = gamma A + I. (The paper writes A + lambda I: the same ranking for lambda = 1 / gamma.)"""
    return torch.add(importance, agreement, alpha=gamma, out=out)


def swap_count(
    step: int, total: float, eta_min: float, eta_max: float, schedule: Literal["bump", "decay"] = "bump"
) -> int:
    """k at ``step`` of ``total``.

    ``bump`` (the authors' program): floor(eta_max + (eta_min - eta_max) (1 + cos(2 pi t / T)) / 2), so eta_min at both
    ends and eta_max in the middle; ``decay`` (the paper): from eta_max to eta_min by half a cosine.
    """
    if schedule not in ("bump", "decay"):
        raise ManyoneError(f"swap schedule {schedule!r}: must be bump or decay")
    place = step / max(total, 1)
    if schedule == "bump":
        value = eta_max + 0.5 * (eta_min - eta_max) * (1 + math.cos(2 * math.pi * place))
    else:
        value = eta_min + 0.5 * (eta_max - eta_min) * (1 + math.cos(math.pi * min(place, 1.0)))
    return math.floor(value + 1e-9)  # a rounding error must not cost a swap


def exchange(
    mask: Tensor,
    prune_score: Tensor,
    recover_score: Tensor,
    k: int,
    *,
    ranking: Ranking = "global",
    sizes: Sequence[int] = (),
) -> tuple[Tensor, Tensor]:
    """Flat indices (prune [k'], recover [k']) for ``mask`` bool [d]; ties go to the lower index.

    k' is k, cut to the number of ones or zeros if these are fewer. ``ranking`` compares scores over all of W
    (``global``), within each tensor for a share of k proportional to its size (``quota``), or over all of W after
    standardising the scores of each tensor (``z-score``); the last two need the tensors' ``sizes``.
    """
    if ranking not in ("global", "quota", "z-score"):
        raise ManyoneError(f"ranking {ranking!r}: must be global, quota or z-score")
    if ranking == "quota":
        shares = _shares(k, sizes)
        lost, won, start = [], [], 0
        for size, share in zip(sizes, shares):
            part = slice(start, start + size)
            out, back = exchange(mask[part], prune_score[part], recover_score[part], share)
            lost.append(out + start)
            won.append(back + start)
            start += size
        return torch.cat(lost), torch.cat(won)
    if ranking == "z-score":
        prune_score, recover_score = (_standardised(s, sizes) for s in (prune_score, recover_score))
    return _select(mask, prune_score, recover_score, k)


def _select(mask: Tensor, prune_score: Tensor, recover_score: Tensor, k: int) -> tuple[Tensor, Tensor]:
    ones = int(mask.count_nonzero())
    k = min(k, ones, len(mask) - ones)
    return _lowest(prune_score, mask, True, k), _lowest(recover_score, mask, False, k, sign=-1)


def _lowest(scores: Tensor, mask: Tensor, wanted: bool, k: int, sign: int = 1) -> Tensor:
    """Ascending indices of the k lowest of sign x ``scores`` where ``mask`` is ``wanted``; ties go to the lower index.

    They are the first k of the wanted kind among the m lowest of all, once these hold k of them: ties are cut off at
    the higher index there too. That takes one pass; filling what is not wanted, or gathering the rest, takes several.
    """
    m = min(len(scores), (2 if wanted else 8) * k + 64)
    while True:
        found = smallest(scores, m) if sign > 0 else largest(scores, m)
        found = found[mask[found] == wanted]
        if len(found) >= k:
            return found[_smallest(scores[found] * sign, k)] if k else found[:0]
        m = min(len(scores), 8 * m)


def official_exchange(
    mask: Tensor,
    gradients: Tensor,
    mean: Tensor,
    weights: Tensor,
    k: int,
    kind: Importance,
    gamma: float,
    dense: Tensor,
) -> tuple[Tensor, Tensor]:
    """The authors' program: scores of masked gradients, and one added to the scores of inactive entries in float32.

    ``dense`` [d] marks the entries that no mask reaches in the forward pass (embeddings, head): their gradients are
    not masked, so they win the pruning. At inactive entries elsewhere the gradient is zero: what is recovered there
    is decided by ties at the score 1.0. Kept to measure what the corrections are worth.
    """
    seen = torch.where(mask | dense, gradients, 0).float()
    a = seen * torch.where(mask | dense, mean, 0).float()
    h = harmony(a, importance(kind, seen, weights.float()), gamma)
    return _select(mask, h, a + (~mask).float(), k)


def smallest(values: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` smallest of ``values`` [d], ascending; of equal ones those of lower index. Exact.

    The k smallest lie in the k blocks whose minima are smallest, so one pass of block minima leaves few candidates.
    """
    return _extreme(values, k, 1)


def largest(values: Tensor, k: int) -> Tensor:
    """Indices of the ``k`` largest of ``values`` [d], ascending; of equal ones those of lower index. Exact."""
    return _extreme(values, k, -1)


def _extreme(values: Tensor, k: int, sign: int) -> Tensor:
    """The ``k`` smallest of sign x ``values``."""
    if k <= 0:
        return torch.zeros(0, dtype=torch.int64, device=values.device)
    block = max(32, 1 << int(math.log2(max(1.0, math.sqrt(len(values) / k)))))
    if len(values) < 4 * block * k or values.device.type != "cpu":
        return _smallest(values * sign, k)
    whole = len(values) // block * block
    rows = values[:whole].view(-1, block)
    chosen = _smallest(rows.amin(1) if sign > 0 else -rows.amax(1), min(k, len(rows)))
    places = chosen.unsqueeze(1) * block + torch.arange(block)
    candidates = torch.cat((places.reshape(-1), torch.arange(whole, len(values))))
    return candidates[_smallest(values[candidates] * sign, k)]


def _smallest(values: Tensor, k: int) -> Tensor:
    kth = torch.kthvalue(values, k).values
    below = torch.nonzero(values < kth).view(-1)
    ties = torch.nonzero(values == kth).view(-1)[: k - len(below)]
    return torch.cat((below, ties)).sort().values


def _shares(k: int, sizes: Sequence[int]) -> list[int]:
    """k split in proportion to ``sizes``; what rounding leaves goes to the largest remainders."""
    exact = [k * size / max(sum(sizes), 1) for size in sizes]
    shares = [math.floor(x) for x in exact]
    order = sorted(range(len(sizes)), key=lambda i: (shares[i] - exact[i], i))
    for i in order[: k - sum(shares)]:
        shares[i] += 1
    return shares


def _standardised(scores: Tensor, sizes: Sequence[int]) -> Tensor:
    parts = [(p - p.mean()) / p.std(correction=0).clamp(min=1e-30) for p in scores.split(list(sizes))]
    return torch.cat(parts)
