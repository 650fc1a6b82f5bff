"""Liger's fused linear + divergence + cross-entropy, where liger-kernel is installed: logits are never held as a whole.

It knows FKL, RKL and JSD_b with one weight for all tokens, in float32; values and gradients are those of
:func:`manyone.sql.loss.output_loss`. Public names: :func:`fused_loss`, :func:`check_fused`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.engine.extras import need
from manyone.errors import ManyoneError
from manyone.sql.divergences import Divergence
from manyone.sql.language_model import LanguageModel

_BETA = {"fkl": 0.0, "rkl": 1.0}
INSTALL = "pip install liger-kernel"


def check_fused(divergence: Divergence | None, reduction: str) -> None:
    """Raises ``ManyoneError`` where Liger's loss is not there, or is not the one that is asked for."""
    need("liger_kernel.chunked_loss", "--loss-kernel liger", INSTALL)
    if divergence is None or divergence.name not in (*_BETA, "jsd") or reduction != "token":
        raise ManyoneError("--loss-kernel liger: knows fkl, rkl and jsd, reduced over tokens: use own for others")
    if divergence.name == "jsd" and divergence.beta in (0, 1):
        raise ManyoneError(f"--beta {divergence.beta:g}: Liger takes it for fkl or rkl: name these, or use own")


def fused_loss(
    student: LanguageModel,
    states: Tensor,
    labels: Tensor,
    distil: Tensor,
    hard: Tensor | None,
    divergence: Divergence,
    teacher: LanguageModel,
    teacher_states: Tensor,
) -> tuple[Tensor, Tensor]:
    """(divergence, cross-entropy), weighted and summed; the gradient of both is with their sum."""
    chunked = need("liger_kernel.chunked_loss", "--loss-kernel liger", INSTALL)
    rows = min(student.vocabulary, teacher.vocabulary)
    weight, other = student.head.weight[:rows].float(), teacher.head.weight[:rows].float()
    soft, strict = float(distil[0]) * len(states), 0.0 if hard is None else float(hard[0]) * len(states)
    loss = chunked.LigerFusedLinearJSDLoss(
        weight_hard_loss=strict, weight_soft_loss=soft, beta=_BETA.get(divergence.name, divergence.beta),
        temperature=divergence.temperature, compiled=states.is_cuda, return_soft_hard_loss=True,
    )  # fmt: skip
    bias = [None if m.head.bias is None else m.head.bias[:rows].float() for m in (student, teacher)]
    total, kd, _ = loss(states.float(), weight, teacher_states.float(), other, labels, *bias)
    kd = (kd * soft).detach()
    return kd, total - kd


def fits(distil: Tensor | None, hard: Tensor | None) -> bool:
    """Whether a token weighs as much as another."""
    return distil is not None and all(w is None or bool(torch.all(w == w[0])) for w in (distil, hard))
