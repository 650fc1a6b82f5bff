"""The learner's inner level: gradients at masked points, and the three kinds of steps made of them.

For every function ``learner`` is the :class:`~manyone.policies.harmodt.learner.PolicyLearner` whose weights, masks and
options count; S is its number of networks, G the tasks at hand, d the maskable entries, P all entries. Public names:
:func:`take_step`, :func:`all_task_gradients`, :func:`point_gradients`, :func:`task_losses`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import reduce
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from manyone.nets.decision import DropoutNoise
from manyone.policies.conflict import cagrad, pcgrad
from manyone.policies.tasks import TaskBatch
from manyone.randomness import generator_for

if TYPE_CHECKING:
    from manyone.policies.harmodt.learner import PolicyLearner

_STACKED = 16 << 20  # entries of stacked weights that a pass over the tasks may hold
_SMALL = 1 << 20  # parameters of a network up to which tasks are stacked for their gradients


def take_step(learner: PolicyLearner, tasks: list[int], batch: TaskBatch, rate: float) -> Tensor:
    """One optimisation step on ``batch`` of ``tasks`` with learning rate ``rate``; the losses before it, [S, G]."""
    if learner.surgery != "none":
        return _surgery_step(learner, tasks, batch, rate)
    if learner.tasks_per_step == 1 or not learner.masked:
        return _step(learner, tasks, batch, rate)
    return _stacked_step(learner, tasks, batch, rate)


def all_task_gradients(
    learner: PolicyLearner,
    tasks: Sequence[int] | None = None,
    *,
    batches: int = 1,
    purpose: str = "score",
    clip: bool | None = None,
    squares: bool = False,
) -> Tensor:
    """``PolicyLearner.task_gradients`` as [S, N, d] always; with ``squares`` means of squared per-sample gradients."""
    tasks = list(range(len(learner.data))) if tasks is None else list(tasks)
    members, d = len(learner.models), learner.layout.maskable
    width = members * learner.layout.total * (learner.batch_size if squares else 1)
    # stacking pays while the weights are small beside the activations; a large network fills the processor alone
    at_once = max(1, min(len(tasks), _STACKED // width)) if learner.layout.total <= _SMALL else 1
    out = torch.empty(members, len(tasks), d, dtype=learner._point.dtype, device=learner._point.device)
    for number in range(batches):
        for start in range(0, len(tasks), at_once):
            part = tasks[start : start + at_once]
            batch = learner.data.batch(
                part, learner.iteration, learner.seeds, batch_size=learner.batch_size, purpose=f"{purpose} {number}"
            )
            found, _ = point_gradients(learner, part, batch, squares)  # [S, G (x B), P]
            share: Tensor | float = 1 / batches
            if learner.score_clip if clip is None else clip:
                share = _clip_factor(learner, found).mul_(share)
            found = found[..., :d]
            if squares:
                found = found.mul_(share).unflatten(1, (len(part), -1)).square_().mean(2).mul_(batches)
                share = 1.0
            place = out[:, start : start + at_once]
            if number:
                place += found.mul_(share)
            else:
                torch.mul(found, share, out=place)
    return out


def _step(learner: PolicyLearner, tasks: list[int], batch: TaskBatch, rate: float) -> Tensor:
    """One task under its mask, or any number of tasks with the dense network."""
    d = learner.layout.maskable
    mask = learner.flat_masks(tasks)[:, 0] if learner.masked else None
    if mask is not None:
        with torch.no_grad():
            torch.mul(learner._kept, learner.forward_mask(mask), out=learner._point.detach()[:, :d])
    losses = task_losses(learner, learner.layout.views(learner._point), batch, task_noise(learner, tasks))
    (gradient,) = torch.autograd.grad(losses.mean(1).sum(), learner._point)
    if mask is not None and learner.clip_after_mask:
        gradient[:, :d].mul_(learner.forward_mask(mask))
    gradient.mul_(_clip_factor(learner, gradient))
    if mask is not None and not learner.clip_after_mask:
        gradient[:, :d].mul_(learner.forward_mask(mask))
    _apply(learner, gradient, mask, rate)
    return losses.detach()


def _stacked_step(learner: PolicyLearner, tasks: list[int], batch: TaskBatch, rate: float) -> Tensor:
    """Several tasks at once, each under its own mask: the mean of their gradients."""
    d = learner.layout.maskable
    masks = learner.flat_masks(tasks)  # [S, G, d]
    factors = learner.mask_factors(tasks)
    stacked = (learner._kept.unsqueeze(1) * factors).flatten(0, 1)
    # every tensor a leaf of its own: nothing has to be put together for all tasks at once
    leaves = {name: view.requires_grad_() for name, view in learner.layout.views(stacked, "maskable").items()}
    rest = learner._point.detach()[:, d:].requires_grad_()
    losses = task_losses(learner, leaves | learner.layout.views(rest, "rest"), batch, task_noise(learner, tasks))
    *found, gradient_rest = torch.autograd.grad(losses.mean(1).sum(), [*leaves.values(), rest])
    masked, plain = [], []
    for each, factor in zip(found, factors.split([learner.layout.sizes[name] for name in leaves], -1)):
        each = each.view(factor.shape)
        if not learner.clip_after_mask:
            plain.append(each.sum(1))
        masked.append(each.mul_(factor).sum(1))
    gradient = torch.cat((*masked, gradient_rest), 1)
    norms = torch.cat((*plain, gradient_rest), 1) if plain else gradient
    gradient.mul_(_clip_factor(learner, norms))
    with torch.no_grad():
        learner._point[:, :d] = learner._kept
    _apply(learner, gradient, reduce(torch.logical_or, masks.unbind(1)), rate)
    return losses.detach()


def _surgery_step(learner: PolicyLearner, tasks: list[int], batch: TaskBatch, rate: float) -> Tensor:
    """Dense gradients of the step's tasks, combined into one direction for each network."""
    gradients, losses = point_gradients(learner, tasks, batch, noise=task_noise(learner, tasks))
    combined = []
    for number, (seed, each) in enumerate(zip(learner.seeds, gradients)):
        if learner.surgery == "pcgrad":
            combined.append(pcgrad(each, generator_for(seed, "pcgrad", learner.iteration)))
        elif learner.surgery == "gradnorm":
            combined.append(learner.balance[number].combine(each, losses[number], tasks))
        else:
            combined.append(cagrad(each, learner.cagrad_c))
    gradient = torch.stack(combined)
    gradient.mul_(_clip_factor(learner, gradient))
    _apply(learner, gradient, None, rate)
    return losses


