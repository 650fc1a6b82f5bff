"""Cal-QL: conservative critics that never fall below the value of the data (Nakamoto et al., NeurIPS 2023, arXiv
2303.05479), as CORL trains them for Offline Behavior Distillation.

    critics   L_Q = sum_i mean (Q_i(s, a) - r - discount min_j Q'_j(s', a'))^2 + alpha R_i,   a' ~ pi(. | s')
              R_i = mean [ log sum_k exp(Q_i(s, a_k) - log p_k) - Q_i(s, a) ]
    policy    L_pi = mean (t log pi(a~ | s) - min_i Q_i(s, a~)),   a~ ~ pi(. | s)
    entropy   L_t = - log t mean (log pi(a~ | s) - A),   A the width of an action

The a_k of a state are m uniform actions, m of pi(. | s) and m of pi(. | s'), with their densities p_k; the values of
those of the policy count at least g (calibration), the discounted return of the row's episode from there on. Primed
critics are targets. With discrete actions the sum runs over all choices, each at least g, expectations over pi are
sums, and the entropy that t aims at is a tenth of the largest, log C (ours).
All losses are taken at the weights before the step, as CORL's are.
Public names: :class:`CalQLTeacher`.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from manyone.behavior.data import BehaviorData
from manyone.behavior.teachers.learner import Batch, TeacherLearner, critic_values, returns_to_go, twin_critics
from manyone.behavior.teachers.networks import Head, Policy, tanh_sample

_DISCRETE_ENTROPY = 0.1


class Temperature(nn.Module):
    """log t, the weight of the policy's entropy."""

    def __init__(self) -> None:
        super().__init__()
        self.log = nn.Parameter(torch.zeros(()))


class CalQLTeacher(TeacherLearner):
    """``alpha`` weighs the conservative term, for which ``samples`` (m) actions of each kind are drawn at the first
    ``penalised`` states of a batch (None: at all, as published; fewer are quicker and an estimate of the same)."""

    METHOD = "calql"

    def __init__(
        self,
        data: BehaviorData,
        *,
        width: int = 256,
        lr: float = 3e-4,
        policy_lr: float = 3e-5,
        discount: float = 0.99,
        alpha: float = 10.0,
        samples: int = 10,
        penalised: int | None = None,
        norm: bool = False,
        seed: int = 0,
        **training: Any,
    ) -> None:
        self.discount, self.alpha, self.samples, self.penalised = discount, alpha, samples, penalised
        head: Head = "softmax" if data.choices else "gaussian"
        policy = Policy(data.state_dim, data.action_dim, width, 3, head, seed=seed, init="orthogonal")
        networks = {
            "policy": policy,
            "critics": twin_critics(data, width, seed=seed, norm=norm, init="orthogonal"),
            "temperature": Temperature(),
        }
        rates = {"policy": policy_lr, "critics": lr, "temperature": policy_lr}
        super().__init__(data, networks, rates, seed=seed, **training)
        self.entropy = -_DISCRETE_ENTROPY * math.log(data.choices) if data.choices else float(data.action_dim)
        self.returns = returns_to_go(data, discount) * self.scale

    def followed(self) -> tuple[str, ...]:
        return ("critics",)

    def losses(self, batch: Batch) -> dict[str, Tensor]:
        """L_Q with its two terms, L_pi and L_t."""
        return self._discrete(batch) if self.data.choices else self._continuous(batch)

    def _continuous(self, batch: Batch) -> dict[str, Tensor]:
        networks: Any = self.networks
        n, width = batch.actions.shape
        m, p = self.samples, min(self.penalised or n, n)
        draws: Any = {"generator": batch.noise, "device": batch.actions.device}
        noise, more = torch.randn((2, n, width), **draws), torch.randn((2, p, m, width), **draws)
        random = torch.rand((p, m, width), **draws) * 2 - 1

        mean, log_std = self.policy.normal(batch.states)
        own, own_density = tanh_sample(mean, log_std, noise[0])
        with torch.no_grad():
            next_mean, next_log_std = self.policy.normal(batch.next_states)
            following, _ = tanh_sample(next_mean, next_log_std, noise[1])
            q = critic_values(self.targets["critics"], batch.next_states, following, discrete=False)
            target = batch.rewards + self.discount * batch.goes_on * q.amin(0)
            both = torch.stack([mean[:p], next_mean[:p]]), torch.stack([log_std[:p], next_log_std[:p]])
            drawn, density = tanh_sample(both[0][:, :, None], both[1][:, :, None], more)

        # one product for the recorded and the sampled actions
        sampled = torch.cat([random, drawn[0], drawn[1]], 1)  # [p, 3m, A]
        states = torch.cat([batch.states, batch.states[:p, None].expand(-1, 3 * m, -1).reshape(3 * m * p, -1)])
        actions = torch.cat([batch.actions, sampled.view(3 * m * p, width)])
        values = critic_values(networks["critics"], states, actions, discrete=False)
        recorded, others = values[:, :n], values[:, n:].view(2, p, 3 * m)
        floor = self.returns[batch.rows[:p], None]
        others = torch.cat([others[..., :m], torch.maximum(others[..., m:], floor)], -1)
        density = torch.cat([random.new_full((p, m), -width * math.log(2)), density[0], density[1]], 1)
        gap = torch.logsumexp(others - density, -1) - recorded[:, :p]

        log_t = networks["temperature"].log
        q = critic_values(networks["critics"], batch.states, own, discrete=False, frozen=True).amin(0)
        return {
            "critics": (recorded - target).square().mean(1).sum(),
            "conservative": self.alpha * gap.mean(1).sum(),
            "policy": (log_t.detach().exp() * own_density - q).mean(),
            "temperature": -log_t * (own_density.detach().mean() - self.entropy),
        }

    def _discrete(self, batch: Batch) -> dict[str, Tensor]:
        networks: Any = self.networks
        log_pi = self.policy.log_probabilities(batch.states)
        with torch.no_grad():
            q = self.targets["critics"](batch.next_states).amin(0)
            target = batch.rewards + self.discount * batch.goes_on * (self.policy(batch.next_states) * q).sum(-1)
        values = networks["critics"](batch.states)  # [2, n, C]
        recorded = (values * batch.actions).sum(-1)
        floor = self.returns[batch.rows, None]
        gap = torch.logsumexp(torch.maximum(values, floor), -1) - recorded
        log_t = networks["temperature"].log
        entropy = (log_pi.exp() * log_pi).sum(-1)
        best = (log_pi.exp() * values.detach().amin(0)).sum(-1)
        return {
            "critics": (recorded - target).square().mean(1).sum(),
            "conservative": self.alpha * gap.mean(1).sum(),
            "policy": (log_t.detach().exp() * entropy - best).mean(),
            "temperature": -log_t * (entropy.detach().mean() - self.entropy),
        }
