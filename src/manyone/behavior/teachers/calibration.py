"""Whether a teacher's values are those of what it does: q*(s, a*) against the discounted returns of its own episodes.

Av-PBC weighs states by q*, so a critic that has not converged, or that promises what the policy does not keep, weighs
them wrongly. Where an episode is cut off by time what would have followed is unknown; steps are left out where more
than a tenth of their return could lie beyond.
Public names: :class:`CalibrationPolicy`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from manyone.behavior.artefact import Frame
from manyone.behavior.teachers.acting import TeacherPolicy
from manyone.behavior.teachers.teacher import Teacher

_BEYOND = 0.1


class CalibrationPolicy(TeacherPolicy):
    """A teacher with values that acts and notes what it expected and got; after the episodes :meth:`metrics`."""

    def __init__(self, teacher: Teacher, frame: Frame, discount: float) -> None:
        super().__init__(teacher, frame)
        self.discount = discount

    def start(self, episodes: Sequence[Any]) -> None:
        """New episodes."""
        self._values: list[list[float]] = [[] for _ in episodes]
        self._rewards: list[list[float]] = [[] for _ in episodes]

    @torch.no_grad()
    def act(self, slots: Any, observations: Any) -> np.ndarray:
        """As the teacher acts."""
        states = self.frame.normalise(torch.as_tensor(np.asarray(observations, np.float32)))
        actions = self.teacher.actions(states)
        values = self.teacher.values(states, actions)
        if values.ndim == 2:  # of all choices: the most probable one is taken
            values = values.gather(1, actions.argmax(1, keepdim=True))[:, 0]
        for slot, value in zip(slots, values.tolist(), strict=True):
            self._values[slot].append(value)
        return self.frame.own_actions(actions).numpy()

    def reward(self, slots: Any, rewards: Any) -> None:
        """Notes them."""
        for slot, value in zip(slots, rewards.tolist(), strict=True):
            self._rewards[slot].append(value)

    def metrics(self) -> dict[str, float]:
        """``value_correlation`` of values and returns over all steps, ``value_mean`` and ``discounted_mean``.

        Nothing where no step's return is known, and no correlation where values or returns are all the same.
        """
        cut = math.ceil(math.log(_BEYOND) / math.log(self.discount)) if self.discount > 0 else 1
        expected, got = [], []
        for values, rewards in zip(self._values, self._rewards, strict=True):
            following, returns = 0.0, []
            for reward in reversed(rewards):
                following = reward + self.discount * following
                returns.append(following)
            kept = len(rewards) - (cut if len(rewards) >= self.frame.horizon else 0)
            expected += values[: max(0, kept)]
            got += returns[::-1][: max(0, kept)]
        if not got:
            return {}
        found = {"value_mean": float(np.mean(expected)), "discounted_mean": float(np.mean(got))}
        if np.std(expected) > 0 and np.std(got) > 0:
            found["value_correlation"] = float(np.corrcoef(expected, got)[0, 1])
        return found