def point_gradients(
    learner: PolicyLearner, tasks: list[int], batch: TaskBatch, squares: bool = False, noise: DropoutNoise | None = None
) -> tuple[Tensor, Tensor]:
    """Gradients over all parameters at each task's (masked) point, [S, G, P], of single samples [S, G B, P]; losses."""
    d, members = learner.layout.maskable, len(learner.models)
    # one task needs no copy: the first d entries of a masked method's point are scratch anyway
    own = len(tasks) == 1 and not squares
    stacked = learner._point.detach().unsqueeze(1)
    stacked = stacked if own else stacked.repeat(1, len(tasks), 1)
    if learner.masked:
        torch.mul(learner._kept.unsqueeze(1), learner.mask_factors(tasks), out=stacked[..., :d])
    if squares:
        stacked = stacked.repeat_interleave(learner.batch_size, 1)
        steps = {k: v.flatten(0, 1).unsqueeze(1) for k, v in batch.steps.items()}
        prompt = None if batch.prompt is None else {k: v.flatten(0, 1).unsqueeze(1) for k, v in batch.prompt.items()}
        batch = TaskBatch(steps, prompt, batch.tasks.repeat_interleave(learner.batch_size))
    stacked = stacked.flatten(0, 1).requires_grad_()
    losses = task_losses(learner, learner.layout.views(stacked), batch, noise, members)
    (gradient,) = torch.autograd.grad(losses.sum(), stacked)
    return gradient.unflatten(0, (members, -1)), losses.detach()


def task_losses(
    learner: PolicyLearner,
    weights: Mapping[str, Tensor],
    batch: TaskBatch,
    noise: DropoutNoise | None,
    members: int | None = None,
) -> Tensor:
    """Mean squared error over the valid actions of each task, [S, G]."""
    steps = batch.steps
    size = steps["timesteps"].shape[1]
    task = batch.tasks.to(learner._point.device).unsqueeze(1).expand(-1, size) if learner.model.id_tokens else None
    with _autocast(learner):
        found = learner.model.run(weights, steps, batch.prompt if learner.model.prompt else None, task, noise=noise)
    error = (found.to(learner._point.dtype) - steps["actions"]).square().sum(-1)
    valid = steps["valid"]
    means = (error * valid).sum((1, 2)) / (valid.sum((1, 2)) * learner.model.action_dim)
    return means.view(len(learner.models) if members is None else members, -1)


def _apply(learner: PolicyLearner, gradient: Tensor, mask: Tensor | None, rate: float) -> None:
    """AdamW in place; what ``mask`` [S, d] leaves out stays what it was."""
    learner._optimiser.step(gradient, rate, mask)
    if mask is not None:
        d = learner.layout.maskable
        with torch.no_grad():
            torch.where(mask, learner._point.detach()[:, :d], learner._kept, out=learner._kept)


def _clip_factor(learner: PolicyLearner, gradient: Tensor) -> Tensor:
    """What brings the norm over the last axis down to ``clip``, [..., 1]."""
    norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    return (learner.clip / (norm + 1e-6)).clamp_(max=1.0)


def task_noise(learner: PolicyLearner, tasks: Sequence[int]) -> DropoutNoise | None:
    """Dropout of this step: for each network and task a stream of its own."""
    if not learner.model.dropout:
        return None
    names = [(seed, "dropout", learner.iteration, j) for seed in learner.seeds for j in range(len(tasks))]
    return DropoutNoise(learner.model.dropout, names, learner._point.device)


def _autocast(learner: PolicyLearner) -> AbstractContextManager[Any]:
    if learner.autocast is None:
        return nullcontext()
    return torch.autocast(learner._point.device.type, dtype=learner.autocast)
