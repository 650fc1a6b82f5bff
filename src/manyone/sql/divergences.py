"""How far a student's next-token distributions are from a teacher's: pure functions of logits [..., V] -> [...].

Names and definitions are those of Zhong et al., *Learning from Imperfect Data* (KID, arXiv 2410.11371), with p the
teacher's and q the student's distribution:

    FKL        sum_v p log(p / q)                                             forward_kl
    RKL        sum_v q log(q / p)                                             reverse_kl
    JSD_b      b KL(p, m) + (1 - b) KL(q, m),  m = b p + (1 - b) q            jensen_shannon
    TVD        1/2 sum_v |p - q|                                              total_variation
    skew FKL   KL(p, a p + (1 - a) q)           (DistiLLM, arXiv 2402.03898)  skew_forward_kl
    skew RKL   KL(q, (1 - a) p + a q)           (DistiLLM)                    skew_reverse_kl

Logits of half precision are cast to float32 before the log-softmax, probabilities are never logarithmed again, and
mixtures are formed by logsumexp: each is where low precision would lose the tail. A logit of minus infinity (a row of
the vocabulary that a model masks) counts as log-probability ``FLOOR``. Gradients flow through q wherever it occurs; the
teacher's logits get none.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from manyone.errors import ManyoneError

DivergenceName = Literal["fkl", "rkl", "jsd", "tvd", "skew-fkl", "skew-rkl"]
FLOOR = -1000.0
"""Least log-probability: far below what float32's exponent tells from 0, and finite."""


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """log softmax(logits / temperature) in float32 (float64 where the logits are), not below ``FLOOR``."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    scaled = wide if temperature == 1 else wide / temperature
    return scaled.log_softmax(-1).clamp_min(FLOOR)


def _kl(first: Tensor, second: Tensor) -> Tensor:
    """KL of two distributions, both as log-probabilities."""
    return (first.exp() * (first - second)).sum(-1)


def forward_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """FKL = KL(p, q), of log-probabilities."""
    return _kl(teacher, student)


def reverse_kl(student: Tensor, teacher: Tensor) -> Tensor:
    """RKL = KL(q, p), of log-probabilities."""
    return _kl(student, teacher)


def _mixture(first: Tensor, second: Tensor, share: float) -> Tensor:
    """log(share exp(first) + (1 - share) exp(second))."""
    if share == 0:
        return second
    if share == 1:
        return first
    return torch.logaddexp(first + math.log(share), second + math.log1p(-share))


def jensen_shannon(student: Tensor, teacher: Tensor, beta: float = 0.5) -> Tensor:
    """JSD_b, of log-probabilities; at 0 and 1 it is 0 (TRL and Liger call FKL and RKL so, the limits of JSD_b/b and
    JSD_b/(1-b))."""
    middle = _mixture(teacher, student, beta)
    return beta * _kl(teacher, middle) + (1 - beta) * _kl(student, middle)


def total_variation(student: Tensor, teacher: Tensor) -> Tensor:
    """TVD, of log-probabilities."""
    return 0.5 * (teacher.exp() - student.exp()).abs().sum(-1)


def skew_forward_kl(student: Tensor, teacher: Tensor, skew: float = 0.1) -> Tensor:
    """KL(p, a p + (1 - a) q), of log-probabilities."""
    return _kl(teacher, _mixture(teacher, student, skew))


def skew_reverse_kl(student: Tensor, teacher: Tensor, skew: float = 0.1) -> Tensor:
    """KL(q, (1 - a) p + a q), of log-probabilities."""
    return _kl(student, _mixture(student, teacher, skew))


_PLAIN: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "fkl": forward_kl, "rkl": reverse_kl, "tvd": total_variation,
}  # fmt: skip
_WITH: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "jsd": jensen_shannon, "skew-fkl": skew_forward_kl, "skew-rkl": skew_reverse_kl,
}  # fmt: skip
DIVERGENCES = (*_PLAIN, *_WITH)
"""Every divergence by name."""


@dataclass(frozen=True)
class Divergence:
    """One of the divergences with what it needs: ``Divergence("jsd", beta=0.3)(student_logits, teacher_logits)``."""

    name: DivergenceName = "rkl"
    beta: float = 0.5
    """The b of jsd."""
    skew: float = 0.1
    """The a of skew-fkl and skew-rkl."""
    temperature: float = 1.0
    """Of both distributions."""

    def __post_init__(self) -> None:
        if self.name not in DIVERGENCES:
            raise ManyoneError(f"divergence {self.name!r}: must be one of {', '.join(DIVERGENCES)}")
        for name in ("beta", "skew"):
            if not 0 <= getattr(self, name) <= 1:
                raise ManyoneError(f"{name} = {getattr(self, name)}: must be from 0 to 1")
        if not 0 < self.temperature < math.inf:
            raise ManyoneError(f"temperature = {self.temperature}: must be above 0")

    def __call__(self, student: Tensor, teacher: Tensor) -> Tensor:
        """Logits [..., V] of both -> the divergence of each row [...]; only the student gets a gradient."""
        q = log_probabilities(student, self.temperature)
        p = log_probabilities(teacher.detach(), self.temperature)
        if self.name in _PLAIN:
            return _PLAIN[self.name](q, p)
        return _WITH[self.name](q, p, self.beta if self.name == "jsd" else self.skew)
