"""The training of any student and the gradient through it, by autograd.

A stretch of training steps is a function of its first weights, its first velocities and the synthetic set, whose graph
autograd keeps. One stretch of all T steps is the plain unrolling; with shorter ones the weights and velocities at their
starts are kept, and each stretch's graph is made again before the way back goes through it, but for the last.

Public names: :func:`train`, :func:`meta_gradient`, :func:`memory_of_a_step`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from manyone.behavior.derivatives.result import Descent, MetaGradient, Outer, check_scalar

Forward = Callable[[Mapping[str, Tensor], Tensor, Tensor | None], Tensor]
"""A student's ``forward``."""


class _State(NamedTuple):
    """Where a training is."""

    weights: list[Tensor]
    velocities: list[Tensor]

    def detached(self) -> _State:
        """The same without history, ready to be differentiated by."""
        return _State(*([value.detach().requires_grad_() for value in part] for part in self))


class _Loop:
    """T steps of training as a function of all that it depends on."""

    def __init__(
        self,
        forward: Forward,
        names: list[str],
        states: Tensor,
        actions: Tensor,
        descent: Descent,
        noise: Tensor | None,
        rates: bool = False,
    ) -> None:
        self.forward, self.names, self.noise, self.plain = forward, names, noise, not (descent.momentum or rates)
        self.states, self.actions = states.detach().requires_grad_(), actions.detach().requires_grad_()
        rate, momentum = (states.new_tensor(value) for value in (descent.lr, descent.momentum))
        self.lr, self.momentum = rate.requires_grad_(rates), momentum.requires_grad_(rates)

    def inputs(self) -> list[Tensor]:
        """What dH is asked for."""
        rates = [self.lr, self.momentum] if self.lr.requires_grad else []
        return [self.states, self.actions, *rates]

    def run(self, at: _State, steps: range, graph: bool) -> _State:
        """The state after ``steps``; with its history where there is a ``graph``."""
        for step in steps:
            weights = at.weights if graph else [value.detach().requires_grad_() for value in at.weights]
            with torch.enable_grad():
                drawn = None if self.noise is None else self.noise[step]
                error = self.forward(dict(zip(self.names, weights, strict=True)), self.states, drawn) - self.actions
                loss = error.square().mean((1, 2)).sum()  # members do not touch each other
                found = torch.autograd.grad(
                    loss, weights, create_graph=graph, allow_unused=True, materialize_grads=True
                )
            with torch.set_grad_enabled(graph):
                velocities = at.velocities if self.plain else [
                    self.momentum * v + g for v, g in zip(at.velocities, found, strict=True)
                ]  # fmt: skip
                used = found if self.plain else velocities
                at = _State([w - self.lr * v for w, v in zip(weights, used, strict=True)], velocities)
        return at


def _start(loop: _Loop, weights: Mapping[str, Tensor]) -> _State:
    first = [value.detach().requires_grad_() for value in weights.values()]
    velocities = [] if loop.plain else [torch.zeros_like(value).requires_grad_() for value in first]
    return _State(first, velocities)


def train(
    forward: Forward,
    weights: Mapping[str, Tensor],
    states: Tensor,
    actions: Tensor,
    descent: Descent,
    noise: Tensor | None,
) -> dict[str, Tensor]:
    """The weights after ``descent`` on states [N, S] or [K, N, S] and actions [N, A] or [K, N, A]."""
    loop = _Loop(forward, list(weights), states, actions, descent, noise)
    found = loop.run(_start(loop, weights), range(descent.steps), graph=False)
    return {name: value.detach() for name, value in zip(weights, found.weights, strict=True)}


def meta_gradient(
    forward: Forward,
    weights: Mapping[str, Tensor],
    states: Tensor,
    actions: Tensor,
    outer: Outer,
    descent: Descent,
    *,
    every: int,
    noise: Tensor | None = None,
    rates: bool = False,
) -> MetaGradient:
    """H and its derivatives; ``every``: steps of a stretch, T for the plain unrolling."""
    loop, steps = _Loop(forward, list(weights), states, actions, descent, noise, rates), descent.steps
    stretches = [range(start, min(start + every, steps)) for start in range(0, steps, max(every, 1))]
    starts = [_start(loop, weights)]
    for stretch in stretches[:-1]:
        starts.append(loop.run(starts[-1], stretch, graph=False).detached())
    end = loop.run(starts[-1], stretches[-1], graph=True) if stretches else starts[0]
    trained = dict(zip(loop.names, end.weights, strict=True))
    with torch.enable_grad():
        goal = outer(trained)
    check_scalar(goal)
    loss, trained = goal.detach(), {name: value.detach() for name, value in trained.items()}

    total = [torch.zeros_like(value) for value in loop.inputs()]
    for place in reversed(range(len(stretches))):
        if not goal.requires_grad:
            break
        start = starts.pop()
        state = [*start.weights, *start.velocities] if place else []
        found = torch.autograd.grad(goal, [*loop.inputs(), *state], allow_unused=True, materialize_grads=True)
        total = [a + b for a, b in zip(total, found)]
        if place:
            goal = end = None  # type: ignore[assignment]  # this graph goes before the next one comes
            end = loop.run(starts[-1], stretches[place - 1], graph=True)
            goal = _product(end, found[len(total) :])
    lr_gradient, momentum_gradient = total[2:] if rates else (None, None)
    return MetaGradient(loss, total[0], total[1], trained, lr_gradient, momentum_gradient)


@torch.enable_grad()
def _product(end: _State, adjoint: Sequence[Tensor]) -> Tensor:
    """A scalar with the gradient ``adjoint`` by ``end``: an adjoint given to autograd would load half of torch.fx."""
    ends = zip([*end.weights, *end.velocities], adjoint, strict=True)
    return torch.stack([(value * one).sum() for value, one in ends]).sum()


def memory_of_a_step(
    forward: Forward, weights: Mapping[str, Tensor], states: Tensor, actions: Tensor, noise: Tensor | None
) -> int:
    """Bytes that the graph of one step keeps, found by making it once."""
    kept: dict[int, int] = {}

    def pack(value: Tensor) -> Tensor:
        storage = value.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return value

    loop = _Loop(forward, list(weights), states, actions, Descent(1, 1.0), noise)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value):
        loop.run(_start(loop, weights), range(1), graph=True)
    return sum(kept.values())
