"""Gradients of many members at once: Z [M, P] and batches [M, b, ...] -> [M, P].

Three ways, the fastest available being taken: the problem's closed form, one autograd graph over hand-stacked layers
(rows are independent, so the gradient of the sum of the losses is every member's own gradient), vmap of ``grad``.
Public: ``Gradient``.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.func import grad, vmap

from manyone.errors import ManyoneError
from manyone.minimax.problems.problem import Problem

BACKENDS = ("auto", "stacked", "vmap")


class Gradient:
    """``gradient(z, batch, noise)`` -> [M, P]: by x of the loss of x, by y of the loss of y (unsigned).

    ``backend``: "stacked" (closed form or hand-stacked graph), "vmap" (any problem), "auto" (stacked if there is one).
    """

    def __init__(self, problem: Problem, backend: str = "auto") -> None:
        if backend not in BACKENDS:
            raise ManyoneError(f"backend = {backend!r}: choose one of {', '.join(BACKENDS)}")
        closed = type(problem).stacked_gradient is not Problem.stacked_gradient
        if backend == "stacked" and not (closed or problem.stackable):
            raise ManyoneError(f"{type(problem).__name__} has no stacked form: use backend='vmap'")
        self.problem = problem
        self.stacked = backend != "vmap" and (closed or problem.stackable)
        self._vmapped = vmap(self._single, in_dims=(0, 0, 0, 0))
        self._vmapped_quiet = vmap(lambda x, y, batch: self._single(x, y, batch, None), in_dims=(0, 0, 0))

    def __call__(self, z: Tensor, batch: Mapping[str, Tensor], noise: Tensor | None = None) -> Tensor:
        if self.stacked:
            found = self.problem.stacked_gradient(z, batch, noise)
            if found is not None:
                return found
            if self.problem.stackable:
                return self._graph(z, batch, noise)
        x, y = self.problem.spec.unpack(z.detach())
        if noise is None:
            of_x, of_y = self._vmapped_quiet(x, y, dict(batch))
        else:
            of_x, of_y = self._vmapped(x, y, dict(batch), noise)
        return self.problem.spec.pack(of_x, of_y)

    def _graph(self, z: Tensor, batch: Mapping[str, Tensor], noise: Tensor | None) -> Tensor:
        """One graph for all members; every named tensor is a leaf, so that no gradient is padded to the whole of z."""
        problem = self.problem
        with torch.enable_grad():
            x, y = ({k: v.detach().requires_grad_() for k, v in part.items()} for part in problem.spec.unpack(z))
            value = problem.loss(x, y, batch, noise)
            if isinstance(value, Tensor):
                leaves = [*x.values(), *y.values()]
                found = torch.autograd.grad(value.sum(), leaves, allow_unused=True, materialize_grads=True)
            else:
                first, second = list(x.values()), list(y.values())
                found = torch.autograd.grad(
                    value[0].sum(), first, retain_graph=True, allow_unused=True, materialize_grads=True
                ) + torch.autograd.grad(value[1].sum(), second, allow_unused=True, materialize_grads=True)
        return torch.cat([g.reshape(len(z), -1) for g in found], 1)

    def _single(
        self, x: dict[str, Tensor], y: dict[str, Tensor], batch: dict[str, Tensor], noise: Tensor | None
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        loss = self.problem.loss
        if self.problem.zero_sum:
            return grad(lambda both: loss(both[0], both[1], batch, noise))((x, y))
        return grad(lambda v: loss(v, y, batch, noise)[0])(x), grad(lambda v: loss(x, v, batch, noise)[1])(y)
