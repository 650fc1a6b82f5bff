"""What each behavior recipe trains: the untrained learner that its options describe, on the data of a problem.

``evaluate`` is called with the learner and gives metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from manyone.behavior.artefact import Distilled
from manyone.behavior.cloning import CloningLearner, SetLearner
from manyone.behavior.coresets import initial_pairs
from manyone.behavior.data import BehaviorData
from manyone.behavior.density import density_weights
from manyone.behavior.distillation import Distillations, DistilLearner
from manyone.behavior.evolution import EvolutionLearner, Fitness
from manyone.behavior.inner import InnerLoop
from manyone.behavior.objectives import Objective
from manyone.behavior.recipes.options import (
    CalQLOptions,
    CloningOptions,
    DistilOptions,
    EvolutionOptions,
    IQLOptions,
    StudentOptions,
    TD3BCOptions,
    TeacherOptions,
)
from manyone.behavior.recipes.problem import BehaviorProblem
from manyone.behavior.students.network import StudentSpec
from manyone.behavior.teachers.bc import CloningTeacher
from manyone.behavior.teachers.calql import CalQLTeacher
from manyone.behavior.teachers.iql import IQLTeacher
from manyone.behavior.teachers.td3bc import TD3BCTeacher
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
    weights = o.weights if o.objective == "av-pbc" else None
    info = {
        "objective": o.objective, "weights": weights, "beta": o.beta if weights in ("clamped", "q") else None,
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


def evolution(o: EvolutionOptions, data: BehaviorData, fitness: Fitness, evaluate: Evaluate = None) -> EvolutionLearner:
    """The same pairs by evolution on ``fitness``, the students' returns."""
    return EvolutionLearner(
        data,
        fitness,
        start=initial_pairs(o.init, data, None, o.size, o.seed),
        spec=spec(o, data),
        inner=inner(o),
        students=o.at_once,
        evaluate=evaluate,
        info={"objective": "true returns", "init": o.init},
        **{name: getattr(o, name) for name in ("population", "sigma", "lr", "seed")},
    )


def objective(o: DistilOptions) -> Objective:
    """The outer loss."""
    return Objective(o.objective, o.weights, o.beta)


def spec(o: StudentOptions, data: BehaviorData) -> StudentSpec:
    """The students' architecture on ``data``."""
    return StudentSpec(o.student, o.layers, o.width, "softmax" if data.choices else "tanh")


def inner(o: StudentOptions) -> InnerLoop:
    """Their training on a synthetic set."""
    found = InnerLoop(o.inner_steps, o.inner_lr, o.inner_momentum)
    return replace(found, mode=o.mode, memory=o.memory) if isinstance(o, DistilOptions) else found


def cloning(
    o: CloningOptions, source: BehaviorData | Distilled, evaluate: Evaluate = None
) -> CloningLearner | SetLearner:
    """Behaviour cloning on a data set, or on a distilled set as it says but for what the options give."""
    if isinstance(source, Distilled):
        loop = replace(
            source.inner,
            steps=source.inner.steps if o.steps is None else o.steps,
            lr=source.inner.lr if o.lr is None else o.lr,
        )
        changed = replace(source, spec=_as_given(o, source.spec), inner=loop)
        return SetLearner(changed, students=o.students, seed=o.seed, evaluate=evaluate)
    own = StudentSpec("mlp", 4, 256 if o.preset == "paper" else 64, "softmax" if source.choices else "tanh")
    return CloningLearner(
        source, students=o.students, spec=_as_given(o, own), fraction=o.fraction, batch_size=o.batch_size,
        lr=1e-3 if o.lr is None else o.lr, seed=o.seed, evaluate=evaluate,
    )  # fmt: skip


def _as_given(o: CloningOptions, known: StudentSpec) -> StudentSpec:
    """``known`` but for what the options give; a residual network has 4 layers."""
    layers = o.layers or (4 if o.student == "residual" else known.layers)
    return replace(known, kind=o.student or known.kind, layers=layers, width=o.width or known.width)


def calql(o: CalQLOptions, data: BehaviorData, evaluate: Evaluate = None) -> CalQLTeacher:
    """Cal-QL."""
    own = {name: getattr(o, name) for name in ("alpha", "samples", "penalised")}
    return CalQLTeacher(data, evaluate=evaluate, **own, **_training(o))


def iql(o: IQLOptions, data: BehaviorData, evaluate: Evaluate = None) -> IQLTeacher:
    """Implicit Q-learning."""
    return IQLTeacher(data, expectile=o.expectile, temperature=o.temperature, evaluate=evaluate, **_training(o))


def td3bc(o: TD3BCOptions, data: BehaviorData, evaluate: Evaluate = None) -> TD3BCTeacher:
    """TD3+BC."""
    return TD3BCTeacher(data, alpha=o.alpha, evaluate=evaluate, **_training(o))


def cloned_teacher(o: TeacherOptions, data: BehaviorData) -> CloningTeacher:
    """Behaviour cloning as a teacher, which has no values."""
    return CloningTeacher(data, width=o.width, lr=o.policy_lr, steps=o.steps, batch_size=o.batch_size, seed=o.seed,
                          schedule=o.schedule, average=o.average)  # fmt: skip


def _training(o: TeacherOptions) -> dict[str, Any]:
    """What all teachers take."""
    names = ("steps", "batch_size", "width", "lr", "policy_lr", "schedule", "discount", "tau", "norm", "average",
             "seed")  # fmt: skip
    return {"scale": o.reward_scale or None, **{name: getattr(o, name) for name in names}}
