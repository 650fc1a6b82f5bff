"""Gradients of many members at once: Z [M, P] and batches [M, b, ...] -> [M, P].

Four ways, the fastest that works being taken: the problem's closed form, one autograd graph over hand-stacked layers
(rows are independent, so the gradient of the sum of the losses is every member's own gradient), vmap of ``grad``, and
plain autograd for one member after another.
Public: ``Gradient``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

import torch
from torch import Tensor
from torch.func import grad, vmap

from manyone.errors import ManyoneError
from manyone.minimax.problems.problem import Problem
from manyone.minimax.scores import training

BACKENDS = ("auto", "stacked", "vmap", "loop")
Seeds = Callable[[int], int]
_LOG = logging.getLogger(__name__)


class Gradient:
    """``gradient(z, batch, noise)`` -> [M, P]: by x of the loss of x, by y of the loss of y (unsigned).

    ``backend``: "stacked" (closed form or hand-stacked graph), "vmap", "loop" (any loss that autograd knows: boolean
    masks, branches on values, random draws), "auto" (stacked if there is one, else vmap, or the loop from the first
    loss on that cannot be vmapped, which is logged once). ``seeds``: row -> the seed of what its loss draws from
    torch's global generator, which is left as it was; only the loop can draw.
    """

    def __init__(self, problem: Problem, backend: str = "auto") -> None:
        if backend not in BACKENDS:
            raise ManyoneError(f"backend = {backend!r}: choose one of {', '.join(BACKENDS)}")
        closed = type(problem).stacked_gradient is not Problem.stacked_gradient
        if backend == "stacked" and not (closed or problem.stackable):
            raise ManyoneError(f"{type(problem).__name__} has no stacked form: use backend='vmap'")
        self.problem, self.backend = problem, backend
        self.stacked = backend in ("auto", "stacked") and (closed or problem.stackable)
        self._vmapped = vmap(self._single, in_dims=(0, 0, 0, 0))
        self._vmapped_quiet = vmap(lambda x, y, batch: self._single(x, y, batch, None), in_dims=(0, 0, 0))

    def __call__(
        self, z: Tensor, batch: Mapping[str, Tensor], noise: Tensor | None = None, seeds: Seeds | None = None
    ) -> Tensor:
        try:
            with training():
                return self._computed(z, batch, noise, seeds)
        except (RuntimeError, TypeError, IndexError, KeyError) as problem:
            shapes = ", ".join(f"{name} {list(value.shape[2:])}" for name, value in batch.items()) or "none"
            what = f"{type(problem).__name__}: {_line(problem)}"
            raise ManyoneError(
                f"{type(self.problem).__name__}: the loss fails ({what}); a sample's fields and their shapes: {shapes}"
            ) from problem

    def _computed(self, z: Tensor, batch: Mapping[str, Tensor], noise: Tensor | None, seeds: Seeds | None) -> Tensor:
        if self.stacked:
            found = self.problem.stacked_gradient(z, batch, noise)
            if found is not None:
                return found
            if self.problem.stackable:
                return self._graph(z, batch, noise)
        if self.backend == "loop":
            return self._loop(z, batch, noise, seeds)
        try:
            return self._vmap(z, batch, noise)
        except (RuntimeError, TypeError, ValueError) as problem:
            if self.backend != "auto":
                raise ManyoneError(f"the loss cannot be vmapped ({_line(problem)}): use backend='loop'") from problem
            found = self._loop(z, batch, noise, seeds)  # a loss that is wrong in itself is wrong here too
            self.backend = "loop"
            _LOG.warning("the loss runs for one client after another, since it cannot be vmapped: %s",
                         _line(problem))  # fmt: skip
            return found

    def _vmap(self, z: Tensor, batch: Mapping[str, Tensor], noise: Tensor | None) -> Tensor:
        x, y = self.problem.spec.unpack(z.detach())
        if noise is None:
            of_x, of_y = self._vmapped_quiet(x, y, dict(batch))
        else:
            of_x, of_y = self._vmapped(x, y, dict(batch), noise)
        return self.problem.spec.pack(of_x, of_y)

    def _loop(self, z: Tensor, batch: Mapping[str, Tensor], noise: Tensor | None, seeds: Seeds | None) -> Tensor:
        rows = []
        with torch.random.fork_rng([z.device] if z.is_cuda else [], enabled=seeds is not None):
            for i in range(len(z)):
                if seeds is not None:
                    torch.manual_seed(seeds(i))
                own = {name: value[i] for name, value in batch.items()}
                rows.append(self._graph(z[i], own, None if noise is None else noise[i]))
        return torch.stack(rows)

    def _graph(self, z: Tensor, batch: Mapping[str, Tensor], noise: Tensor | None) -> Tensor:
        """One graph for ``z`` [..., P]; every named tensor is a leaf, so that no gradient is padded to the whole of z.

        The losses are [...]: one scalar for a single member.
        """
        problem = self.problem
        with torch.enable_grad():
            x, y = ({k: v.detach().requires_grad_() for k, v in part.items()} for part in problem.spec.unpack(z))
            value = problem.loss(x, y, batch, noise)
            first, second = list(x.values()), list(y.values())
            if isinstance(value, Tensor):
                found = _gradients(value, [*first, *second], z)
            else:
                found = _gradients(value[0], first, z, keep=True) + _gradients(value[1], second, z)
        return torch.cat([g.reshape(*z.shape[:-1], -1) for g in found], -1)

    def _single(
        self, x: dict[str, Tensor], y: dict[str, Tensor], batch: dict[str, Tensor], noise: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        loss = self.problem.loss
        if self.problem.zero_sum:
            return grad(lambda both: loss(both[0], both[1], batch, noise))((x, y))
        return grad(lambda v: loss(v, y, batch, noise)[0])(x), grad(lambda v: loss(x, v, batch, noise)[1])(y)


def _gradients(value: Tensor, leaves: list[Tensor], z: Tensor, keep: bool = False) -> tuple[Tensor, ...]:
    """By ``leaves`` of the losses ``value`` of the states ``z``; zeros where a loss depends on none of them."""
    if value.shape != z.shape[:-1]:
        raise ManyoneError(
            f"the loss has shape {list(value.shape)}: it must be a scalar, such as a mean over the batch"
        )
    if not value.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    return torch.autograd.grad(value.sum(), leaves, retain_graph=keep, allow_unused=True, materialize_grads=True)


def _line(error: BaseException) -> str:
    """The first sentence of a message."""
    return " ".join(str(error).split()).split(". ")[0][:200]
