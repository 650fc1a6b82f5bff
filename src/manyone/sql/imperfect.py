"""Imperfect data: a few tokens of the gold output are replaced by what the student would have written there.

Zhong et al., *Learning from Imperfect Data* (KID, arXiv 2410.11371), section 2.3 of the method: mask a share alpha of
the output tokens, predict them by one forward pass of the student, write the predictions into the gold output.

    k = max(1, round(alpha n)) of n eligible tokens            count_masked      (alpha = 0: none)
    S: k random, evenly spaced, hardest or easiest tokens      select
    y^_t = argmax or sample of q(. | x, masked y_<t), t in S   rewrite           (from the logits at t - 1)

The relatives that it is compared with are the same function with another ``replace``: ``mask`` leaves the mask token in
place, ``noise`` writes random tokens of the vocabulary, and ``scheduled`` predicts from the clean prefix (scheduled
sampling for Transformers). All draws are functions of (seed, step, example): neither the size of a batch nor padding,
other examples or the number of processes changes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.randomness import counter_words, seed_for
from manyone.sql.collate import Batch
from manyone.sql.language_model import LanguageModel

Strategy = Literal["random", "uniform", "hard", "easy"]
Replace = Literal["rewrite", "mask", "noise", "scheduled"]
STRATEGIES: tuple[Strategy, ...] = ("random", "uniform", "hard", "easy")


@dataclass(frozen=True)
class Imperfection:
    """How gold outputs are made imperfect; the defaults are the paper's reading."""

    ratio: float = 0.2
    """alpha, the share of the eligible output tokens that is masked."""
    strategy: Strategy = "random"
    """Which tokens: random, evenly spaced, or those of highest or lowest entropy of the student."""
    pick: Literal["argmax", "sample"] = "argmax"
    """C2: what is written: the likeliest token, or a sample at temperature 1."""
    rounding: Literal["round", "bernoulli"] = "round"
    """C6: exactly k tokens a row, or each with probability alpha."""
    mask_end: bool = False
    """C5: whether the end token may be masked."""
    special: bool = False
    """C7: whether special tokens may be written."""
    passes: int = 1
    """C8: forward passes in which S is written left to right; 0: one for each token of the longest S."""
    replace: Replace = "rewrite"
    """What stands in the places of S."""
    dropout: bool = False
    """C12: whether the student keeps its dropout while it predicts."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ManyoneError(f"ratio = {self.ratio}: must be from 0 to 1")
        if self.passes < 0:
            raise ManyoneError(f"passes = {self.passes}: must be 0 (one a token) or more")


@dataclass(frozen=True)
class Tokens:
    """The token ids that rewriting has to know."""

    mask: int
    """What masked places hold (C1)."""
    end: int
    special: tuple[int, ...] = ()
    """Never predicted unless asked for: padding, begin, end, mask."""


@dataclass(frozen=True)
class Draw:
    """Which examples of which step: all that random draws depend on, besides the seed."""

    seed: int
    step: int
    examples: tuple[int, ...]
    """A number for each row of the batch."""

    def uniforms(self, what: str, count: int) -> Tensor:
        """Numbers in (0, 1), float64 [B, count]; longer draws begin with the shorter ones."""
        words = counter_words(seed_for(self.seed, what), (self.examples, self.step, 0), max(1, count))
        return torch.from_numpy(((words.astype(np.float64) + 0.5) / 2**32)[:, :count])


@dataclass(frozen=True, eq=False)
class Rewritten:
    """Imperfect sequences and how they came about."""

    batch: Batch
    chosen: Tensor
    """bool [B, T]: S."""
    changed: Tensor
    """bool [B, T]: tokens that differ from gold, a part of S."""

    @property
    def rewrite_error(self) -> float:
        """The share of S that is wrong now; 0 where S is empty."""
        return float(self.changed.sum()) / max(1, int(self.chosen.sum()))


def eligible(batch: Batch, end: int, mask_end: bool = False) -> Tensor:
    """bool [B, T]: output tokens that may be masked: all but a closing end token (C5).

    The end token is told by its place, the last of the output: an id that stands elsewhere too is no end there.
    """
    if mask_end:
        return batch.out
    following = torch.zeros_like(batch.out)
    following[:, :-1] = batch.out[:, 1:]
    last = batch.out & ~following
    return batch.out & ~(last & (batch.ids == end))


def count_masked(eligible_tokens: Tensor, ratio: float) -> Tensor:
    """k = max(1, round(alpha n)), int64 [B]; 0 where alpha or n is 0."""
    if ratio == 0:
        return torch.zeros(len(eligible_tokens), dtype=torch.int64)
    n = eligible_tokens.sum(1).cpu()
    # in float64, half to even: what Python's round gives
    return (ratio * n.double()).round().long().clamp_min(1).minimum(n)


def entropies(student: LanguageModel, batch: Batch, where: Tensor, *, rows: int = 1024) -> Tensor:
    """Entropy of q_t, float32 [B, T], at the places ``where`` (0 elsewhere): low where the student is confident."""
    found = torch.zeros(batch.ids.shape, device=batch.ids.device)
    with student.evaluating():
        states = student.hidden(batch)[:, :-1][where[:, 1:]]
        parts = [student.logits(part).float().log_softmax(-1) for part in states.split(rows)]
    found[where] = torch.cat([-(p.exp() * p).sum(-1) for p in parts]) if parts else found[where]
    return found


def select(how: Imperfection, batch: Batch, tokens: Tokens, draw: Draw, student: LanguageModel | None = None) -> Tensor:
    """S, bool [B, T]. ``student`` is needed for hard and easy."""
    allowed = eligible(batch, tokens.end, how.mask_end)
    rank = allowed.long().cumsum(1) - 1  # number of an eligible token in its row
    width = int(allowed.sum(1).max()) if allowed.any() else 0
    device = batch.ids.device
    if not how.ratio or not width:
        return torch.zeros_like(allowed)
    uniforms = draw.uniforms("mask", width).to(device)
    at = rank.clamp(0, width - 1)
    if how.strategy == "random" and how.rounding == "bernoulli":
        return allowed & (uniforms.gather(1, at) < how.ratio)
    n, k = allowed.sum(1), count_masked(allowed, how.ratio).to(device)
    if how.strategy == "uniform":
        chosen = torch.zeros_like(allowed)
        numbers = torch.arange(int(k.max()), device=device)
        gap = n.double() / k.clamp_min(1)
        # from a random start within the first gap: gaps between whole places differ by one at most
        places = ((numbers + uniforms[:, :1]) * gap[:, None]).floor().long().minimum(n[:, None] - 1).clamp_min(0)
        used = numbers < k[:, None]
        hit = torch.zeros(len(batch), width, dtype=torch.bool, device=device)
        hit.scatter_(1, places.masked_fill(~used, 0), used)
        hit[:, 0] |= (used & (places == 0)).any(1)  # unused places all point to 0 and may have had the last word
        chosen[allowed] = hit.gather(1, at)[allowed]
        return chosen
    if how.strategy == "random":
        score = uniforms.gather(1, at)
    else:
        if student is None:
            raise ManyoneError(f"strategy {how.strategy}: needs the student, whose confidence it follows")
        score = entropies(student, batch, allowed).double()
        score = -score if how.strategy == "hard" else score
    score = score.masked_fill(~allowed, torch.inf)
    order = score.argsort(dim=1, stable=True).argsort(dim=1)  # ties: the token further left first
    return allowed & (order < k[:, None])


def rewrite(
    how: Imperfection, batch: Batch, tokens: Tokens, draw: Draw, student: LanguageModel, *, rows: int = 1024
) -> Rewritten:
    """Mask, predict, rewrite. Nothing here is differentiated; ``rows``: positions whose logits are held at a time."""
    chosen = select(how, batch, tokens, draw, student)
    if not chosen.any():
        return Rewritten(batch, chosen, chosen)
    if how.replace == "mask":
        ids = batch.ids.masked_fill(chosen, tokens.mask)
    elif how.replace == "noise":
        ids = torch.where(chosen, _noise(batch, tokens, draw, student.vocabulary, how.special), batch.ids)
    else:
        ids = batch.ids if how.replace == "scheduled" else batch.ids.masked_fill(chosen, tokens.mask)
        passes = 1 if how.replace == "scheduled" else how.passes
        with student.evaluating(how.dropout):
            for part in _slices(chosen, passes):
                states = student.hidden(batch.with_ids(ids))[:, :-1][part[:, 1:]]  # logits at t - 1 predict t
                where = _output_numbers(batch)[part]
                row = part.nonzero()[:, 0]
                picked = [
                    _pick(how, student.logits(s), tokens, draw, r, w)
                    for s, r, w in zip(states.split(rows), row.split(rows), where.split(rows), strict=True)
                ]
                ids = ids.masked_scatter(part, torch.cat(picked))
    return Rewritten(batch.with_ids(ids), chosen, chosen & (ids != batch.ids))


def _slices(chosen: Tensor, passes: int) -> Sequence[Tensor]:
    """S in ``passes`` parts, each row's left to right and as even as can be; 0: a token of every row in each."""
    if passes == 1:
        return [chosen]
    rank, count = chosen.long().cumsum(1) - 1, chosen.sum(1, keepdim=True)
    most = int(count.max())
    number = most if passes == 0 else min(passes, most)
    part = rank if passes == 0 else rank * number // count.clamp_min(1)
    found = [chosen & (part == j) for j in range(number)]
    return [one for one in found if one.any()]


