"""Exposure bias in numbers: excess accumulated error (ExAccErr; Arora et al. 2022, as KID's section on it).

    R(l) = sum_{t<=l} E_{z_<t ~ q} KL(p_t, q_t)            prefixes sampled from the student
    e(l) = 1/l sum_{t<=l} E_{z_<t ~ p} KL(p_t, q_t)        prefixes sampled from the teacher
    ExAccErr(l) = 100 (R(l) - l e(l)) / (l e(l))           0: the student's own prefixes harm no more than the teacher's

The inner KL is exact, prefixes are Monte Carlo; after the end token both sums get nothing. Public names:
:func:`excess_error`, :class:`ExcessError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.sql.collate import Example, pack
from manyone.sql.divergences import Divergence
from manyone.sql.generation import Decoding, generate
from manyone.sql.imperfect import Draw
from manyone.sql.language_model import LanguageModel


@dataclass(frozen=True)
class ExcessError:
    """ExAccErr at every length l = 1, 2, ..."""

    percent: tuple[float, ...]
    """NaN where e(l) is 0."""
    accumulated: tuple[float, ...]
    """R(l), nats."""
    expected: tuple[float, ...]
    """l e(l), nats."""


def excess_error(
    student: LanguageModel,
    teacher: LanguageModel,
    prompts: Sequence[Sequence[int]],
    how: Decoding,
    *,
    seed: int = 0,
    samples: int = 10,
) -> ExcessError:
    """ExAccErr of ``student`` against ``teacher`` over ``prompts``, up to ``how.most`` tokens.

    ``samples`` prefixes a prompt from each model. The first token has no sampled prefix, so at l = 1 it is 0 exactly.
    """
    if samples < 1 or not prompts:
        raise ManyoneError(f"{samples} samples of {len(prompts)} prompts: needs one at least of each")
    sampling = replace(how, sampled=True)
    own = _errors(student, teacher, student, prompts, sampling, seed, samples)
    other = _errors(student, teacher, teacher, prompts, sampling, seed, samples)
    accumulated, expected = own.cumsum(0), other.cumsum(0)
    percent = 100 * (accumulated - expected) / expected
    percent = torch.where(expected > 0, percent, torch.full_like(percent, torch.nan))
    return ExcessError(tuple(percent.tolist()), tuple(accumulated.tolist()), tuple(expected.tolist()))


def _errors(
    student: LanguageModel,
    teacher: LanguageModel,
    writer: LanguageModel,
    prompts: Sequence[Sequence[int]],
    how: Decoding,
    seed: int,
    samples: int,
) -> Tensor:
    """Mean over prompts and samples of KL(p_t, q_t) after prefixes that ``writer`` samples, float64 [most]."""
    divergence = Divergence("fkl")
    total = torch.zeros(how.most, dtype=torch.float64)
    for sample in range(samples):
        # the step is the sample's number; teacher and student draw the same uniforms, which pairs the two sums
        draw = Draw(seed, sample, tuple(range(len(prompts))))
        outputs = generate(writer, prompts, how, draw)
        rows = [Example(tuple(p), o) for p, o in zip(prompts, outputs, strict=True)]
        for first in range(0, len(rows), how.batch_size):
            batch = pack(rows[first : first + how.batch_size], how.pad).to(student.device)
            with student.evaluating(), teacher.evaluating():
                found = divergence(student.predictions(batch, batch.out), teacher.predictions(batch, batch.out))
            place = (batch.out.long().cumsum(1) - 1)[batch.out].cpu()
            total.index_add_(0, place, found.double().cpu())
    return total / (samples * len(prompts))
