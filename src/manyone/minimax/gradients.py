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
from manyone.minimax.problem import Problem

BACKENDS = ("auto", "stacked", "vmap")


class Gradient:
    """``gradient(z, batch, noise)`` -> [M, P]: by x of the loss of x, by y of the loss of y (unsigned).

    ``backend``: "stacked" (closed form or hand-stacked graph), "vmap" (any problem), "auto" (stacked if there is one).
    ``chunk``: members computed at a time, to bound the memory for activations; None: all.
    """

    def __init__(self, problem: Problem, backend: str = "auto", chunk: int | None = None) -> None:
        if backend not in BACKENDS:
            raise ManyoneError(f"backend = {backend!r}: choose one of {', '.join(BACKENDS)}")
        if chunk is not None and chunk < 1:
            raise ManyoneError(f"chunk = {chunk} members: must be at least 1")
        closed = type(problem).stacked_gradient is not Problem.stacked_gradient
        if backend == "stacked" and not (closed or problem.stackable):
            raise ManyoneError(f"{type(problem).__name__} has no stacked form: use backend='vmap'")
        self.problem, self.chunk = problem, chunk
        self.stacked = backend != "vmap" and (closed or problem.stackable)
        self._vmapped = vmap(self._single, in_dims=(0, 0, 0))
        self._vmapped_quiet = vmap(lambda z, batch: self._single(z, batch, None), in_dims=(0, 0))

    def __call__(self, z: Tensor, batch: Mapping[str, Tensor], noise: Tensor | None = None) -> Tensor:
        if self.chunk is None or len(z) <= self.chunk:
            return self._all(z, batch, noise)
        parts = []
        for at in range(0, len(z), self.chunk):
            rows = slice(at, at + self.chunk)
            piece = {name: value[rows] for name, value in batch.items()}
            parts.append(self._all(z[rows], piece, None if noise is None else noise[rows]))
        return torch.cat(parts)

    def _all(self, z: Tensor, batch: Mapping[str, Tensor], noise: Tensor | None) -> Tensor:
        if self.stacked:
            found = self.problem.stacked_gradient(z, batch, noise)
            if found is not None:
                return found
            if self.problem.stackable:
                return self._graph(z, batch, noise)
        if noise is None:
            return self._vmapped_quiet(z.detach(), dict(batch))
        return self._vmapped(z.detach(), dict(batch), noise)

    def _graph(self, z: Tensor, batch: Mapping[str, Tensor], noise: Tensor | None) -> Tensor:
        problem = self.problem
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            value = problem.loss(*problem.spec.unpack(leaf), batch, noise)
            if isinstance(value, Tensor):
                return torch.autograd.grad(value.sum(), leaf)[0]
            of_x = torch.autograd.grad(value[0].sum(), leaf, retain_graph=True)[0]
            of_y = torch.autograd.grad(value[1].sum(), leaf)[0]
        p = problem.spec.p
        return torch.cat([of_x[:, :p], of_y[:, p:]], 1)

    def _single(self, z: Tensor, batch: dict[str, Tensor], noise: Tensor | None) -> Tensor:
        problem, p = self.problem, self.problem.spec.p

        def value(flat: Tensor, player: int) -> Tensor:
            found = problem.loss(*problem.spec.unpack(flat), batch, noise)
            return found if isinstance(found, Tensor) else found[player]

        if problem.zero_sum:
            return grad(value)(z, 0)
        return torch.cat([grad(value)(z, 0)[:p], grad(value)(z, 1)[p:]])