def _output_numbers(batch: Batch) -> Tensor:
    """int64 [B, T]: the number of an output token in its row."""
    return (batch.out.long().cumsum(1) - 1).clamp_min(0)


def _pick(how: Imperfection, logits: Tensor, tokens: Tokens, draw: Draw, row: Tensor, where: Tensor) -> Tensor:
    """Tokens [M] that are written for logits [M, V] of rows ``row`` at output places ``where``."""
    logits = logits.float()
    banned = [token for token in tokens.special if 0 <= token < logits.shape[-1]]
    if not how.special and banned:
        logits[:, banned] = -torch.inf
    if how.pick == "argmax":
        return logits.argmax(-1)
    uniforms = draw.uniforms("rewrite", int(where.max()) + 1).to(logits.device)[row, where]
    return sample(logits, uniforms)


def sample(logits: Tensor, uniforms: Tensor) -> Tensor:
    """A token [M] of softmax(logits [M, V]) for each uniform number [M], by inversion."""
    totals = logits.double().softmax(-1).cumsum(-1)
    found = torch.searchsorted(totals, (uniforms.to(totals) * totals[:, -1])[:, None], right=True)[:, 0]
    return found.clamp_max(logits.shape[-1] - 1)


def _noise(batch: Batch, tokens: Tokens, draw: Draw, vocabulary: int, special: bool) -> Tensor:
    """Random tokens of the vocabulary in every output place."""
    banned = set() if special else set(tokens.special)
    known = torch.tensor([t for t in range(vocabulary) if t not in banned], device=batch.ids.device)
    numbers = _output_numbers(batch)
    uniforms = draw.uniforms("noise", int(numbers.max()) + 1).to(batch.ids.device)
    return known[(uniforms.gather(1, numbers) * len(known)).long().clamp_max(len(known) - 1)]
