"""The training of our networks and the gradient through it, without autograd.

One inner step of momentum SGD on the loss l of the synthetic set D is

    v_{t+1} = beta v_t + dl/dw (w_t)         w_{t+1} = w_t - alpha v_{t+1}

and the way back, from L = dH/dw_T and M = 0 (arXiv 2410.22728 unrolls it; the form is that of reversible learning,
Maclaurin et al., ICML 2015)::

    M = beta M + L        dH/dD += - alpha (d2l/dD dw)' M        L = L - alpha (d2l/dw2) M

with dH/dalpha = - sum_t M' dl/dw and dH/dbeta = - alpha sum_t M' v_t. Both products with M are one pass
(:meth:`~.passes.Passes.second`) over the records of a step. How many records are kept at once is free: weights (and
velocities) stay at the start of every stretch of ``every`` steps, and a stretch is run again before the way back goes
through it, but for the last. ``every`` = T keeps all records, 1 keeps all weights.

Public names: :func:`train`, :func:`meta_gradient`, :func:`memory`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from manyone.behavior.derivatives.passes import Layout, Passes, Point
from manyone.behavior.derivatives.result import Descent, MetaGradient, Outer, outer_gradient
from manyone.behavior.students.network import NetworkStudent


@torch.no_grad()
def train(
    student: NetworkStudent,
    weights: Mapping[str, Tensor],
    states: Tensor,
    actions: Tensor,
    descent: Descent,
    noise: Tensor | None,
) -> dict[str, Tensor]:
    """The weights after ``descent`` on states [N, S] and actions [N, A]; noise as in :func:`meta_gradient`."""
    layout = Layout(student, student.check(weights), noise is not None)
    passes = Passes(layout, states, actions, length=1)
    passes.load(states, actions, noise)
    at, velocity = (Point(layout, states.new_zeros(layout.length())) for _ in range(2))
    layout.pack(weights, at.flat)
    rate = descent.lr * 2 / actions.numel()
    for step in range(descent.steps):
        passes.forward(0, step, at)
        passes.backward(0, at)
        passes.gradient(0, velocity, descent.momentum if step else 0.0)
        at.flat.sub_(velocity.flat, alpha=rate)
    return layout.unpack(at.flat, weights)


class Plan(NamedTuple):
    """What is kept of a training with ``steps`` steps whose stretches have ``every`` steps."""

    steps: int
    every: int
    velocities: bool

    @property
    def stretches(self) -> int:
        """Their number; the last may be shorter."""
        return -(-self.steps // self.every)

    def row(self, step: int) -> int:
        """Where w_step is kept: starts and w_T first, then what lies within the stretch at hand."""
        if step == self.steps:
            return self.stretches
        stretch, within = divmod(step, self.every)
        return stretch if not within else self.stretches + within

    @property
    def rows(self) -> int:
        """Weights that are kept at once."""
        return max(self.stretches + min(self.every, self.steps), 1)


class _Space:
    """Buffers of a training and of its way back."""

    def __init__(self, layout: Layout, states: Tensor, actions: Tensor, plan: Plan) -> None:
        def points(count: int) -> list[Point]:
            return [Point(layout, one) for one in states.new_zeros(count, layout.length())]

        self.passes = Passes(layout, states, actions, min(plan.every, plan.steps))
        self.weights = points(plan.rows)
        self.velocities = points(plan.rows if plan.velocities else 1)
        self.adjoint, self.direction = points(2)


_spaces: WeakKeyDictionary[NetworkStudent, tuple[object, _Space]] = WeakKeyDictionary()


@contextmanager
def _space(layout: Layout, states: Tensor, actions: Tensor, plan: Plan) -> Iterator[_Space]:
    """The buffers of the student's last call where they fit, else new ones.

    Making them anew costs a quarter of an outer step: the system maps and clears their pages one by one. Nobody else
    has them meanwhile, so threads may share a student.
    """
    student = layout.student
    key = (layout.members, layout.noisy, states.shape, actions.shape, states.dtype, states.device, plan)
    known, space = _spaces.pop(student, (None, None))
    if space is None or known != key:
        del space  # before the new ones take their place
        space = _Space(layout, states, actions, plan)
    yield space
    _spaces[student] = (key, space)


def memory(student: NetworkStudent, members: int, rows: int, steps: int, every: int, noisy: bool, size: int) -> int:
    """Bytes of buffers, to within what does not grow with ``steps``; ``size``: bytes of a number."""
    hidden, width = student.spec.layers - 1, student.spec.width
    plan = Plan(steps, every, velocities=False)
    records = min(every, steps) * members * rows * (hidden * (2 * width + 1) + 4 * student.action_dim)
    return size * (records + plan.rows * Layout(student, members, noisy).length())


@torch.no_grad()
def meta_gradient(
    student: NetworkStudent,
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
    """H and its derivatives for states [N, S], actions [N, A] and noise [T, N, A] or [T, K, N, A].

    ``every``: see the module; from 1 to T. ``rates``: the derivatives by lr and momentum too.
    """
    steps, lr, momentum = descent
    every = max(1, min(every, steps))
    plan = Plan(steps, every, velocities=rates or bool(momentum and 1 < every < steps))
    layout = Layout(student, student.check(weights), noise is not None)
    if noise is not None and noise.ndim == 3:
        noise = noise.unsqueeze(1)
    scale = 2 / actions.numel()
    with _space(layout, states, actions, plan) as space:
        layout.pack(weights, space.weights[0].flat)
        space.passes.load(states, actions, noise)
        training = _Training(space, plan, lr * scale, momentum)
        last = (plan.stretches - 1) * every
        for step in range(steps):
            training.step(step, max(step - last, 0))
        trained = layout.unpack(space.weights[plan.row(steps)].flat, weights)
        loss, by_weights = outer_gradient(outer, trained)
        layout.pack(by_weights, space.adjoint.flat)
        by_momentum = training.back(rates)
        head = space.passes.head
        return MetaGradient(
            loss,
            space.passes.by_states.T * (-lr * scale),
            head.by_target.sum(0).T * (lr * scale),
            trained,
            head.by_rate.sum() * -scale if rates else None,
            by_momentum * (-lr * scale) if rates else None,
        )


class _Training:
    """The steps of a plan, there and back; ``rate`` is the learning rate times the loss's factor 2 / (N A)."""

    def __init__(self, space: _Space, plan: Plan, rate: float, momentum: float) -> None:
        self.space, self.plan, self.rate, self.momentum = space, plan, rate, momentum

    def step(self, step: int, slot: int, update: bool = True) -> None:
        """Records w_step's step in ``slot``, and makes the next weights."""
        plan, space = self.plan, self.space
        at = space.weights[plan.row(step)]
        space.passes.forward(slot, step, at)
        space.passes.backward(slot, at)
        if update:
            old, velocity = (space.velocities[plan.row(s) if plan.velocities else 0] for s in (step, step + 1))
            space.passes.gradient(slot, velocity, self.momentum if step else 0.0, old)
            torch.sub(at.flat, velocity.flat, alpha=self.rate, out=space.weights[plan.row(step + 1)].flat)

    def back(self, rates: bool) -> Tensor:
        """From dH/dw_T in ``adjoint`` to the sums of the passes; returns sum_t M' v_t, or 0."""
        plan, space = self.plan, self.space
        adjoint, direction = space.adjoint, space.direction if self.momentum else space.adjoint
        space.direction.flat.zero_()
        by_momentum = adjoint.flat.new_zeros(())
        for stretch in reversed(range(plan.stretches)):
            start, stop = stretch * plan.every, min((stretch + 1) * plan.every, plan.steps)
            if stop < plan.steps:
                for step in range(start, stop):
                    self.step(step, step - start, update=step < stop - 1)
            for step in reversed(range(start, stop)):
                if self.momentum:
                    torch.add(adjoint.flat, direction.flat, alpha=self.momentum, out=direction.flat)
                if rates and step:
                    by_momentum += direction.flat @ space.velocities[plan.row(step)].flat
                at = space.weights[plan.row(step)]
                space.passes.second(step - start, at, direction, adjoint if step else None, self.rate)
        return by_momentum
