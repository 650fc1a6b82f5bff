"""HarmoDT's inner level: gradients at masked points, and the three kinds of steps made of them.

    w = theta * M_i on the maskable weights W, theta elsewhere                            MaskedPoint.w
    g = d/dw L_i(w), its global norm brought down to ``clip``, then * M_i on W            one_mask, stacked_masks

A step takes one task under its mask or any number with the dense network (:func:`one_mask`), several tasks each under
its own mask (:func:`stacked_masks`: the mean of their gradients), or combines the tasks' dense gradients
(:func:`combined`). Each returns a :class:`Direction` for :meth:`~manyone.policies.harmodt.point.MaskedPoint.move`.
:func:`task_gradients` are the dense gradients that masks are scored by. S is the number of networks, G the tasks at
hand, d the maskable entries, P all entries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

from manyone.nets.dropout import DropoutNoise
from manyone.policies.harmodt.losses import TaskLosses
from manyone.policies.harmodt.point import MaskedPoint
from manyone.policies.tasks import TaskBatch

_STACKED = 16 << 20  # entries of stacked weights that a pass over the tasks may hold
_SMALL = 1 << 20  # parameters of a network up to which tasks are stacked for their gradients


class Direction(NamedTuple):
    """What a step goes by."""

    gradient: Tensor
    """[S, P], clipped and masked."""
    mask: Tensor | None
    """bool [S, d]: the maskable entries that may move; None: all."""
    losses: Tensor
    """Before the step, [S, G]."""


def one_mask(at: MaskedPoint, losses: TaskLosses, tasks: Sequence[int], step: int, clip: float) -> Direction:
    """One task under its mask, or any number of tasks with the dense network."""
    d = at.layout.maskable
    mask = at.masks_of(tasks)[:, 0] if at.masked else None
    if mask is not None:
        with torch.no_grad():
            torch.mul(at.theta, at.in_forward(mask), out=at.w.detach()[:, :d])
    values = losses(at.layout.views(at.w), losses.batch(tasks, step), losses.dropout(tasks, step))
    (gradient,) = torch.autograd.grad(values.mean(1).sum(), at.w)
    gradient.mul_(clip_factor(gradient, clip))
    if mask is not None:
        gradient[:, :d].mul_(at.in_forward(mask))
    return Direction(gradient, mask, values.detach())


def stacked_masks(at: MaskedPoint, losses: TaskLosses, tasks: Sequence[int], step: int, clip: float) -> Direction:
    """Several tasks at once, each under its own mask: the mean of their gradients."""
    d = at.layout.maskable
    masks = at.masks_of(tasks)  # [S, G, d]
    factors = at.factors(tasks)
    stacked = (at.theta.unsqueeze(1) * factors).flatten(0, 1)
    # every tensor a leaf of its own: nothing has to be put together for all tasks at once
    leaves = {name: view.requires_grad_() for name, view in at.layout.views(stacked, "maskable").items()}
    rest = at.w.detach()[:, d:].requires_grad_()
    weights = leaves | at.layout.views(rest, "rest")
    values = losses(weights, losses.batch(tasks, step), losses.dropout(tasks, step))
    *parts, gradient_rest = torch.autograd.grad(
        values.mean(1).sum(), [*leaves.values(), rest], allow_unused=True, materialize_grads=True
    )
    masked, plain = [], []
    for part, factor in zip(parts, factors.split([at.layout.sizes[name] for name in leaves], -1)):
        part = part.view(factor.shape)
        plain.append(part.sum(1))
        masked.append(part.mul_(factor).sum(1))
    gradient = torch.cat((*masked, gradient_rest), 1)
    gradient.mul_(clip_factor(torch.cat((*plain, gradient_rest), 1), clip))
    with torch.no_grad():
        at.w[:, :d] = at.theta
    return Direction(gradient, reduce(torch.logical_or, masks.unbind(1)), values.detach())


def combined(
    at: MaskedPoint,
    losses: TaskLosses,
    tasks: Sequence[int],
    step: int,
    clip: float,
    combine: Callable[[int, Tensor, Tensor], Tensor],
) -> Direction:
    """Dense gradients of the step's tasks, made one direction by ``combine(network, gradients [G, P], losses [G])``."""
    gradients, values = point_gradients(at, losses, tasks, losses.batch(tasks, step), noise=losses.dropout(tasks, step))
    gradient = torch.stack([combine(number, gradients[number], values[number]) for number in range(len(gradients))])
    return Direction(gradient.mul_(clip_factor(gradient, clip)), None, values)


