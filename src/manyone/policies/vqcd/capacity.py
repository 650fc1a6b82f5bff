"""Room for more tasks than a network's weights were divided among: weights are released, or the network is widened.

"Solving Continual Offline RL through Selective Weights Activation on Aligned Spaces" (arXiv 2410.15698), section 4.2
describes both and tries the first:

    release   of each earlier mask the share with the smallest |W|, tensor by tensor, goes to the new tasks
    widen     the earlier weights are the leading corner of larger tensors, the new tasks have what is outside of it

A task that was learned before a widening acts with the network of its own width, cut out of the larger tensors: what
it does stays, bit for bit.

Public names: :func:`release`, :func:`widen`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.policies.vqcd.weights import MaskedWeights, Tensors, pack_masks, share_of, weight_shapes
from manyone.randomness import generator_for


def release(weights: MaskedWeights, fresh: nn.Module, *, tasks: int = 1, share: float | None = None, seed: int) -> None:
    """Gives ``tasks`` new tasks the released part of all earlier ones' weights, and starts it anew.

    ``share`` of each earlier task's weights is released; None: as much as makes all tasks' shares equal. ``fresh`` is
    an untrained network of the same shapes, from which the released weights are taken. The earlier tasks act without
    them from now on.
    """
    _check(weights, tasks)
    earlier = len(weights.masks)
    share = tasks / (earlier + tasks) if share is None else share
    if not 0 < share < 1:
        raise ManyoneError(f"share = {share}: must be between 0 and 1")
    started = {name: value.detach() for name, value in fresh.named_parameters()}
    rows = [weights.masks.unpack(task) for task in range(earlier)]
    freed = {name: torch.zeros_like(mask) for name, mask in rows[0].items()}
    for row in rows:
        for name, mask in row.items():
            own = mask.flatten().nonzero().squeeze(1)
            size = weights.full[name].flatten()[own.to(weights.full[name].device)].abs().cpu()
            smallest = own[size.sort(stable=True).indices[: int(share * len(own))]]
            mask.view(-1)[smallest] = False
            freed[name].view(-1)[smallest] = True
    full = {
        name: torch.where(freed[name].to(value.device), started[name].to(value.device), value)
        for name, value in weights.full.items()
    }
    new = _divided(freed, tasks, seed, earlier)
    weights.regrown(weights.network, full, pack_masks(weights.masks.shapes, [*rows, *new]))


def widen(weights: MaskedWeights, wide: nn.Module, *, tasks: int = 1, seed: int) -> None:
    """Makes ``wide``, an untrained network with the same names and larger tensors, the network of ``tasks`` new tasks.

    Each tensor of two or more dimensions must be at least as large as before in every one and larger in some: the new
    tasks have nothing else.
    """
    _check(weights, tasks)
    shapes, before = weight_shapes(wide), weights.masks.shapes
    if shapes.keys() != before.keys() or dict(wide.named_parameters()).keys() - shapes.keys() != weights.first.keys():
        raise ManyoneError("the wider network has other tensors than the one before: only widths may differ")
    for name, shape in shapes.items():
        if len(shape) != len(before[name]) or any(a < b for a, b in zip(shape, before[name], strict=True)):
            raise ManyoneError(f"{name}: {list(shape)} does not hold the {list(before[name])} from before")
        if shape == before[name]:
            raise ManyoneError(
                f"{name}: {list(shape)} as before leaves nothing to a new task: widen it too, or release"
            )
    full = {name: value.detach().clone() for name, value in wide.named_parameters() if name in shapes}
    corners = {name: tuple(slice(n) for n in shape) for name, shape in before.items()}
    outside = {name: torch.ones(shape, dtype=torch.bool) for name, shape in shapes.items()}
    for name, corner in corners.items():
        full[name][corner] = weights.full[name].to(full[name].device)
        outside[name][corner] = False
    rows: list[Tensors] = []
    for task in range(len(weights.masks)):
        row = {name: torch.zeros(shape, dtype=torch.bool) for name, shape in shapes.items()}
        for name, mask in weights.masks.unpack(task).items():
            row[name][corners[name]] = mask
        rows.append(row)
    new = _divided(outside, tasks, seed, len(rows))
    weights.regrown(wide, full, pack_masks(shapes, [*rows, *new]))


def _check(weights: MaskedWeights, tasks: int) -> None:
    if tasks < 1:
        raise ManyoneError(f"tasks = {tasks}: there must be at least one new task")
    missing = [task for task in range(len(weights.masks)) if task not in weights.bank]
    if weights.active is not None or missing:
        raise ManyoneError("there is room for more tasks only once all earlier ones have been learned")


def _divided(free: Mapping[str, Tensor], tasks: int, seed: int, earlier: int) -> Sequence[Tensors]:
    """The entries ``free`` of each tensor divided among ``tasks`` at random."""
    rows: list[Tensors] = [{} for _ in range(tasks)]
    for name, mask in free.items():
        own = mask.flatten().nonzero().squeeze(1)
        own = own[torch.randperm(len(own), generator=generator_for(seed, "mask", name, "grown", earlier))]
        for number, row in enumerate(rows):
            row[name] = torch.zeros_like(mask)
            row[name].view(-1)[own[share_of(len(own), number, tasks)]] = True
    return rows
