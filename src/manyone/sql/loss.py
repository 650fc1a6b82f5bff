"""The loss of a batch from the hidden states that predict its outputs, exact under any split of the batch.

    L = sum_t a_t F(p_t, q_t) + w sum_t b_t CE(q_t, y_t)

over output positions t alone. The weights a and b make the reduction: of a token mean each is 1 / (number of tokens),
of a sequence mean 1 / (number of sequences * tokens of its sequence), with the numbers of the *whole* batch: sums over
micro-batches and processes are then the loss of one process with one batch.

Logits [N, V] are formed at once where they fit ``budget``; else chunk by chunk, and again in the backward pass, so that
no more than a chunk of them is ever held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from manyone.sql.divergences import Divergence
from manyone.sql.fused import fits, fused_loss
from manyone.sql.language_model import LanguageModel

Reduction = Literal["token", "sequence"]
Kernel = Literal["own", "liger"]


@dataclass(frozen=True)
class Totals:
    """What a batch is normalised by: counts over all micro-batches and processes."""

    tokens: float
    sequences: float

    def weights(self, counts: Tensor, reduction: Reduction) -> Tensor:
        """Weight of every token, float32 [sum of ``counts``], for rows with ``counts`` [B] tokens."""
        each = torch.full_like(counts, self.tokens, dtype=torch.float32)
        if reduction == "sequence":
            each = self.sequences * counts.float()
        return (1 / each.clamp_min(1)).repeat_interleave(counts)

    def __add__(self, other: Totals) -> Totals:
        return Totals(self.tokens + other.tokens, self.sequences + other.sequences)


@dataclass(frozen=True, eq=False)
class Terms:
    """What is asked of N output positions."""

    labels: Tensor
    """int64 [N]: y"""
    distil: Tensor | None
    """float32 [N]: weights a of the divergence; None: no divergence."""
    hard: Tensor | None
    """float32 [N]: weights w b of the cross-entropy; None: no cross-entropy."""


def output_loss(
    student: LanguageModel,
    states: Tensor,
    terms: Terms,
    divergence: Divergence | None = None,
    teacher: LanguageModel | None = None,
    teacher_states: Tensor | None = None,
    *,
    budget: int = 1 << 30,
    kernel: Kernel = "own",
) -> tuple[Tensor, Tensor]:
    """(divergence, cross-entropy) of ``states`` [N, d], each with its weights summed; gradients flow to ``states``.

    ``budget``: bytes that the float32 logits of one model may take before they are formed in chunks. ``kernel``: own,
    or Liger's fused loss where that fits (:mod:`.fused`).
    """
    if kernel == "liger" and divergence is not None and terms.distil is not None and len(states):
        assert teacher is not None
        assert teacher_states is not None
        if fits(terms.distil, terms.hard):
            return fused_loss(student, states, terms.labels, terms.distil, terms.hard, divergence, teacher,
                              teacher_states)  # fmt: skip

    def part(own: Tensor, other: Tensor | None, labels: Tensor, distil: Tensor | None, hard: Tensor | None) -> Tensor:
        logits = student.logits(own)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        kd = ce = wide.new_zeros(())
        if distil is not None and divergence is not None and teacher is not None and other is not None:
            with torch.no_grad():
                target = teacher.logits(other)
            kd = (divergence(wide, target) * distil).sum()
        if hard is not None:
            ce = (F.cross_entropy(wide, labels, reduction="none") * hard).sum()
        return torch.stack((kd, ce))

    rows = max(1, budget // (4 * student.vocabulary))
    if len(states) <= rows:
        kd, ce = part(states, teacher_states, terms.labels, terms.distil, terms.hard)
        return kd, ce
    total = states.new_zeros(2, dtype=torch.float32)
    for first in range(0, len(states), rows):
        cut = slice(first, first + rows)
        pieces = [None if v is None else v[cut] for v in (teacher_states, terms.labels, terms.distil, terms.hard)]
        total = total + checkpoint(part, states[cut], *pieces, use_reentrant=False)
    return total[0], total[1]
