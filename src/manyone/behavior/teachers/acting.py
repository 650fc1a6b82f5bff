"""A teacher that acts: the roll-outs' policy of any teacher, also of somebody's two functions.

Public names: :class:`TeacherPolicy`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from manyone.behavior.artefact import Frame
from manyone.behavior.teachers.teacher import Teacher


class TeacherPolicy:
    """The roll-outs' ``BatchedPolicy`` of ``teacher``, which sees states as ``frame`` standardises them.

    It acts greedily and has no memory.
    """

    def __init__(self, teacher: Teacher, frame: Frame, device: str | torch.device = "cpu") -> None:
        """``device``: where the teacher computes."""
        self.teacher, self.frame, self.device = teacher, frame, device

    def start(self, episodes: Sequence[Any]) -> None:
        """New episodes."""

    @torch.no_grad()
    def act(self, slots: Any, observations: Any) -> np.ndarray:
        """The environment's own actions, float32 [b, A], for observations [b, S]; discrete: one-hot."""
        states = self.frame.normalise(torch.as_tensor(np.asarray(observations, np.float32)))
        return self.frame.own_actions(self.teacher.actions(states.to(self.device)).cpu()).numpy()

    def reward(self, slots: Any, rewards: Any) -> None:
        """Rewards change nothing."""
