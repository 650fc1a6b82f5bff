"""Offline Behavior Distillation: a synthetic set on which a fresh student learns what a large data set teaches.

Lei, Zhang and Tao, "Offline Behavior Distillation" (NeurIPS 2024, arXiv 2410.22728), the bi-level problem of section 3
solved by back-propagation through time. One outer step k::

    w_0   = fresh random students, new at every step           Student.init
    w_T   = T steps of full-batch behaviour cloning on D        inner.train_students
    H     = outer loss of w_T on a batch of recorded states     objectives.objective_loss
    G     = dH / dD through all T steps                         inner.meta_gradient
    D     = D - optimiser(G clipped to a joint norm)            DistilLearner.step

What is drawn in step k depends on (seed, k) alone, so a resumed run goes on exactly. Differences from the authors'
program, each an option: K students at once instead of one, Adam instead of momentum SGD, greedy actions instead of
drawn ones (its way back draws other noise than its way there).

Public names: :class:`DistilLearner`, :class:`Distillations`, :func:`distil`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import process_time
from typing import Any, Literal

import torch
from torch import Tensor

from manyone.behavior.artefact import Distilled, save_distilled
from manyone.behavior.checks import check_number, check_whole
from manyone.behavior.coresets import initial_pairs
from manyone.behavior.data import BehaviorData
from manyone.behavior.inner import InnerLoop, meta_gradient
from manyone.behavior.objectives import Objective, objective_loss, state_weights, targets
from manyone.behavior.students.network import StudentSpec, make_student
from manyone.behavior.teachers.teacher import Labels, Teacher, label
from manyone.engine.progress import Progress
from manyone.engine.words import check_keywords
from manyone.errors import ManyoneError
from manyone.nets.memory import keep_freed_memory
from manyone.randomness import generator_for, seed_for

Outer = Literal["adam", "sgd"]
_INNER_RATE = 0.01  # step size of the logarithm of a learned inner learning rate, and of its momentum


class DistilLearner:
    """One data set being distilled (an engine ``Learner``).

    ``labels``: what a teacher says about the data (:func:`~manyone.behavior.teachers.teacher.label`), where the
    objective asks. ``density``: further weights [n]. ``start``: states [N, S] and actions [N, A] to begin with.
    ``evaluate`` gets the learner and returns metrics. ``info`` goes into the artefact.
    """

    def __init__(
        self,
        data: BehaviorData,
        labels: Labels | None = None,
        objective: Objective | None = None,
        *,
        start: tuple[Tensor, Tensor],
        spec: StudentSpec | None = None,
        inner: InnerLoop | None = None,
        at_once: int = 2,
        batch_size: int = 512,
        outer: Outer = "adam",
        lr: float = 0.02,
        clip: float = 2.0,
        stochastic: bool = False,
        learn_lr: bool = False,
        learn_momentum: bool = False,
        density: Tensor | None = None,
        seed: int = 0,
        evaluate: Callable[[DistilLearner], Mapping[str, float]] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        self.data, self.objective = data, objective or Objective()
        check_whole("at_once", at_once)
        check_whole("batch_size", batch_size)
        check_number("lr", lr)
        check_number("clip", clip)
        if spec is not None and not isinstance(spec, StudentSpec):
            raise ManyoneError(
                f"spec of type {type(spec).__name__}: sets are distilled with a StudentSpec; a module of your own "
                "learns from them with students.train"
            )
        if inner is not None and not isinstance(inner, InnerLoop):
            raise ManyoneError(f"inner {inner!r:.40}: must be an InnerLoop, e.g. InnerLoop(steps=20, lr=0.5)")
        self.spec = spec or StudentSpec(output="softmax" if data.choices else "tanh")
        if (self.spec.output == "softmax") != bool(data.choices):
            needed = "softmax" if data.choices else "tanh"
            raise ManyoneError(f"students with a {self.spec.output} output on {data.name}: its actions need {needed}")
        self.inner = inner or InnerLoop()
        self.student = make_student(self.spec, data.state_dim, data.action_dim)
        self.targets = targets(self.objective, data, labels)
        self.weights = state_weights(self.objective, data, labels, density)
        self.at_once, self.batch_size, self.clip, self.seed = at_once, batch_size, clip, seed
        self.stochastic, self.learn_lr, self.learn_momentum = stochastic, learn_lr, learn_momentum
        self.steps, self._evaluate, self.info = 0, evaluate, dict(info or {})
        self.states, self.actions = (value.detach().clone().float() for value in start)
        self.start = (self.states.clone(), self.actions.clone())
        _check_start(self.states, self.actions, data)
        self.log_lr = torch.tensor(self.inner.lr, device=self.states.device).log()
        self.momentum = torch.tensor(self.inner.momentum, device=self.states.device)
        self._optimiser = _optimiser(outer, [self.states, self.actions], lr)
        rates = [*([self.log_lr] if learn_lr else []), *([self.momentum] if learn_momentum else [])]
        self._rates = torch.optim.Adam(rates, _INNER_RATE) if rates else None
        if self.states.device.type == "cpu":
            keep_freed_memory()

    def step(self) -> dict[str, float]:
        """One outer step; ``loss`` is the outer loss H, ``clipped`` whether the gradient was too long."""
        seeds = [seed_for(self.seed, "student", self.steps, member) for member in range(self.at_once)]
        rows = torch.randint(len(self.data), (self.batch_size,), generator=generator_for(self.seed, "rows", self.steps))
        rows = rows.to(self.data.states.device)
        states, target = self.data.states[rows], self.targets[rows]
        weights = None if self.weights is None else self.weights[rows]
        noise, last = self._noise()

        def outer(trained: dict[str, Tensor]) -> Tensor:
            return objective_loss(self.student.forward(trained, states, last), target, weights)

        found = meta_gradient(
            self.student,
            {name: value.to(rows.device) for name, value in self.student.init(seeds).items()},
            self.states,
            self.actions,
            outer,
            self._loop(),
            noise=noise,
            rates=self._rates is not None,
        )
        self.states.grad, self.actions.grad = found.states, found.actions
        norm = float(torch.nn.utils.clip_grad_norm_([self.states, self.actions], self.clip))
        if not math.isfinite(norm):
            raise ManyoneError(
                f"{self.data.name}: the norm of the gradient is {norm} (outer loss {float(found.loss):.3g}):"
                " rewards or weights are too large: scale the rewards, or take the weights mean-one"
            )
        self._optimiser.step()
        metrics = {"loss": float(found.loss), "gradient_norm": norm, "clipped": float(norm > self.clip)}
        if self._rates is not None:
            # d H / d log lr = lr d H / d lr
            assert found.lr is not None
            self.log_lr.grad, self.momentum.grad = found.lr * self.log_lr.exp(), found.momentum
            self._rates.step()
            self.momentum.clamp_(0, 0.99)
            metrics |= {"inner_lr": self._loop().lr, "inner_momentum": self._loop().momentum}
        self.steps += 1
        return metrics

    def _loop(self) -> InnerLoop:
        """The inner training as it is now: as given but for what is learned."""
        lr = float(self.log_lr.exp()) if self.learn_lr else self.inner.lr
        return replace(self.inner, lr=lr, momentum=float(self.momentum) if self.learn_momentum else self.inner.momentum)

    def _noise(self) -> tuple[Tensor | None, Tensor | None]:
        """Standard normal numbers for the students' actions in the inner steps and in the outer loss."""
        if not self.stochastic:
            return None, None
        generator = generator_for(self.seed, "noise", self.steps)
        width = self.actions.shape[1]
        inner = torch.randn(self.inner.steps, self.at_once, len(self.states), width, generator=generator)
        last = torch.randn(self.at_once, self.batch_size, width, generator=generator)
        return inner.to(self.states.device), last.to(self.states.device)

    def distilled(self) -> Distilled:
        """The synthetic set as it is now."""
        return Distilled.of(
            self.data,
            self.states.detach().clone(),
            self.actions.detach().clone(),
            spec=self.spec,
            inner=self._loop(),
            info={**self.info, "outer_steps": self.steps, "seed": self.seed},
        )

    def evaluate(self) -> dict[str, float]:
        """What the function given to the constructor measures."""
        return dict(self._evaluate(self)) if self._evaluate is not None else {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        state: dict[str, Any] = {
            "steps": self.steps,
            "states": self.states.detach(),
            "actions": self.actions.detach(),
            "log_lr": self.log_lr.detach(),
            "momentum": self.momentum.detach(),
            "optimiser": self._optimiser.state_dict(),
        }
        return state | ({"rates": self._rates.state_dict()} if self._rates is not None else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        with torch.no_grad():
            for name in ("states", "actions", "log_lr", "momentum"):
                getattr(self, name).copy_(state[name])
        self._optimiser.load_state_dict(state["optimiser"])
        if self._rates is not None:
            self._rates.load_state_dict(state["rates"])
        self.steps = state["steps"]

    def export(self, folder: Path) -> None:
        """Writes the set's artefact."""
        save_distilled(folder, {self.data.name: self.distilled()})


class Distillations:
    """Several data sets, each distilled by itself: they take turns, a step each (an engine ``Learner``)."""

    def __init__(
        self,
        learners: Sequence[DistilLearner],
        evaluate: Callable[[Distillations], Mapping[str, float]] | None = None,
    ) -> None:
        self.learners, self._evaluate, self._turn = list(learners), evaluate, 0
        names = [one.data.name for one in self.learners]
        if len(set(names)) < len(names):
            raise ManyoneError(f"two data sets are called {names[0]}: give each a name of its own")

    def step(self) -> dict[str, Any]:
        """One outer step of the set whose turn it is; ``time`` holds its processor seconds."""
        learner = self.learners[self._turn % len(self.learners)]
        self._turn += 1
        began = process_time()
        metrics: dict[str, Any] = dict(learner.step())
        metrics["time"] = {"cpu": round(process_time() - began, 6)}
        several = len(self.learners) > 1
        return metrics | ({f"loss/{learner.data.name}": metrics["loss"]} if several else {})

    def distilled(self) -> dict[str, Distilled]:
        """The synthetic sets as they are now, by name."""
        return {learner.data.name: learner.distilled() for learner in self.learners}

    def evaluate(self) -> dict[str, float]:
        """What the function given to the constructor measures."""
        return dict(self._evaluate(self)) if self._evaluate is not None else {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {"turn": self._turn, "sets": [learner.state_dict() for learner in self.learners]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self._turn = state["turn"]
        for learner, own in zip(self.learners, state["sets"], strict=True):
            learner.load_state_dict(own)

    def export(self, folder: Path) -> None:
        """Writes the artefact of all sets."""
        save_distilled(folder, self.distilled())


def distil(
    data: BehaviorData,
    teacher: Teacher | None = None,
    objective: Objective | None = None,
    *,
    size: int = 256,
    steps: int = 400,
    init: str = "random",
    seed: int = 0,
    progress: bool | None = None,
    **options: Any,
) -> Distilled:
    """``size`` synthetic pairs that teach what ``data`` and ``teacher`` do, after ``steps`` outer steps.

    ``init`` names where they start (:func:`~manyone.behavior.coresets.initial_pairs`); further ``options`` are those
    of :class:`DistilLearner`. Progress is shown when it takes long (``progress`` None), always or never.
    """
    check_whole("steps", steps, 0)
    check_keywords("distil", options, DistilLearner)
    wanted = objective or Objective()
    labels = None
    if teacher is not None:
        labels = label(teacher, data, values=wanted.needs_values or init in ("top-q", "k-means-q"))
    start = initial_pairs(init, data, labels, size, seed)
    info = {"teacher": teacher.name if teacher is not None else "none", "init": init}
    learner = DistilLearner(data, labels, wanted, start=start, seed=seed, info=info, **options)
    with Progress(f"distilling {data.name}", steps, show=progress) as bar:
        for step in range(1, steps + 1):
            bar.update(step, metrics=learner.step())
    return learner.distilled()


def _optimiser(kind: Outer, parameters: list[Tensor], lr: float) -> torch.optim.Optimizer:
    if kind == "adam":
        return torch.optim.Adam(parameters, lr)
    if kind == "sgd":
        return torch.optim.SGD(parameters, lr, momentum=0.9)
    raise ManyoneError(f"outer optimiser {kind!r}: must be adam or sgd")


def _check_start(states: Tensor, actions: Tensor, data: BehaviorData) -> None:
    wanted = [(len(states), data.state_dim), (len(states), data.action_dim)]
    if [tuple(states.shape), tuple(actions.shape)] != wanted or not len(states):
        raise ManyoneError(
            f"{data.name}: the synthetic set starts with {list(states.shape)} and {list(actions.shape)}: expected "
            f"[N, {data.state_dim}] and [N, {data.action_dim}]"
        )
