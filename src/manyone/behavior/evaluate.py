"""How well students act: K students x E episodes in lock-step, with both spreads.

Students that are trained on the same synthetic set differ in their first weights alone, and yet act very differently;
a student's own episodes differ too. A mean over everything hides which of the two it was, so both are reported.

Public names: :class:`Evaluator`, :class:`StudentScores`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from manyone.behavior.artefact import Frame
from manyone.behavior.students.policies import Lockstep, StudentPolicies
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
        """Plain numbers: ``return`` with its interval over students, both spreads and, where known, ``normalised``."""
        found = {"return": self.mean, "students_spread": self.between, "episodes_spread": self.within,
                 "episode_length": float(self.lengths.mean())}  # fmt: skip
        if len(self.returns) > 1:
            interval = t_interval(self.returns.mean(1).tolist())
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
