"""A teacher of networks: a policy and, where its method has one, critics.

Public names: :class:`TrainedTeacher`, :data:`Value`.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from manyone.behavior.teachers.networks import Policy, Stack
from manyone.errors import ManyoneError

Value = Literal["min", "first"]
"""Which of the critics is believed: the smaller value, or the first critic's."""


@dataclass(frozen=True, eq=False)
class TrainedTeacher:
    """The :class:`~manyone.behavior.teachers.teacher.Teacher` that a method has trained."""

    name: str
    policy: Policy
    critics: Stack | None = None
    """[M, n, 1] values of (state, action), or [M, n, C] values of all choices; None: the method has no critic."""
    value: Value = "min"
    """Which of the critics is believed."""
    scale: float = 1.0
    """What the rewards were multiplied with when the critics learned: values are divided by it."""

    @torch.no_grad()
    def actions(self, states: Tensor) -> Tensor:
        """Greedy unit actions [n, A] of states [n, S]; of discrete actions the probabilities [n, C]."""
        return self.policy(states)

    @torch.no_grad()
    def values(self, states: Tensor, actions: Tensor) -> Tensor:
        """q(s, a) [n]; of discrete actions those of all choices, [n, C]. ``ManyoneError`` without a critic."""
        if self.critics is None:
            raise ManyoneError(
                f"the teacher {self.name} has no critic, which Av-PBC weights need: calql, iql and td3bc have one; or "
                "use --objective pbc"
            )
        if self.policy.head == "softmax":
            found = self.critics(states)
        else:
            found = self.critics(torch.cat([states, actions], -1))[..., 0]
        return (found[0] if self.value == "first" else found.amin(0)) / self.scale

    def copy(self, device: str | torch.device = "cpu") -> TrainedTeacher:
        """The same on ``device``, with networks of its own that no training changes."""
        policy, critics = copy.deepcopy(self.policy), copy.deepcopy(self.critics)
        policy.to(device).requires_grad_(False)
        if critics is not None:
            critics.to(device).requires_grad_(False)
        return replace(self, policy=policy, critics=critics)
