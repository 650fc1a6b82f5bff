"""Fresh students of a distilled set: K of them at once, by the published SGD or by another optimiser.

    from manyone.behavior import load_distilled, students
    policies = students.train(load_distilled("runs/obd/model"), seeds=10)

The published cross-optimiser table ran plain SGD in every column (the attribute that should choose is misspelt, and the
optimiser is made anew at every step, so that momentum never builds up). Here each optimiser is really used, with a step
size of its own: Adam at SGD's 0.1 would diverge. An optimiser works entry by entry, so that a stack of members is
exactly its members alone.

Public names: :func:`train`, :data:`OPTIMISERS`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from manyone.behavior.artefact import Distilled
from manyone.behavior.inner import InnerLoop, train_students
from manyone.behavior.objectives import objective_loss
from manyone.behavior.students.network import Student, StudentSpec, make_student
from manyone.behavior.students.policies import StudentPolicies
from manyone.errors import ManyoneError


@dataclass(frozen=True)
class _Optimiser:
    title: str
    lr: float | None = None
    """None: the set's own; with a momentum of its own, what moves weights as far in the long run."""
    momentum: float | None = None
    """None: the set's own."""
    adaptive: type[torch.optim.Adam | torch.optim.AdamW] | None = None


OPTIMISERS: Mapping[str, _Optimiser] = {
    "sgd": _Optimiser("SGD"),
    "momentum": _Optimiser("SGD", momentum=0.9),
    "adam": _Optimiser("Adam", 3e-3, adaptive=torch.optim.Adam),
    "adamw": _Optimiser("AdamW", 3e-3, adaptive=torch.optim.AdamW),
}
"""What :func:`train` can train with, by name."""


def train(
    distilled: Distilled,
    seeds: int | Sequence[int] = 10,
    *,
    spec: StudentSpec | Student | None = None,
    optimiser: str = "sgd",
    lr: float | None = None,
    steps: int | None = None,
) -> StudentPolicies:
    """A student for each seed, trained on all pairs in every step.

    ``seeds``: their number (seeds 0, 1, ...), or the seeds of their first weights. ``spec``: another architecture than
    the set was distilled with. ``optimiser``: sgd (as the set says, step size and momentum too), momentum (SGD with
    0.9), adam, adamw. ``lr``: its step size (None: the set's own for sgd, that times (1 - 0.9) / (1 - the set's
    momentum) for momentum, 0.003 for Adam and AdamW); ``steps``: None for as many as the set says.
    """
    if optimiser not in OPTIMISERS:
        raise ManyoneError(f"optimiser {optimiser!r}: must be one of {', '.join(OPTIMISERS)}")
    chosen, frame = OPTIMISERS[optimiser], distilled.frame
    if not isinstance(seeds, int) and not (isinstance(seeds, Sequence) and all(isinstance(s, int) for s in seeds)):
        raise ManyoneError(f"seeds {seeds!r:.40}: must be a number of students, or a list of whole numbers")
    numbers = range(seeds) if isinstance(seeds, int) else seeds
    if not len(numbers):
        raise ManyoneError(f"seeds {seeds}: give at least one")
    if isinstance(spec, str):
        raise ManyoneError(
            f"spec {spec!r:.40}: must be a StudentSpec, e.g. StudentSpec(kind={spec[:20]!r}), or a Student"
        )
    wanted = spec if spec is not None else distilled.spec
    student: Student = (
        make_student(wanted, frame.state_dim, frame.action_dim) if isinstance(wanted, StudentSpec) else wanted
    )
    momentum = distilled.inner.momentum if chosen.momentum is None else chosen.momentum
    usual = chosen.lr or distilled.inner.lr * (1 - momentum) / (1 - distilled.inner.momentum)
    loop = InnerLoop(distilled.inner.steps if steps is None else steps, usual if lr is None else lr, momentum)
    policies = StudentPolicies(frame, wanted, student.init(list(numbers)), _info(distilled, chosen, loop))
    if chosen.adaptive is None:
        weights = train_students(student, policies.weights, distilled.states, distilled.actions, loop)
    else:
        weights = _adaptive(student, policies.weights, distilled, chosen.adaptive, loop)
    if not all(bool(value.isfinite().all()) for value in weights.values()):
        raise ManyoneError(
            f"{distilled.name}: students diverged in {loop.steps} steps of {chosen.title} {loop.lr:g}: lower the lr"
        )
    return replace(policies, weights=weights)


def _adaptive(
    student: Student,
    weights: Mapping[str, Tensor],
    distilled: Distilled,
    kind: type[torch.optim.Adam | torch.optim.AdamW],
    loop: InnerLoop,
) -> dict[str, Tensor]:
    leaves = {name: value.clone().requires_grad_() for name, value in weights.items()}
    optimiser = kind(list(leaves.values()), loop.lr)
    for _ in range(loop.steps):
        found = student.forward(leaves, distilled.states)
        optimiser.zero_grad()
        (objective_loss(found, distilled.actions) * len(found)).backward()  # each member descends on its own loss
        optimiser.step()
    return {name: value.detach() for name, value in leaves.items()}


def _info(distilled: Distilled, chosen: _Optimiser, loop: InnerLoop) -> dict[str, Any]:
    momentum = f", momentum {loop.momentum:g}" if loop.momentum and chosen.adaptive is None else ""
    return distilled.info | {"training": f"{loop.steps} full-batch steps of {chosen.title} {loop.lr:g}{momentum}"}
