"""Which modules moved most during fine-tuning, and therefore deserve input-conditioned merging.

The published analysis compares ||theta_i - theta_0||_2 and cos(theta_i, theta_0) per block and module group (WEMoE,
arXiv 2402.00433, section 3). The raw distance grows with the size of a group, and a cosine near 1 summed in float32
exceeds 1; so four measures are given, all accumulated in float64:

    l2        ||D||_2                         rms       ||D||_2 / sqrt(number of parameters)
    relative  ||D||_2 / ||v_0||_2             one_minus_cos   1/2 || v_i/|v_i| - v_0/|v_0| ||^2

Public names: :func:`sensitivity`, :func:`critical_groups`, :class:`SensitivityRow`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.merging.roles import block_of, find_blocks, module_of, role_of

Measure = Literal["l2", "rms", "relative", "one_minus_cos"]
MEASURES: tuple[Measure, ...] = ("l2", "rms", "relative", "one_minus_cos")
_CHUNK = 1 << 20


@dataclass(frozen=True)
class SensitivityRow:
    """One group of one block: mean and standard deviation (population) over the experts of each measure."""

    block: str | None
    group: str
    parameters: int
    mean: dict[str, float]
    std: dict[str, float]


def sensitivity(
    base: Mapping[str, Tensor],
    experts: Sequence[Mapping[str, Tensor]],
    groups: Mapping[str, str] | None = None,
) -> list[SensitivityRow]:
    """One row per block and group, plus one per group for the tensors outside every block (block None).

    ``groups`` maps a group's name to a regular expression on module paths; by default the roles are the groups.
    Only float tensors count. Memory: chunks of one million entries, whatever the size of the model.
    """
    if not experts:
        raise ManyoneError("sensitivity needs at least one expert")
    members: dict[tuple[str | None, str], list[str]] = {}
    for name, value in base.items():
        if value.is_floating_point():
            for group in _groups_of(name, groups):
                members.setdefault((block_of(name), group), []).append(name)
    order: dict[str | None, int] = {block: k for k, block in enumerate(find_blocks(base))}
    rows = []
    for (block, group), names in sorted(members.items(), key=lambda m: (order.get(m[0][0], len(order)), m[0][1])):
        per_expert = [_measures(base, expert, names) for expert in experts]
        mean: dict[str, float] = {m: sum(e[m] for e in per_expert) / len(per_expert) for m in MEASURES}
        std: dict[str, float] = {
            m: math.sqrt(sum((e[m] - mean[m]) ** 2 for e in per_expert) / len(per_expert)) for m in MEASURES
        }
        rows.append(SensitivityRow(block, group, sum(base[n].numel() for n in names), mean, std))
    return rows


def critical_groups(
    rows: Sequence[SensitivityRow], *, measure: Measure = "relative", threshold: float | None = None, top: int = 1
) -> list[str]:
    """The groups whose measure, averaged over blocks, is at least ``threshold``; without one the ``top`` largest.

    Rows outside every block are passed over, since only modules of a block can be routed.
    """
    if measure not in MEASURES:
        raise ManyoneError(f"unknown measure {measure!r}: use {', '.join(MEASURES)}")
    values: dict[str, list[float]] = {}
    for row in rows:
        if row.block is not None:
            values.setdefault(row.group, []).append(row.mean[measure])
    ranked = sorted(((sum(v) / len(v), g) for g, v in values.items()), reverse=True)
    if threshold is None:
        return [group for _, group in ranked[:top]]
    return [group for value, group in ranked if value >= threshold]


def _groups_of(name: str, groups: Mapping[str, str] | None) -> list[str]:
    if groups is None:
        return [role_of(name)]
    return [group for group, pattern in groups.items() if re.search(pattern, module_of(name))]


def _measures(base: Mapping[str, Tensor], expert: Mapping[str, Tensor], names: Sequence[str]) -> dict[str, float]:
    """The four measures of one expert over the concatenation of ``names``, in two chunked passes."""
    delta2 = base2 = expert2 = 0.0
    count = 0
    for name in names:
        if name not in expert:
            raise ManyoneError(f"an expert lacks the tensor {name!r} of the base model")
        for v0, vi in _chunks(base[name], expert[name], name):
            delta2 += float((vi - v0).square().sum())
            base2 += float(v0.square().sum())
            expert2 += float(vi.square().sum())
            count += v0.numel()
    norm0, norm1, angle2 = math.sqrt(base2), math.sqrt(expert2), 0.0
    if norm0 > 0 and norm1 > 0:
        for name in names:
            for v0, vi in _chunks(base[name], expert[name], name):
                angle2 += float((vi / norm1 - v0 / norm0).square().sum())
    distance = math.sqrt(delta2)
    return {
        "l2": distance,
        "rms": distance / math.sqrt(max(count, 1)),
        "relative": distance / norm0 if norm0 > 0 else (0.0 if distance == 0 else math.inf),
        "one_minus_cos": 0.5 * angle2 if norm0 > 0 and norm1 > 0 else (0.0 if distance == 0 else 1.0),
    }


def _chunks(base: Tensor, expert: Tensor, name: str) -> Iterator[tuple[Tensor, Tensor]]:
    if base.shape != expert.shape:
        raise ManyoneError(f"tensor {name!r} is {tuple(base.shape)} in the base and {tuple(expert.shape)} in an expert")
    flat0, flat1 = base.detach().reshape(-1), expert.detach().reshape(-1)
    for start in range(0, flat0.numel(), _CHUNK):
        yield flat0[start : start + _CHUNK].to(torch.float64), flat1[start : start + _CHUNK].to(torch.float64)
