"""A teacher that acts in its environment."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from manyone.behavior.artefact import Frame
from manyone.behavior.teachers.teacher import Teacher


class TeacherPolicy:
    """The greedy ``teacher`` as the roll-outs' ``BatchedPolicy``; ``frame`` says how it sees observations."""

    def __init__(self, teacher: Teacher, frame: Frame) -> None:
        self.teacher, self.frame = teacher, frame

    def start(self, episodes: Sequence[Any]) -> None:
        """New episodes; there is no memory."""

    @torch.no_grad()
    def act(self, slots: Any, observations: Any) -> np.ndarray:
        """Actions float32 [b, A] of the environment for observations [b, S]; discrete: one-hot."""
        states = self.frame.normalise(torch.as_tensor(np.asarray(observations, np.float32)))
        return self.frame.own_actions(self.teacher.actions(states)).numpy()

    def reward(self, slots: Any, rewards: Any) -> None:
        """Rewards change nothing."""
