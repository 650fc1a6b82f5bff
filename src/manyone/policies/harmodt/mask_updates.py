"""HarmoDT's upper level: when and how masks exchange entries, by the gradients of all tasks.

For masks g with the mean gradient u_g of their tasks and U the mean over all tasks, scores and choice are those of
:mod:`manyone.policies.harmodt.harmony`. Public names: :class:`MaskUpdate`, :func:`exchange_masks`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.policies.harmodt.harmony import (
    Importance,
    Ranking,
    agreement,
    exchange,
    harmony,
    importance,
    official_exchange,
    swap_count,
)
from manyone.policies.harmodt.losses import TaskLosses
from manyone.policies.harmodt.point import MaskedPoint
from manyone.policies.harmodt.steps import task_gradients
from manyone.policies.harmodt.variants import Update
from manyone.policies.masks import TaskMasks
from manyone.randomness import generator_for


@dataclass(frozen=True)
class MaskUpdate:
    """When and how masks change."""

    rule: Update
    """By dense gradients, at random, as the authors' program does it, or not at all."""
    importance: Importance
    gamma: float
    every: int
    """Steps between updates."""
    steps: int
    """Planned steps, over which the number of swaps is scheduled."""
    eta_min: float
    eta_max: float
    schedule: Literal["bump", "decay"]
    ranking: Ranking
    ema_decay: float
    """Smoothing of the tasks' gradients over updates."""
    fisher_samples: bool
    """Fisher scores from the squares of single samples' gradients."""
    until: float = 1.0
    """Share of the steps after which masks stay; the schedule goes over this share."""
    batches: int = 1
    """Batches whose gradients are averaged for the scores: those of one small batch hardly agree with another's."""

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("update", self.rule, ("none", "corrected", "random", "official")),
            ("importance", self.importance, ("fisher", "magnitude", "none")),
            ("ranking", self.ranking, ("global", "quota", "z-score")),
        ):
            if value not in allowed:
                raise ManyoneError(f"{name} {value!r}: must be one of {', '.join(allowed)}")
        self.swaps(0)

    def due(self, step: int) -> bool:
        """Whether masks change after ``step`` steps."""
        over = self.until < 1 and step > self.until * self.steps
        return self.rule != "none" and step % self.every == 0 and not over

    def swaps(self, step: int) -> int:
        """k, the entries that a mask exchanges after ``step`` steps."""
        return swap_count(step, self.until * self.steps, self.eta_min, self.eta_max, self.schedule)


@torch.no_grad()
def exchange_masks(at: MaskedPoint, losses: TaskLosses, by: MaskUpdate, step: int, clip: float) -> dict[str, float]:
    """One mask update of all networks after ``step`` steps; ``clip`` is that of the steps.

    Metrics: swaps a mask, "agreement", the mean over tasks of the cosine of u_i and U, and "agreement/<task>".
    """
    k = by.swaps(step)
    if k == 0 or by.rule == "random":
        if k:
            for masks, seed in zip(at.masks, losses.seeds):
                _swap_at_random(masks, by.ranking, seed, step, k)
            at.masks_changed()
        return {"swaps": float(k)}
    tasks = range(len(losses.data))
    with torch.enable_grad():
        gradients = task_gradients(at, losses, tasks, step, clip=clip, batches=by.batches)  # [S, N, d]
        squares: Tensor | list[None] = [None] * len(at.masks)
        if by.fisher_samples and by.importance == "fisher":
            squares = task_gradients(at, losses, tasks, step, squares=True, batches=by.batches)
    if by.ema_decay:
        gradients = gradients if at.smooth is None else at.smooth.lerp(gradients, 1 - by.ema_decay)
        at.smooth = gradients
    cosine = torch.stack([_exchange(at, number, by, gradients[number], squares[number], k)
                          for number in range(len(at.masks))]).mean(0)  # fmt: skip
    at.masks_changed()
    metrics = {"swaps": float(k), "agreement": float(cosine.mean())}
    return metrics | {f"agreement/{name}": float(c) for name, c in zip(losses.data.names, cosine)}


def _exchange(
    at: MaskedPoint, number: int, by: MaskUpdate, gradients: Tensor, squares: Tensor | None, k: int
) -> Tensor:
    """Exchanges the masks of one network by the gradients [N, d]; each task's cosine with the mean, [N]."""
    masks, theta = at.masks[number], at.theta[number]
    mean = gradients.mean(0)  # a tensor of its own: accumulating into a task's gradient would falsify that task
    norms = torch.linalg.vector_norm(gradients, dim=1) * torch.linalg.vector_norm(mean)
    cosine = (gradients @ mean) / norms.clamp(min=1e-30)
    if by.rule == "official":
        dense = torch.zeros_like(mean, dtype=torch.bool) if at.dense is None else at.dense
        gradients = torch.stack([torch.where(at.masks_of([t])[number, 0] | dense, u, 0)
                                 for t, u in enumerate(gradients)])  # fmt: skip
        gradients[0] = gradients.mean(0)
        mean = gradients[0]
    grouped = _by_mask(gradients, at.assignment, len(masks))
    grouped_squares = {} if squares is None else _by_mask(squares, at.assignment, len(masks))
    agreed, scored = torch.empty_like(mean), torch.empty_like(mean)  # fresh memory costs as much as the arithmetic
    for index, u in grouped.items():
        mask = masks.flat(index)
        if by.rule == "official":
            prune, recover = official_exchange(mask, u, mean, theta, k, by.importance, by.gamma, dense)
        else:
            a = agreement(u, mean, out=agreed)
            i = importance(by.importance, u, theta, grouped_squares.get(index), out=scored)
            h = harmony(a, i, by.gamma, out=scored)
            prune, recover = exchange(mask, h, a, k, ranking=by.ranking, sizes=masks.sizes)
        masks.flip(index, torch.cat((prune, recover)))
    return cosine


def _by_mask(values: Tensor, assignment: Sequence[int], count: int) -> dict[int, Tensor]:
    """u_g, the mean over the tasks that share mask g; masks that no task has are left out."""
    owners = torch.tensor(assignment, device=values.device)
    if sorted(assignment) == list(range(count)):
        return {g: values[t] for t, g in enumerate(assignment)}
    return {g: values[owners == g].mean(0) for g in sorted(set(assignment))}


def _swap_at_random(masks: TaskMasks, ranking: Ranking, seed: int, step: int, k: int) -> None:
    for index in range(len(masks)):
        draw = generator_for(seed, "random swap", index, step)
        scores = torch.rand(2, masks.size, generator=draw).to(masks.bits.device)
        prune, recover = exchange(masks.flat(index), scores[0], scores[1], k, ranking=ranking, sizes=masks.sizes)
        masks.flip(index, torch.cat((prune, recover)))
