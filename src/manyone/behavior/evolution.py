"""Behaviour distillation by evolution strategies on true returns: what an environment to act in would give.

Lupu, Lu, Liesen, Lange and Foerster, "Behaviour Distillation" (ICLR 2024) evolve the same few pairs D that
:mod:`manyone.behavior.distillation` descends on, but ask the environment instead of recorded data. One step k::

    e_1 .. e_{P/2}                  normal noise of the shape of D, and its negatives            EvolutionLearner.step
    w^{p,j} = BC(w_0^j, D + s e_p)  K students, fresh in every step, the same for all members     inner.train_students
    f_p     = mean return of w^{p,j} over students and episodes, the same for all members         Returns
    u_p     = rank of f_p among all, from -1/2 to 1/2                                             centred_ranks
    G       = -1/(P s) sum_p u_p e_p ;  D = D - Adam(G)

It needs no teacher and no gradient through training, and unlike it sees where students get to by themselves; it pays
with P K E episodes a step. So it is an oracle beside the offline objectives, no competitor of theirs. Fresh students in
every step, as in the paper's variant with random initialisation; P, s and Adam's rate here are ours, for two cores.

What is drawn in step k depends on (seed, k) alone, so a resumed run goes on exactly.

Public names: :class:`EvolutionLearner`, :class:`Returns`, :func:`centred_ranks`, :func:`evolve`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from manyone.behavior.artefact import Distilled, Frame, save_distilled
from manyone.behavior.coresets import initial_pairs
from manyone.behavior.data import BehaviorData
from manyone.behavior.inner import InnerLoop, train_students
from manyone.behavior.students.network import StudentSpec, make_student
from manyone.behavior.students.policies import Lockstep, StudentPolicies
from manyone.engine.progress import Progress
from manyone.engine.words import check_keywords
from manyone.errors import ManyoneError
from manyone.evaluation.rollouts import Arena, paired_episodes
from manyone.nets.memory import keep_freed_memory
from manyone.randomness import generator_for, seed_for


class Fitness(Protocol):
    """What is maximised."""

    def __call__(self, policies: StudentPolicies, step: int) -> np.ndarray:
        """A number for each of the students, float64 [M]; ``step`` fixes what is drawn."""


class Returns:
    """Mean returns of students over ``episodes`` in the environment of ``frame``; a context manager.

    All students of a step play the same episodes, those of another step other ones. ``horizon``: steps of an episode
    (None: the frame's). ``workers``: as in :class:`manyone.evaluation.rollouts.Arena`.
    """

    def __init__(
        self, frame: Frame, *, students: int, episodes: int = 1, horizon: int | None = None, seed: int = 0,
        workers: int | None = None,
    ) -> None:  # fmt: skip
        if frame.environment is None:
            raise ManyoneError(f"{frame.name}: no environment to act in: evolution strategies need one")
        self.task, self.episodes, self.seed = frame.environment, episodes, seed
        self.horizon = horizon or frame.horizon
        rows = students * episodes
        self.arena = Arena([self.task], rows, workers=workers, max_parallel=rows)

    def __call__(self, policies: StudentPolicies, step: int) -> np.ndarray:
        """Mean return of each student, float64 [M]."""
        played = paired_episodes([self.task], self.episodes, seed=seed_for(self.seed, "evolution episodes", step))
        members = [member for member in range(len(policies)) for _ in played]
        results = self.arena.rollout(
            Lockstep(policies, members), played * len(policies), horizon=self.horizon, progress=lambda done, total: None
        )
        return np.array([result.return_ for result in results]).reshape(len(policies), -1).mean(1)

    def __enter__(self) -> Returns:
        return self

    def __exit__(self, *problem: object) -> None:
        self.arena.close()


class EvolutionLearner:
    """The pairs that stand for ``data``, evolved on ``fitness`` (an engine ``Learner``).

    ``start``: states [N, S] and actions [N, A] to begin with. ``population``: P, an even number; ``sigma``: s, in
    deviations of the states and parts of the actions' half range; ``students``: K. ``evaluate`` gets the learner and
    returns metrics. ``info`` goes into the artefact.
    """

    def __init__(
        self,
        data: BehaviorData,
        fitness: Fitness,
        *,
        start: tuple[Tensor, Tensor],
        spec: StudentSpec | None = None,
        inner: InnerLoop | None = None,
        population: int = 32,
        sigma: float = 0.2,
        students: int = 1,
        lr: float = 0.05,
        seed: int = 0,
        evaluate: Callable[[EvolutionLearner], Mapping[str, float]] | None = None,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        if population < 2 or population % 2:
            raise ManyoneError(
                f"population {population}: must be an even number from 2, as noise comes with its negative"
            )
        if not sigma > 0 or students < 1:
            raise ManyoneError(f"sigma {sigma}, students {students}: must be above 0, and 1 or more")
        self.data, self.fitness = data, fitness
        self.spec = spec or StudentSpec(output="softmax" if data.choices else "tanh")
        self.inner = inner or InnerLoop()
        self.student = make_student(self.spec, data.state_dim, data.action_dim)
        self.population, self.sigma, self.students, self.seed = population, sigma, students, seed
        self.steps, self._evaluate, self.info = 0, evaluate, dict(info or {})
        self.states, self.actions = (value.detach().clone().float().cpu() for value in start)
        self._frame = Frame.of(data)
        self._adam = torch.optim.Adam([self.states, self.actions], lr)
        keep_freed_memory()

    def step(self) -> dict[str, float]:
        """One generation. ``loss`` is the mean return with its sign changed, ``diverged`` the share of students whose
        training did; these are the worst of all."""
        noise = self.noise()
        weights = self.trained([value + self.sigma * e for value, e in zip((self.states, self.actions), noise)])
        finite = torch.stack([value.reshape(len(value), -1).isfinite().all(1) for value in weights.values()]).all(0)
        playable = {name: torch.where(_along(finite, value), value, 0) for name, value in weights.items()}
        found = self.fitness(StudentPolicies(self._frame, self.spec, playable), self.steps)
        returns = torch.from_numpy(np.asarray(found, np.float64))
        ranked = torch.where(finite, returns, -math.inf).view(self.population, self.students).mean(1)
        shares = centred_ranks(ranked)
        for value, e in zip((self.states, self.actions), noise):
            value.grad = -torch.tensordot(shares.to(e), e, 1) / (self.population * self.sigma)
        norm = math.hypot(*(float(value.grad.norm()) for value in (self.states, self.actions)))  # type: ignore[union-attr]
        self._adam.step()
        self.steps += 1
        by_member = returns.view(self.population, self.students).mean(1)
        return {
            "loss": -float(returns.mean()),
            "return": float(returns.mean()),
            "return_best": float(by_member.max()),
            "return_spread": float(by_member.std()),
            "gradient_norm": norm,
            "diverged": 1 - float(finite.double().mean()),
        }

    def noise(self) -> list[Tensor]:
        """What this generation's members differ by, in states [P, N, S] and actions [P, N, A], before ``sigma``.

        The second half is the first one negated.
        """
        generator = generator_for(self.seed, "evolution noise", self.steps)
        halves = [torch.randn(self.population // 2, *value.shape, generator=generator)
                  for value in (self.states, self.actions)]  # fmt: skip
        return [torch.cat([half, -half]) for half in halves]

    def trained(self, sets: list[Tensor]) -> dict[str, Tensor]:
        """This generation's students, trained: P K of them, those of a member side by side, for ``sets``.

        ``sets``: the members' states [P, N, S] and actions [P, N, A].
        """
        first = self.student.init([seed_for(self.seed, "student", self.steps, k) for k in range(self.students)])
        weights = {name: value.repeat(len(sets[0]), *[1] * (value.ndim - 1)) for name, value in first.items()}
        states, actions = (value.repeat_interleave(self.students, 0) for value in sets)
        return train_students(self.student, weights, states, actions, self.inner)

    def distilled(self) -> Distilled:
        """The synthetic set as it is now."""
        info = {**self.info, "objective": "true returns, by evolution strategies", "outer_steps": self.steps,
                "seed": self.seed}  # fmt: skip
        return Distilled.of(
            self.data, self.states.clone(), self.actions.clone(), spec=self.spec, inner=self.inner, info=info
        )

    def evaluate(self) -> dict[str, float]:
        """What the function given to the constructor measures."""
        return dict(self._evaluate(self)) if self._evaluate is not None else {}

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on."""
        return {"steps": self.steps, "states": self.states, "actions": self.actions, "adam": self._adam.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.states.copy_(state["states"])
        self.actions.copy_(state["actions"])
        self._adam.load_state_dict(state["adam"])
        self.steps = state["steps"]

    def export(self, folder: Path) -> None:
        """Writes the set's artefact."""
        save_distilled(folder, {self.data.name: self.distilled()})


def centred_ranks(values: Tensor) -> Tensor:
    """Ranks of ``values`` [P] from -1/2 (the least) to 1/2; equal values share theirs, so that they cancel."""
    if len(values) < 2:
        return torch.zeros_like(values)
    above = (values.unsqueeze(1) > values).double() + (values.unsqueeze(1) >= values).double()
    return (above.sum(1) - 1) / (2 * (len(values) - 1)) - 0.5


def evolve(
    data: BehaviorData,
    *,
    size: int = 64,
    steps: int = 100,
    init: str = "random",
    population: int = 32,
    students: int = 1,
    episodes: int = 1,
    seed: int = 0,
    progress: bool | None = None,
    **options: Any,
) -> Distilled:
    """``size`` pairs whose students earn much in the environment of ``data``, after ``steps`` generations.

    Further ``options`` are those of :class:`EvolutionLearner`.
    """
    check_keywords("evolve", options, EvolutionLearner)
    start = initial_pairs(init, data, None, size, seed)
    with Returns(Frame.of(data), students=population * students, episodes=episodes, seed=seed) as returns:
        learner = EvolutionLearner(
            data,
            returns,
            start=start,
            population=population,
            students=students,
            seed=seed,
            info={"init": init},
            **options,
        )
        with Progress(f"evolving {data.name}", steps, show=progress) as bar:
            for step in range(1, steps + 1):
                bar.update(step, metrics=learner.step())
    return learner.distilled()


def _along(mask: Tensor, value: Tensor) -> Tensor:
    return mask.view(-1, *[1] * (value.ndim - 1))
