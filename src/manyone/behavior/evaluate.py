"""How well students act: K students x E episodes in lock-step, with both spreads.

Students that are trained on the same synthetic set differ in their first weights alone, and yet act very differently;
a student's own episodes differ too. A mean over everything hides which of the two it was, so both are reported.

    evaluate_students(distilled, episodes=10)                 # ten fresh students, and their ensemble
    evaluate_matrix({"64": small, "256": large}, evaluator, specs=architectures(small.spec), optimisers=OPTIMISERS)

Public names: :func:`evaluate_students`, :func:`evaluate_matrix`, :func:`architectures`, :class:`Evaluator`,
:class:`StudentScores`, :class:`Evaluation`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from manyone.behavior.artefact import Distilled, Frame
from manyone.behavior.checks import check_whole
from manyone.behavior.students.network import Student, StudentSpec
from manyone.behavior.students.policies import Lockstep, StudentPolicies
from manyone.behavior.students.training import train
from manyone.errors import ManyoneError
from manyone.evaluation.intervals import t_interval
from manyone.evaluation.rollouts import Arena, BatchedPolicy, paired_episodes


@dataclass(frozen=True, eq=False)
class StudentScores:
    """Returns and lengths of K students in the same E episodes."""

    returns: np.ndarray
    """float64 [K, E]"""
    lengths: np.ndarray
    """int64 [K, E]"""
    frame: Frame

    @property
    def mean(self) -> float:
        """Mean return over students and episodes."""
        return float(self.returns.mean())

    @property
    def between(self) -> float:
        """Standard deviation between the students' mean returns; 0 for one student."""
        means = self.returns.mean(1)
        return float(means.std(ddof=1)) if len(means) > 1 else 0.0

    @property
    def within(self) -> float:
        """Standard deviation of a student's episodes, averaged over the students; 0 for one episode."""
        return float(self.returns.std(axis=1, ddof=1).mean()) if self.returns.shape[1] > 1 else 0.0

    def metrics(self) -> dict[str, float]:
        """Plain numbers: ``return`` with its interval, both spreads and, where known, ``normalised``.

        The interval is over the students' means: what other students would do in these episodes. Of one student (or an
        ensemble) it is over episodes.
        """
        found = {"return": self.mean, "students_spread": self.between, "episodes_spread": self.within,
                 "episode_length": float(self.lengths.mean())}  # fmt: skip
        drawn = self.returns.mean(1) if len(self.returns) > 1 else self.returns[0]
        if len(drawn) > 1:
            interval = t_interval(drawn.tolist())
            found |= {"return_low": interval.low, "return_high": interval.high}
        for name in ("return", "return_low", "return_high"):
            if name in found and (score := self.frame.normalised(found[name])) is not None:
                found[name.replace("return", "normalised")] = score
        return found


class Evaluator:
    """Plays the same ``episodes`` in the environment of ``frame`` for whatever acts; a context manager.

    ``seed`` fixes how they start, ``workers`` the processes that step environments without a fast simulator (None: one
    a processor, 0: this process). ``students`` x episodes run at a time.
    """

    def __init__(
        self, frame: Frame, *, episodes: int = 10, students: int = 10, seed: int = 0, workers: int | None = None
    ) -> None:
        if frame.environment is None:
            raise ManyoneError(f"{frame.name}: no environment to act in: name one, as in --data hopper=PLACE")
        check_whole("episodes", episodes)
        check_whole("students", students)
        self.frame, self.episodes = frame, paired_episodes([frame.environment], episodes, seed=seed)
        count = students * episodes
        self.arena = Arena([frame.environment], count, workers=workers, max_parallel=count)

    def __call__(self, policies: StudentPolicies) -> StudentScores:
        """Every student in every episode."""
        members = [member for member in range(len(policies)) for _ in self.episodes]
        return self.play(Lockstep(policies, members), len(policies))

    def ensemble(self, policies: StudentPolicies) -> StudentScores:
        """All students together, in every episode."""
        return self.play(Lockstep(policies), 1)

    def play(self, policy: BatchedPolicy, count: int = 1) -> StudentScores:
        """Any roll-out policy in ``count`` rounds of the episodes."""
        episodes = self.episodes * count
        results = self.arena.rollout(policy, episodes, horizon=self.frame.horizon)
        shape = (count, len(self.episodes))
        returns = np.array([r.return_ for r in results], np.float64).reshape(shape)
        return StudentScores(returns, np.array([r.length for r in results]).reshape(shape), self.frame)

    def __enter__(self) -> Evaluator:
        return self

    def __exit__(self, *problem: object) -> None:
        self.arena.close()


class Evaluation(NamedTuple):
    """How students act, each alone and all together."""

    students: StudentScores
    ensemble: StudentScores


def evaluate_students(
    source: Distilled | StudentPolicies,
    episodes: int = 10,
    *,
    students: int | Sequence[int] = 10,
    seed: int = 0,
    workers: int | None = None,
) -> Evaluation:
    """The returns of students in ``episodes`` episodes each, and those of their ensemble.

    ``source``: a distilled set, on which ``students`` fresh ones are trained (a number, or the seeds), or policies.
    ``seed`` fixes how episodes start; ``workers`` as :class:`Evaluator` takes them.
    """
    policies = source if isinstance(source, StudentPolicies) else train(source, students)
    with Evaluator(policies.frame, episodes=episodes, students=len(policies), seed=seed, workers=workers) as evaluator:
        return Evaluation(evaluator(policies), evaluator.ensemble(policies))


def architectures(spec: StudentSpec) -> dict[str, StudentSpec]:
    """The published cross-architecture table around ``spec``: 2 to 6 layers and a residual network, of its width."""
    found = {f"{layers} layers": replace(spec, kind="mlp", layers=layers) for layers in range(2, 7)}
    return found | {"residual": replace(spec, kind="residual", layers=4)}


def evaluate_matrix(
    sets: Mapping[str, Distilled],
    evaluator: Evaluator,
    *,
    students: int | Sequence[int] = 10,
    specs: Mapping[str, StudentSpec | Student] | None = None,
    optimisers: Iterable[str] = ("sgd",),
) -> dict[tuple[str, str, str], StudentScores]:
    """(set, architecture, optimiser) -> scores of fresh students: sizes, architectures and optimisers, all crossed.

    ``specs`` None: each set's own, called "own". All play the same episodes and have the same seeds.
    """
    chosen = list(optimisers)
    found = {}
    for name, distilled in sets.items():
        for title, spec in ({"own": distilled.spec} if specs is None else specs).items():
            for optimiser in chosen:
                policies = train(distilled, students, spec=spec, optimiser=optimiser)
                found[name, title, optimiser] = evaluator(policies)
    return found
