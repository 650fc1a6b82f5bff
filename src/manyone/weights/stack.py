"""Many models' parameters with a leading member axis, mixed by matrices and run together with ``vmap``.

Averaging, gossip, routing and ensembling are one operation here: a matrix applied to the member axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from manyone.errors import ManyoneError
from manyone.weights.arithmetic import check_compatible
from manyone.weights.checkpoint import Weights


def stack_weights(members: Sequence[Weights]) -> dict[str, Tensor]:
    """Tensors [members, ...] of models with equal names and shapes."""
    if not members:
        raise ManyoneError("a stack needs at least one model")
    check_compatible(members[0], members[1:], finite=False)
    return {name: torch.stack([member[name].detach() for member in members]) for name in members[0]}


def unstack(stack: Weights) -> list[dict[str, Tensor]]:
    """Inverse of :func:`stack_weights`; the tensors are views into the stack."""
    count = member_count(stack)
    return [{name: value[i] for name, value in stack.items()} for i in range(count)]


def member_count(stack: Weights) -> int:
    """Length of the member axis, which all tensors must share."""
    counts = {value.shape[0] if value.ndim else 0 for value in stack.values()}
    if len(counts) != 1 or 0 in counts:
        raise ManyoneError(f"not a stack: its tensors have member axes of lengths {sorted(counts)}")
    return counts.pop()


def mix(matrix: Tensor, stack: Weights) -> dict[str, Tensor]:
    """New members as combinations of old ones: out[m] = sum_n matrix[m, n] stack[n] for float tensors.

    ``matrix`` is [new, old]. Integer tensors are taken from the old member with the largest weight.
    """
    if matrix.ndim != 2 or matrix.shape[1] != member_count(stack):
        raise ManyoneError(f"mixing matrix {list(matrix.shape)} does not fit {member_count(stack)} members")
    result = {}
    for name, value in stack.items():
        if value.dtype.is_floating_point:
            precise = torch.promote_types(value.dtype, torch.float32)
            weights = matrix.to(value.device, precise)
            result[name] = torch.tensordot(weights, value.to(precise), dims=1).to(value.dtype)
        else:
            result[name] = value[matrix.argmax(1).to(value.device)]
    return result


def vmap_call(
    module: nn.Module, stack: Weights, x: Tensor | Mapping[str, Tensor], chunk: int | None = None, shared: bool = True
) -> Any:
    """Outputs [members, ...] of ``module`` under every member's parameters.

    ``x`` (a tensor, or a mapping of keyword arguments) is the same for all members when ``shared``, else it has a
    leading member axis. ``chunk`` limits the members computed at a time. Randomness inside differs by member.
    """

    def one(weights: Mapping[str, Tensor], inputs: Any) -> Any:
        if isinstance(inputs, Mapping):
            return functional_call(module, dict(weights), (), dict(inputs))
        return functional_call(module, dict(weights), (inputs,))

    axes = (0, None if shared else 0)
    return vmap(one, in_dims=axes, chunk_size=chunk, randomness="different")(dict(stack), x)
