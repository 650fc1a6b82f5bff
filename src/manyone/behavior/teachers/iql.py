"""Implicit Q-Learning: values of the best recorded actions, without asking for any other (Kostrikov et al., ICLR 2022,
arXiv 2110.06169).

    values    L_V = mean |e - 1(u < 0)| u^2,  u = min_i Q'_i(s, a) - V(s)
    critics   L_Q = mean over i and rows of (Q_i(s, a) - r - discount V(s'))^2
    policy    L_pi = mean min(exp(temperature u), 100) |pi(s) - a|^2,  discrete: ... (- log pi(a | s))

with the expectile e. The policy is deterministic, as CORL's for Hopper; the published Gaussian's mean learns the same.
All losses are taken at the weights before the step.
Public names: :class:`IQLTeacher`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from manyone.behavior.data import BehaviorData
from manyone.behavior.teachers.learner import Batch, TeacherLearner, critic_values, twin_critics
from manyone.behavior.teachers.networks import Head, Policy, Stack

_LARGEST = 100.0  # of the exponential weights, the authors' value


class IQLTeacher(TeacherLearner):
    """``expectile`` above 0.5 prefers good actions; ``temperature`` of the weights is for scaled rewards."""

    METHOD = "iql"

    def __init__(
        self,
        data: BehaviorData,
        *,
        width: int = 256,
        lr: float = 3e-4,
        policy_lr: float = 3e-4,
        discount: float = 0.99,
        expectile: float = 0.7,
        temperature: float = 3.0,
        norm: bool = False,
        seed: int = 0,
        **training: Any,
    ) -> None:
        self.discount, self.expectile, self.temperature = discount, expectile, temperature
        head: Head = "softmax" if data.choices else "tanh"
        networks = {
            "policy": Policy(data.state_dim, data.action_dim, width, 2, head, seed=seed),
            "critics": twin_critics(data, width, seed=seed, norm=norm),
            "state_values": Stack((data.state_dim, width, width, 1), norm=norm, seed=seed, name="state_values"),
        }
        super().__init__(
            data, networks, {"policy": policy_lr, "critics": lr, "state_values": lr}, seed=seed, **training
        )

    def followed(self) -> tuple[str, ...]:
        return ("critics",)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_V, L_Q and L_pi."""
        discrete, values = self.data.choices > 0, self.networks["state_values"]
        with torch.no_grad():
            q = critic_values(self.targets["critics"], batch.states, batch.actions, discrete=discrete).amin(0)
            target = batch.rewards + self.discount * batch.goes_on * values(batch.next_states)[0, :, 0]
        gain = q - values(batch.states)[0, :, 0]
        weight = (self.temperature * gain.detach()).exp().clamp(max=_LARGEST)
        found = critic_values(self.networks["critics"], batch.states, batch.actions, discrete=discrete)
        if discrete:
            errors = -(self.policy.log_probabilities(batch.states) * batch.actions).sum(-1)
        else:
            errors = (self.policy(batch.states) - batch.actions).square().sum(-1)
        return {
            "values": ((self.expectile - (gain < 0).float()).abs() * gain.square()).mean(),
            "critics": (found - target).square().mean(),
            "policy": (weight * errors).mean(),
        }
