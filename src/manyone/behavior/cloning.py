"""Behaviour cloning: on a whole data set, which is what a synthetic set is measured against, and on a synthetic set.

K students as one stack take the same mini-batches and differ in their first weights alone; the loss is the mean squared
error of their actions (or probabilities), as in the inner loop of the distillation.

Public names: :class:`CloningLearner`, :class:`SetLearner`, :func:`clone`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from manyone.behavior.artefact import Distilled, Frame
from manyone.behavior.checks import check_number, check_whole
from manyone.behavior.data import BehaviorData
from manyone.behavior.objectives import objective_loss
from manyone.behavior.students.network import StudentSpec, make_student
from manyone.behavior.students.policies import StudentPolicies, save_policies
from manyone.engine.progress import Progress
from manyone.engine.words import check_keywords
from manyone.nets.memory import keep_freed_memory
from manyone.randomness import generator_for, seed_for

STEPS = 3000
"""Updates of behaviour cloning on a whole data set, where nobody says otherwise."""


class CloningLearner:
    """``students`` students cloned from the actions of ``data`` by Adam (an engine ``Learner``).

    ``fraction``: of the episodes, the best by return, that are cloned (0.1: "10 % BC").
    """

    def __init__(
        self,
        data: BehaviorData,
        *,
        students: int = 1,
        spec: StudentSpec | None = None,
        fraction: float = 1.0,
        batch_size: int = 512,
        lr: float = 1e-3,
        seed: int = 0,
        evaluate: Callable[[CloningLearner], Mapping[str, float]] | None = None,
    ) -> None:
        check_whole("students", students)
        check_whole("batch_size", batch_size)
        check_number("lr", lr)
        check_number("fraction", fraction, 1)
        self.data, self._evaluate = data, evaluate
        self.rows = data if fraction == 1 else data.best(fraction)
        self.spec = spec or StudentSpec(output="softmax" if data.choices else "tanh")
        self.student = make_student(self.spec, data.state_dim, data.action_dim)
        first = self.student.init([seed_for(seed, "clone", member) for member in range(students)])
        self.weights = {name: value.to(data.states.device).requires_grad_() for name, value in first.items()}
        self.batch_size, self.seed, self.steps = batch_size, seed, 0
        self._adam = torch.optim.Adam(list(self.weights.values()), lr)
        if data.states.device.type == "cpu":
            keep_freed_memory()

    def step(self) -> dict[str, float]:
        """One update of all students; ``loss`` is their mean."""
        generator = generator_for(self.seed, "clone rows", self.steps)
        chosen = torch.randint(len(self.rows), (self.batch_size,), generator=generator).to(self.rows.states.device)
        found = self.student.forward(self.weights, self.rows.states[chosen])
        loss = objective_loss(found, self.rows.actions[chosen])
        self._adam.zero_grad()
        (loss * len(found)).backward()  # each student descends on its own loss
        self._adam.step()
        self.steps += 1
        return {"loss": float(loss.detach())}

    def policies(self) -> StudentPolicies:
        """The students as they are now."""
        weights = {name: value.detach().clone() for name, value in self.weights.items()}
        info = {"data": self.data.name, "digest": self.data.digest, "training": f"{self.steps} steps of Adam"}
        return StudentPolicies(Frame.of(self.data), self.spec, {k: v.cpu() for k, v in weights.items()}, info)

    def evaluate(self) -> dict[str, float]:
        """What the function given to the constructor measures."""
        return dict(self._evaluate(self)) if self._evaluate is not None else {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        weights = {name: value.detach() for name, value in self.weights.items()}
        return {"steps": self.steps, "weights": weights, "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        with torch.no_grad():
            for name, value in self.weights.items():
                value.copy_(state["weights"][name])
        self._adam.load_state_dict(state["adam"])
        self.steps = state["steps"]

    def export(self, folder: Path) -> None:
        """Writes the artefact of the policy (or of all students)."""
        save_policies(folder, self.policies())


class SetLearner:
    """``students`` students trained on a synthetic set as it says: full-batch SGD, a step each (an engine ``Learner``).

    After ``distilled.inner.steps`` steps they are those of :func:`manyone.behavior.students.training.train`.
    """

    def __init__(
        self,
        distilled: Distilled,
        *,
        students: int = 1,
        seed: int = 0,
        evaluate: Callable[[SetLearner], Mapping[str, float]] | None = None,
    ) -> None:
        self.distilled, self._evaluate, self.steps = distilled, evaluate, 0
        frame = distilled.frame
        self.student = make_student(distilled.spec, frame.state_dim, frame.action_dim)
        self.weights = self.student.init([seed_for(seed, "student of a set", k) for k in range(students)])
        self._velocity = {name: torch.zeros_like(value) for name, value in self.weights.items()}

    def step(self) -> dict[str, float]:
        """One full-batch step of all students; ``loss`` is their mean before it."""
        inner = self.distilled.inner
        leaves = {name: value.requires_grad_() for name, value in self.weights.items()}
        found = self.student.forward(leaves, self.distilled.states)
        loss = objective_loss(found, self.distilled.actions)
        # a head that greedy students do not use has no gradient
        slopes = torch.autograd.grad(loss * len(found), list(leaves.values()), allow_unused=True)
        for (name, value), slope in zip(leaves.items(), slopes, strict=True):
            velocity = self._velocity[name].mul_(inner.momentum)
            self.weights[name] = value.detach().sub_(velocity.add_(0 if slope is None else slope), alpha=inner.lr)
        self.steps += 1
        return {"loss": float(loss.detach())}

    def policies(self) -> StudentPolicies:
        """The students as they are now."""
        inner = self.distilled.inner
        info = self.distilled.info | {"training": f"{self.steps} full-batch steps of SGD {inner.lr:g}"}
        weights = {name: value.detach().clone() for name, value in self.weights.items()}
        return StudentPolicies(self.distilled.frame, self.distilled.spec, weights, info)

    def evaluate(self) -> dict[str, float]:
        """What the function given to the constructor measures."""
        return dict(self._evaluate(self)) if self._evaluate is not None else {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        weights = {name: value.detach() for name, value in self.weights.items()}
        return {"steps": self.steps, "weights": weights, "velocity": dict(self._velocity)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.steps, self.weights, self._velocity = state["steps"], dict(state["weights"]), dict(state["velocity"])

    def export(self, folder: Path) -> None:
        """Writes the artefact of the policy (or of all students)."""
        save_policies(folder, self.policies())


def clone(
    data: BehaviorData, *, steps: int = STEPS, students: int = 1, progress: bool | None = None, **options: Any
) -> StudentPolicies:
    """``students`` cloned from ``data`` in ``steps`` updates; ``options`` are those of :class:`CloningLearner`."""
    check_whole("steps", steps, 0)
    check_keywords("clone", options, CloningLearner)
    learner = CloningLearner(data, students=students, **options)
    with Progress(f"cloning {data.name}", steps, show=progress) as bar:
        for step in range(1, steps + 1):
            bar.update(step, metrics=learner.step())
    return learner.policies()
