"""The learner's upper level: gradients of all tasks, scores, exchange of mask entries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

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
from manyone.policies.harmodt.steps import all_task_gradients
from manyone.policies.harmodt.variants import Update
from manyone.randomness import generator_for

if TYPE_CHECKING:
    from manyone.policies.harmodt.learner import PolicyLearner


@dataclass(frozen=True)
class MaskUpdate:
    """How masks change; see :class:`~manyone.policies.harmodt.learner.PolicyLearner` for the meanings."""

    rule: Update
    importance: Importance
    gamma: float
    eta_min: float
    eta_max: float
    schedule: Literal["bump", "decay"]
    ranking: Ranking
    ema_decay: float
    fisher_samples: bool

    def __post_init__(self) -> None:
        for name, value, allowed in (
            ("update", self.rule, ("none", "corrected", "random", "official")),
            ("importance", self.importance, ("fisher", "magnitude", "none")),
            ("ranking", self.ranking, ("global", "quota", "z-score")),
        ):
            if value not in allowed:
                raise ManyoneError(f"{name} {value!r}: must be one of {', '.join(allowed)}")
        swap_count(0, 1, self.eta_min, self.eta_max, self.schedule)


@torch.no_grad()
def exchange_masks(learner: PolicyLearner) -> dict[str, float]:
    """One mask update of all networks; metrics: swaps a mask, and how far the tasks agree with their mean.

    "agreement" is the mean over masks of the cosine of u_g and U, "agreement/<task>" that of the task's own gradient.
    """
    rule = learner.update
    k = swap_count(learner.iteration, learner.steps_planned, rule.eta_min, rule.eta_max, rule.schedule)
    if k == 0 or rule.rule == "random":
        for number, seed in enumerate(learner.seeds):
            _swap_at_random(learner, number, seed, k)
        learner._unpacked = None
        return {"swaps": float(k)}
    with torch.enable_grad():
        gradients = all_task_gradients(learner)  # [S, N, d]
        squares = None
        if rule.fisher_samples and rule.importance == "fisher":
            squares = all_task_gradients(learner, squares=True, clip=False)
    if rule.ema_decay:
        old = learner._smooth
        gradients = gradients if old is None else old.lerp(gradients, 1 - rule.ema_decay)
        learner._smooth = gradients
    cosines = [
        _exchange(learner, number, gradients[number], None if squares is None else squares[number], k)
        for number in range(len(learner.models))
    ]
    learner._unpacked = None
    cosine = torch.stack(cosines).mean(0)
    metrics = {"swaps": float(k), "agreement": float(cosine.mean())}
    return metrics | {f"agreement/{name}": float(c) for name, c in zip(learner.data.names, cosine)}


def _exchange(learner: PolicyLearner, number: int, gradients: Tensor, squares: Tensor | None, k: int) -> Tensor:
    """Exchanges the masks of one network by the gradients [N, d]; each task's cosine with the mean, [N]."""
    rule, masks, weights = learner.update, learner.masks[number], learner.maskable_weights()[number]
    mean = gradients.mean(0)  # a tensor of its own: accumulating into a task's gradient would falsify that task
    norms = torch.linalg.vector_norm(gradients, dim=1) * torch.linalg.vector_norm(mean)
    cosine = (gradients @ mean) / norms.clamp(min=1e-30)
    if rule.rule == "official":
        dense = torch.zeros_like(mean, dtype=torch.bool) if learner._dense is None else learner._dense
        blind = torch.stack([torch.where(learner.flat_masks([t])[number, 0] | dense, gradients[t], 0)
                             for t in range(len(gradients))])  # fmt: skip
        blind[0] = blind.mean(0)
        mean = blind[0]
    grouped = _by_mask(gradients if rule.rule != "official" else blind, learner.assignment, len(masks))
    grouped_squares = None if squares is None else _by_mask(squares, learner.assignment, len(masks))
    agreed, scored = torch.empty_like(mean), torch.empty_like(mean)  # fresh memory costs as much as the arithmetic
    for index, u in grouped.items():
        mask = masks.flat(index)
        if rule.rule == "official":
            prune, recover = official_exchange(mask, u, mean, weights, k, rule.importance, rule.gamma, dense)
        else:
            a = agreement(u, mean, out=agreed)
            square = None if grouped_squares is None else grouped_squares[index]
            score = harmony(a, importance(rule.importance, u, weights, square, out=scored), rule.gamma, out=scored)
            prune, recover = exchange(mask, score, a, k, ranking=rule.ranking, sizes=masks.sizes)
        masks.flip(index, torch.cat((prune, recover)))
    return cosine


def _by_mask(values: Tensor, assignment: list[int], count: int) -> dict[int, Tensor]:
    """u_g, the mean over the tasks that share mask g; masks that no task has are left out."""
    owners = torch.tensor(assignment, device=values.device)
    if sorted(assignment) == list(range(count)):
        return {g: values[t] for t, g in enumerate(assignment)}
    return {g: values[owners == g].mean(0) for g in sorted(set(assignment))}


def _swap_at_random(learner: PolicyLearner, number: int, seed: int, k: int) -> None:
    masks = learner.masks[number]
    for index in range(len(masks)) if k else ():
        draw = generator_for(seed, "random swap", index, learner.iteration)
        scores = torch.rand(2, masks.size, generator=draw).to(masks.bits.device)
        prune, recover = exchange(
            masks.flat(index), scores[0], scores[1], k, ranking=learner.update.ranking, sizes=masks.sizes
        )
        masks.flip(index, torch.cat((prune, recover)))
