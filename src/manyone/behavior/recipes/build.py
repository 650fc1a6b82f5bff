"""What each behavior recipe trains: the untrained learner that its options describe, on the data of a problem.

``evaluate`` is called with the learner and gives metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from manyone.behavior.coresets import initial_pairs
from manyone.behavior.data import BehaviorData
from manyone.behavior.density import density_weights
from manyone.behavior.distil import Distillations, DistilLearner
from manyone.behavior.inner import InnerLoop
from manyone.behavior.objectives import Objective
from manyone.behavior.recipes.options import DistilOptions, StudentOptions
from manyone.behavior.recipes.problem import BehaviorProblem
from manyone.behavior.students.network import StudentSpec
from manyone.behavior.teachers.teacher import Labels

Evaluate = Callable[[Any], Mapping[str, Any]] | None


def distillations(
    o: DistilOptions, problem: BehaviorProblem, labels: Sequence[Labels | None], evaluate: Evaluate = None
) -> Distillations:
    """One distillation a data set; ``labels``: what the teacher of each says."""
    learners = [distillation(o, data, own) for data, own in zip(problem.data, labels, strict=True)]
    return Distillations(learners, evaluate)


def distillation(o: DistilOptions, data: BehaviorData, labels: Labels | None) -> DistilLearner:
    """The distillation of one data set."""
    info = {
        "objective": o.objective, "weights": o.weights if o.objective == "av-pbc" else None, "beta": o.beta,
        "density": o.density, "init": o.init,
    }  # fmt: skip
    return DistilLearner(
        data,
        labels,
        objective(o),
        start=initial_pairs(o.init, data, labels, o.size, o.seed),
        spec=spec(o, data),
        inner=inner(o),
        density=density_weights(data, o.density, o.seed) if o.density else None,
        info={name: value for name, value in info.items() if value is not None},
        **{name: getattr(o, name) for name in ("at_once", "batch_size", "outer", "lr", "clip", "stochastic",
                                               "learn_lr", "learn_momentum", "seed")},
    )  # fmt: skip


def objective(o: DistilOptions) -> Objective:
    """The outer loss."""
    return Objective(o.objective, o.weights, o.beta)


def spec(o: StudentOptions, data: BehaviorData) -> StudentSpec:
    """The students' architecture on ``data``."""
    return StudentSpec(o.student, o.layers, o.width, "softmax" if data.choices else "tanh")


def inner(o: StudentOptions) -> InnerLoop:
    """Their training on a synthetic set."""
    own = {"mode": o.mode, "memory": o.memory} if isinstance(o, DistilOptions) else {}
    return InnerLoop(o.inner_steps, o.inner_lr, o.inner_momentum, **own)
