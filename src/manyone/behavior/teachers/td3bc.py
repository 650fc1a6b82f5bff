"""TD3+BC: Q-learning whose policy is held near the recorded actions (Fujimoto & Gu, NeurIPS 2021, arXiv 2106.06860).

    critics   L_Q = sum_i mean (Q_i(s, a) - r - discount min_j Q'_j(s', a'))^2,
              a' = clamp(pi'(s') + clamp(sigma eps, -c, c), -1, 1)
    policy    L_pi = - lambda mean Q_1(s, pi(s)) + mean (pi(s) - a)^2,  lambda = alpha / mean |Q_1(s, pi(s))|

The policy and the targets (primed) move every second step. Both losses are taken at the weights before the step.
Public names: :class:`TD3BCTeacher`.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from manyone.behavior.data import BehaviorData
from manyone.behavior.teachers.learner import Batch, TeacherLearner, critic_values, twin_critics
from manyone.behavior.teachers.networks import Policy
from manyone.errors import ManyoneError

_NOISE, _NOISE_CLIP, _DELAY = 0.2, 0.5, 2  # sigma, c and the policy's delay: TD3's


class TD3BCTeacher(TeacherLearner):
    """``alpha`` weighs the critic against the recorded actions (published: 2.5)."""

    METHOD = "td3bc"

    def __init__(
        self,
        data: BehaviorData,
        *,
        width: int = 256,
        lr: float = 3e-4,
        policy_lr: float = 3e-4,
        discount: float = 0.99,
        alpha: float = 2.5,
        norm: bool = False,
        seed: int = 0,
        **training: Any,
    ) -> None:
        if data.choices:
            raise ManyoneError(f"{data.name}: td3bc is for continuous actions, these are {data.choices} choices: take "
                               "iql or calql")  # fmt: skip
        self.discount, self.alpha = discount, alpha
        policy = Policy(data.state_dim, data.action_dim, width, 2, "tanh", seed=seed)
        networks = {"policy": policy, "critics": twin_critics(data, width, seed=seed, norm=norm)}
        super().__init__(data, networks, {"policy": policy_lr, "critics": lr}, seed=seed, **training)

    def followed(self) -> tuple[str, ...]:
        return "policy", "critics"

    def moves_targets(self) -> bool:
        """Every second step, as the policy."""
        return (self.iteration + 1) % _DELAY == 0

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_Q, and every second step L_pi."""
        critics = self.networks["critics"]
        with torch.no_grad():
            noise = torch.randn(batch.actions.shape, generator=batch.noise, device=batch.actions.device) * _NOISE
            following = self.targets["policy"](batch.next_states) + noise.clamp_(-_NOISE_CLIP, _NOISE_CLIP)
            q = critic_values(self.targets["critics"], batch.next_states, following.clamp_(-1, 1), discrete=False)
            target = batch.rewards + self.discount * batch.goes_on * q.amin(0)
        values = critic_values(critics, batch.states, batch.actions, discrete=False)
        losses = {"critics": (values - target).square().mean(1).sum()}
        if self.moves_targets():
            actions = self.policy(batch.states)
            q = critic_values(critics, batch.states, actions, discrete=False, frozen=True)[0]
            weight = self.alpha / q.detach().abs().mean()
            losses["policy"] = F.mse_loss(actions, batch.actions) - weight * q.mean()
        return losses
