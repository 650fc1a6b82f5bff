"""One step of a student's training by hand: forward, backward, and both differentiated along a direction.

For a perceptron h_l = relu(z_l), z_l = W_l h_{l-1} + b_l, h_0 = S, with d_l = dl/dz_l::

    forward     z_l = W_l h_{l-1}                                h_l = relu(z_l)
    backward    d_{l-1} = relu'(W_l' d_l)                        dl/dW_l = d_l h_{l-1}'
    along V     R z_l = W_l R h_{l-1} + V_l h_{l-1}              R h_l = relu'(R z_l)
    its way     R d_{l-1} = relu'(W_l' R d_l + V_l' d_l)         R dl/dW_l = R d_l h_{l-1}' + d_l R h_{l-1}'
    back        R dl/dS = W_1' R d_1 + V_1' d_1                  (relu': 0 where h_l is 0)

R is Pearlmutter's operator (Neural Computation 6, 1994): R g(W) is the derivative of g(W + e V) by e at 0; so the
second pair of lines gives the product of V with the second derivatives of l by the weights and by the states.

Layout, for K members with N shared states: units stand before rows, h_l is [K, width + 1, N] with a last row of ones,
so that biases are a row of the weights [K, inputs + 1, outputs], and the first map and its derivatives are one product
over all members. All weights of all members lie in one vector (:class:`Layout`). Everything is written into buffers.

Public names: :class:`Layout`, :class:`Point`, :class:`Passes`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from manyone.behavior.derivatives.heads import Gaussian, Head, Softmax, Tanh
from manyone.behavior.students.network import NetworkStudent

_ALIGNED = 16  # numbers; every tensor of a flat vector starts on a cache line
_cut = torch.ops.aten.threshold_backward.grad_input


@dataclass(frozen=True)
class Layout:
    """Where the weights of K members lie in one vector.

    ``noisy``: with the head for log-deviations, which has no gradient where actions are not drawn, and is left out.
    """

    student: NetworkStudent
    members: int
    noisy: bool

    def shapes(self) -> list[tuple[int, ...]]:
        """Of the first map [S + 1, K, width], the others [K, inputs + 1, outputs], and the head's own [2, K]."""
        maps = [(outputs, inputs + 1) for outputs, inputs in self.student.shapes()]
        if not self.noisy:
            maps[-1] = (self.student.action_dim, maps[-1][1])
        (width, first), *rest = maps
        found: list[tuple[int, ...]] = [(first, self.members, width)]
        found += [(self.members, inputs, outputs) for outputs, inputs in rest]
        return found + ([(2, self.members)] if self.noisy else [])

    def length(self) -> int:
        """Numbers of the vector."""
        return sum(_rounded(torch.Size(shape).numel()) for shape in self.shapes())

    def views(self, flat: Tensor) -> list[Tensor]:
        """The tensors of :meth:`shapes` in ``flat``."""
        found, start = [], 0
        for shape in self.shapes():
            size = torch.Size(shape).numel()
            found.append(flat[start : start + size].view(shape))
            start += _rounded(size)
        return found

    def pack(self, weights: Mapping[str, Tensor], flat: Tensor) -> None:
        """Writes a stack into ``flat``."""
        views, maps = self.views(flat), self.student.maps(weights, self.noisy)
        views[0][:-1].copy_(maps[0].permute(2, 1, 0).transpose(1, 2))
        views[0][-1].copy_(maps[1])
        for place in range(1, self.student.spec.layers):
            views[place][:, :-1].copy_(maps[2 * place].mT)
            views[place][:, -1].copy_(maps[2 * place + 1])
        if self.noisy:
            torch.stack([weights["log_std_scale"], weights["log_std_offset"]], out=views[-1])

    def unpack(self, flat: Tensor, rest: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The stack in ``flat``; what was left out is as in ``rest``."""
        views, found = self.views(flat), {name: value.detach().clone() for name, value in rest.items()}
        maps = self.student.maps(found, self.noisy)
        maps[0].copy_(views[0][:-1].permute(1, 2, 0))
        maps[1].copy_(views[0][-1])
        for place in range(1, self.student.spec.layers):
            maps[2 * place].copy_(views[place][:, :-1].mT)
            maps[2 * place + 1].copy_(views[place][:, -1])
        if self.noisy:
            found["log_std_scale"].copy_(views[-1][0])
            found["log_std_offset"].copy_(views[-1][1])
        return found


def _rounded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


class Point:
    """A vector of all weights, or of a direction, as the factors of its products."""

    def __init__(self, layout: Layout, flat: Tensor) -> None:
        views = layout.views(flat)
        self.flat = flat
        self.own = views[-1] if layout.noisy else None
        self.first = views[0].flatten(1)  # [S + 1, K width]
        self.first_t, self.first_states = self.first.T, self.first[:-1]
        self.maps = views[: layout.student.spec.layers]  # [0] is the first map, for no product
        self.up = [view.mT for view in self.maps]  # [K, outputs, inputs + 1]
        self.up_units = [view[:, :-1].mT for view in self.maps]  # without the bias
        self.down = [view[:, :-1] for view in self.maps]  # [K, inputs, outputs]


class _Records(NamedTuple):
    """What one step leaves behind; lists by layer, entry 0 unused."""

    full: list[Tensor]
    """h_l with its row of ones, [K, width + 1, N]: what the next map reads."""
    units: list[Tensor]
    """h_l, [K, width, N]."""
    gates: list[Tensor]
    """relu(z_l): h_l, but for the last hidden layer of a residual network, where h_l has h_1 added."""
    delta: list[Tensor]
    """d_l, [K, outputs, N]."""
    delta_t: list[Tensor]
    first_delta: Tensor
    """d_1 of all members, [K width, N]."""


class Passes:
    """The passes of K students (``layout``) on N states, with records of ``length`` steps.

    ``states`` [N, S] and ``actions`` [N, A] give shapes, type and device; :meth:`load` reads their values. A student
    that draws its actions has ``noise`` [T, K or 1, N, A].
    """

    def __init__(self, layout: Layout, states: Tensor, actions: Tensor, length: int) -> None:
        student, members, rows = layout.student, layout.members, len(states)
        width, hidden = student.spec.width, student.spec.layers - 1
        outputs = layout.shapes()[hidden][2]
        self.layers, self.residual = student.spec.layers, student.spec.kind == "residual"
        self.inputs = states.new_ones(student.state_dim + 1, rows)  # S with its row of ones
        self.target = states.new_empty(actions.shape[1], rows)
        self.scratch, self.shortcut = states.new_empty(2, members, width, rows)
        self.flat = self.scratch.flatten(0, 1)
        self.z = states.new_empty(members, outputs, rows)
        full = states.new_ones(length, hidden, members, width + 1, rows)
        delta = states.new_empty(length, hidden, members, width, rows)
        last = states.new_empty(length, *self.z.shape)
        gates = states.new_empty(length, members, width, rows) if self.residual else [None] * length
        self.records = [_records(*one) for one in zip(full, delta, last, gates, strict=True)]
        change = states.new_zeros(hidden, members, width + 1, rows)  # R h_l, whose last row stays 0
        self.change = _records(change, torch.empty_like(change[:, :, :-1]), torch.empty_like(self.z), None)
        self.by_states = torch.empty_like(self.inputs[:-1])
        self.head: Head
        if layout.noisy:
            self.head = Gaussian(length, self.z)
        else:
            self.head = (Softmax if student.spec.output == "softmax" else Tanh)(length, self.z)

    def load(self, states: Tensor, actions: Tensor, noise: Tensor | None) -> None:
        """Takes a synthetic set, and starts the sums of its derivatives at 0."""
        self.inputs[:-1].copy_(states.T)
        self.target.copy_(actions.T)
        if isinstance(self.head, Gaussian):
            assert noise is not None
            self.head.noise = noise.mT.contiguous()
        for value in (self.by_states, self.head.by_target, self.head.by_rate):
            value.zero_()

    def forward(self, slot: int, step: int, at: Point) -> None:
        """Records h_l and d_L of step ``step``."""
        one, scratch, last = self.records[slot], self.scratch, self.layers - 1
        torch.mm(at.first_t, self.inputs, out=self.flat)
        torch.clamp_min(scratch, 0, out=one.gates[1])
        for layer in range(1, last):
            torch.bmm(at.up[layer], one.full[layer], out=scratch)
            torch.clamp_min(scratch, 0, out=one.gates[layer + 1])
        if self.residual:
            torch.add(one.gates[last], one.units[1], out=one.units[last])
        torch.bmm(at.up[last], one.full[last], out=self.z)
        self.head.first(slot, step, self.z, self.target, one.delta[-1], at.own)

    def backward(self, slot: int, at: Point) -> None:
        """Records d_{L-1} to d_1 after :meth:`forward`."""
        one = self.records[slot]
        for layer in range(self.layers - 1, 0, -1):
            below = one.delta[layer]
            before = self._before(layer, below)
            if before is self.shortcut and layer == 1:
                before.baddbmm_(at.down[layer], one.delta[layer + 1])
            else:
                torch.bmm(at.down[layer], one.delta[layer + 1], out=before)
            _cut(before, one.gates[layer], 0, grad_input=below)

    def _before(self, layer: int, below: Tensor) -> Tensor:
        """Where dl/dh of a layer goes before the ReLU cuts it; a residual's second reader of h_1 waits there."""
        return self.shortcut if self.residual and layer in (1, self.layers - 1) else below

    def gradient(self, slot: int, into: Point, momentum: float, old: Point | None = None) -> None:
        """``into`` = ``momentum`` times ``old`` (default: ``into``) + dl/dw (see :mod:`~.heads` for the factor)."""
        one, old = self.records[slot], into if old is None else old
        torch.addmm(old.first, self.inputs, one.first_delta.T, beta=momentum, out=into.first)
        for place in range(1, self.layers):
            torch.baddbmm(old.maps[place], one.full[place], one.delta_t[place + 1], beta=momentum, out=into.maps[place])
        if into.own is not None:
            assert isinstance(self.head, Gaussian)
            assert old.own is not None
            torch.add(self.head.own_gradient, old.own, alpha=momentum, out=into.own)

    def second(self, slot: int, at: Point, along: Point, adjoint: Point | None, rate: float) -> None:
        """Adds R dl/dS, R dl/dA and R l along ``along`` to the sums, and - ``rate`` R dl/dw to ``adjoint``.

        ``along`` may be ``adjoint`` itself: what is read of it is read before it changes.
        """
        one, change, last = self.records[slot], self.change, self.layers - 1
        scratch, full, units, delta = self.scratch, one.full, change.units, one.delta
        torch.mm(along.first_t, self.inputs, out=self.flat)
        _cut(scratch, one.gates[1], 0, grad_input=units[1])
        for layer in range(1, last):
            torch.bmm(along.up[layer], full[layer], out=scratch)
            scratch.baddbmm_(at.up_units[layer], units[layer])
            _cut(scratch, one.gates[layer + 1], 0, grad_input=units[layer + 1])
        if self.residual:
            units[last].add_(units[1])
        torch.bmm(along.up[last], full[last], out=self.z)
        self.z.baddbmm_(at.up_units[last], units[last])
        self.head.second(slot, self.z, delta[-1], change.delta[-1], at.own, along.own)
        for layer in range(last, 0, -1):
            below, above = change.delta[layer], change.delta[layer + 1]
            before = self._before(layer, below)
            if before is self.shortcut and layer == 1:
                before.baddbmm_(at.down[layer], above)
            else:
                torch.bmm(at.down[layer], above, out=before)
            before.baddbmm_(along.down[layer], delta[layer + 1])
            _cut(before, one.gates[layer], 0, grad_input=below)
            if adjoint is not None:
                into = adjoint.maps[layer]
                into.baddbmm_(full[layer], change.delta_t[layer + 1], alpha=-rate)
                into.baddbmm_(change.full[layer], one.delta_t[layer + 1], alpha=-rate)
        self.by_states.addmm_(at.first_states, change.first_delta)
        self.by_states.addmm_(along.first_states, one.first_delta)
        if adjoint is not None:
            adjoint.first.addmm_(self.inputs, change.first_delta.T, alpha=-rate)
            if adjoint.own is not None:
                assert isinstance(self.head, Gaussian)
                adjoint.own.add_(self.head.own_gradient, alpha=-rate)


def _records(full: Tensor, delta: Tensor, last: Tensor, gate: Tensor | None) -> _Records:
    """Views of one step's records [hidden, K, ...]."""
    none = full.new_empty(0)
    units = [none, *(one[:, :-1] for one in full)]
    deltas = [none, *delta, last]
    gates = units if gate is None else [*units[:-1], gate]
    transposed = [none, *(one.mT for one in deltas[1:])]
    return _Records([none, *full], units, gates, deltas, transposed, delta[0].flatten(0, 1))
