"""Inner training: students learn a synthetic set by plain behaviour cloning, differentiably.

Lei et al., "Offline Behavior Distillation" (arXiv 2410.22728): T steps of full-batch gradient descent with momentum on
the mean squared difference between the student's actions and the set's,

    v_{t+1} = beta v_t + dl/dw (w_t, D)      w_{t+1} = w_t - alpha v_{t+1}      l = mean over N A of (pi_w(S) - A)^2

for K students at once, each on its own (:func:`train_students`), and the exact gradient of any function H of the
trained students by the set, the learning rate and the momentum (:func:`meta_gradient`). Modes of the gradient, which
agree to rounding:

    unrolled     autograd keeps the graph of all steps
    stored       the same for our networks by hand: weights and activations of all steps are kept (the fastest)
    recompute    the weights of all steps are kept, everything else is computed again on the way back
    segments     the weights of every sqrt(T)-th step are kept, and the records of sqrt(T) steps (the least memory)
    auto         the fastest that fits into the memory given

Students that draw their actions get their noise from the caller, the same on the way back as on the way there; the
authors' program draws it anew, so its gradient is not that of the training that it ran.

Public names: :class:`InnerLoop`, :class:`MetaGradient`, :func:`train_students`, :func:`meta_gradient`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Literal, get_args

from torch import Tensor

from manyone.behavior.derivatives import by_autograd, by_hand
from manyone.behavior.derivatives.result import Descent, MetaGradient, Outer
from manyone.behavior.students.network import NetworkStudent, Student
from manyone.errors import ManyoneError

__all__ = ["InnerLoop", "MetaGradient", "meta_gradient", "train_students"]

Mode = Literal["auto", "unrolled", "stored", "recompute", "segments"]
LONGEST = 100_000
"""Most inner steps: a thousand times the published number; a file that asks for more would never end."""


@dataclass(frozen=True)
class InnerLoop:
    """How a student is trained on a synthetic set.

    Attributes:
        steps: T, full-batch steps; lr: alpha; momentum: beta.
        mode: how the gradient through them is computed, see the module.
        memory: GiB that it may take with mode auto.
    """

    steps: int = 20
    lr: float = 0.5
    momentum: float = 0.0
    mode: Mode = "auto"
    memory: float = 1.0

    def __post_init__(self) -> None:
        if type(self.steps) is not int or not 0 <= self.steps <= LONGEST:
            raise ManyoneError(f"inner steps {self.steps!r:.40}: must be a whole number from 0 to {LONGEST}")
        if not (_is_number(self.lr) and 0 <= self.lr <= sys.float_info.max):
            raise ManyoneError(f"inner lr {self.lr!r:.40}: must be a finite number from 0")
        if not (_is_number(self.momentum) and 0 <= self.momentum < 1):
            raise ManyoneError(f"inner momentum {self.momentum!r:.40}: must be from 0 to below 1")
        if self.mode not in get_args(Mode):
            raise ManyoneError(f"mode {self.mode!r:.40}: must be one of {', '.join(get_args(Mode))}")
        if not (_is_number(self.memory) and 0 < self.memory <= 1e6):
            raise ManyoneError(f"memory {self.memory!r:.40}: must be above 0 (GiB), at most 1e6")
        for name in ("lr", "momentum", "memory"):  # NumPy's numbers too, and JSON knows these alone
            object.__setattr__(self, name, float(getattr(self, name)))

    @property
    def descent(self) -> Descent:
        """What the students do, apart from how it is differentiated."""
        return Descent(self.steps, self.lr, self.momentum)


def train_students(
    student: Student,
    weights: Mapping[str, Tensor],
    states: Tensor,
    actions: Tensor,
    inner: InnerLoop,
    *,
    noise: Tensor | None = None,
) -> dict[str, Tensor]:
    """The stack ``weights`` [K, ...] after its training.

    ``states`` [N, S] and ``actions`` [N, A] are the same for all members, or each has its own: [K, N, S], [K, N, A].
    ``noise`` [T, N, A] or [T, K, N, A]: students draw their actions with it.
    """
    weights = _checked(student, weights, states, actions, inner, noise)
    if isinstance(student, NetworkStudent) and states.ndim == actions.ndim == 2:
        return by_hand.train(student, weights, states, actions, inner.descent, noise)
    return by_autograd.train(student.forward, weights, states, actions, inner.descent, noise)


def meta_gradient(
    student: Student,
    weights: Mapping[str, Tensor],
    states: Tensor,
    actions: Tensor,
    outer: Outer,
    inner: InnerLoop,
    *,
    noise: Tensor | None = None,
    rates: bool = False,
) -> MetaGradient:
    """``outer`` of the trained students, and its gradient by ``states`` [N, S] and ``actions`` [N, A].

    ``outer`` gets the trained stack and returns H, a scalar (the mean over members). ``rates``: the gradients by the
    inner learning rate and momentum too. ``noise`` as in :func:`train_students`.
    """
    weights = _checked(student, weights, states, actions, inner, noise)
    if states.ndim != 2 or actions.ndim != 2:
        raise ManyoneError(f"states {list(states.shape)}, actions {list(actions.shape)}: a set is [N, S] and [N, A]")
    kept = {"unrolled": inner.steps, "stored": inner.steps, "recompute": 1, "segments": _root(inner.steps)}
    every = kept.get(inner.mode, 0)
    if isinstance(student, NetworkStudent) and inner.mode != "unrolled":
        every = every or _fitting(student, weights, states, inner, noise)
        found = by_hand.meta_gradient(
            student, weights, states, actions, outer, inner.descent, every=every, noise=noise, rates=rates
        )
    else:
        forward = student.plain if isinstance(student, NetworkStudent) else student.forward
        every = every or _fitting_graph(forward, weights, states, actions, inner, noise)
        found = by_autograd.meta_gradient(
            forward, weights, states, actions, outer, inner.descent, every=every, noise=noise, rates=rates
        )
    finite = all(bool(value.isfinite().all()) for value in (found.loss, found.states, found.actions))
    if not finite:
        raise ManyoneError(
            f"the gradient through {inner.steps} inner steps is not finite (outer loss {float(found.loss):.3g}): "
            f"lower the inner lr, {inner.lr:.3g} here, or take fewer steps"
        )
    return found


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _root(steps: int) -> int:
    return max(1, math.isqrt(max(steps - 1, 0)) + 1)


def _fitting(
    student: NetworkStudent, weights: Mapping[str, Tensor], states: Tensor, inner: InnerLoop, noise: Tensor | None
) -> int:
    """Steps of a stretch: the fastest way within the memory given, or else the one that takes least."""
    members = next(iter(weights.values())).shape[0]
    for length in (max(inner.steps, 1), 1):
        needed = by_hand.memory(
            student, members, len(states), inner.steps, length, noise is not None, states.element_size()
        )
        if needed <= inner.memory * 2**30:
            return length
    return _root(inner.steps)


def _fitting_graph(
    forward: by_autograd.Forward,
    weights: Mapping[str, Tensor],
    states: Tensor,
    actions: Tensor,
    inner: InnerLoop,
    noise: Tensor | None,
) -> int:
    """The same for autograd's graphs."""
    graph = by_autograd.memory_of_a_step(forward, weights, states, actions, noise) if inner.steps else 0
    kept = sum(value.nbytes for value in weights.values()) * (2 if inner.momentum else 1)
    for length in (inner.steps, 1):
        if graph * length + kept * inner.steps <= inner.memory * 2**30:
            return length
    return _root(inner.steps)


def _checked(
    student: Student,
    weights: Mapping[str, Tensor],
    states: Tensor,
    actions: Tensor,
    inner: InnerLoop,
    noise: Tensor | None,
) -> dict[str, Tensor]:
    """The weights where the states are; raises where shapes do not fit."""
    rows = states.shape[-2] if states.ndim > 1 else 0
    fits = states.ndim in (2, 3) and states.shape[-1] == student.state_dim
    if not (fits and actions.ndim in (2, 3) and tuple(actions.shape[-2:]) == (rows, student.action_dim) and rows):
        raise ManyoneError(
            f"states {list(states.shape)} and actions {list(actions.shape)}: the student needs [N, "
            f"{student.state_dim}] and [N, {student.action_dim}], N at least 1"
        )
    members = next(iter(weights.values())).shape[0]
    wanted = [(inner.steps, *shape, rows, student.action_dim) for shape in ((), (1,), (members,))]
    if noise is not None and tuple(noise.shape) not in wanted:
        raise ManyoneError(f"noise {list(noise.shape)}: must be [T, N, A] or [T, K, N, A], {list(wanted[-1])} here")
    return {name: value.detach().to(states) for name, value in weights.items()}