def task_gradients(
    at: MaskedPoint,
    losses: TaskLosses,
    tasks: Sequence[int],
    step: int,
    *,
    batches: int = 1,
    purpose: str = "score",
    clip: float | None = None,
    squares: bool = False,
) -> Tensor:
    """Dense gradients on W at the masked points theta * M_i, [S, N, d], without dropout.

    Means over ``batches`` batches drawn for (seed, ``purpose``, task, ``step``). With ``clip`` each batch's gradient is
    clipped like a step's, over all parameters; with ``squares`` means of squared per-sample gradients.
    """
    members, d, total = len(at.w), at.layout.maskable, at.layout.total
    width = members * total * (losses.batch_size if squares else 1)
    # stacking pays while the weights are small beside the activations; a large network fills the processor alone
    at_once = max(1, min(len(tasks), _STACKED // width)) if total <= _SMALL else 1
    out = torch.empty(members, len(tasks), d, dtype=at.w.dtype, device=at.w.device)
    for number in range(batches):
        for start in range(0, len(tasks), at_once):
            part = tasks[start : start + at_once]
            batch = losses.batch(part, step, f"{purpose} {number}")
            gradients, _ = point_gradients(at, losses, part, batch, squares)  # [S, G (x B), P]
            share: Tensor | float = 1 / batches
            if clip is not None:
                share = clip_factor(gradients, clip).mul_(share)
            gradients = gradients[..., :d]
            if squares:
                gradients = gradients.mul_(share).unflatten(1, (len(part), -1)).square_().mean(2).mul_(batches)
                share = 1.0
            place = out[:, start : start + at_once]
            if number:
                place += gradients.mul_(share)
            else:
                torch.mul(gradients, share, out=place)
    return out


def point_gradients(
    at: MaskedPoint,
    losses: TaskLosses,
    tasks: Sequence[int],
    batch: TaskBatch,
    squares: bool = False,
    noise: DropoutNoise | None = None,
) -> tuple[Tensor, Tensor]:
    """Gradients over all parameters at each task's (masked) point, [S, G, P], of single samples [S, G B, P]; losses."""
    # one task needs no copy: the first d entries of a masked method's w are scratch anyway
    own = len(tasks) == 1 and not squares
    stacked = at.w.detach().unsqueeze(1)
    stacked = stacked if own else stacked.repeat(1, len(tasks), 1)
    if at.masked:
        torch.mul(at.theta.unsqueeze(1), at.factors(tasks), out=stacked[..., : at.layout.maskable])
    if squares:
        stacked = stacked.repeat_interleave(losses.batch_size, 1)
        steps = {k: v.flatten(0, 1).unsqueeze(1) for k, v in batch.steps.items()}
        prompt = None if batch.prompt is None else {k: v.flatten(0, 1).unsqueeze(1) for k, v in batch.prompt.items()}
        batch = TaskBatch(steps, prompt, batch.tasks.repeat_interleave(losses.batch_size))
    stacked = stacked.flatten(0, 1).requires_grad_()
    values = losses(at.layout.views(stacked), batch, noise)
    (gradient,) = torch.autograd.grad(values.sum(), stacked)
    return gradient.unflatten(0, (len(at.w), -1)), values.detach()


def clip_factor(gradient: Tensor, clip: float) -> Tensor:
    """What brings the norm over the last axis down to ``clip``, [..., 1]; never above 1."""
    norm = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True)
    return (clip / (norm + 1e-6)).clamp_(max=1.0)
