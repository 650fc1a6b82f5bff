"""MAPPO and IPPO: PPO with a policy shared by all agents, which see no one's messages (Yu et al., arXiv 2103.01955;
de Witt et al., arXiv 2011.09533).

    actor:   pi(a_i | o_i, i)        critic: V(s, i) from the global state, or all observations side by side (MAPPO),
                                             or V(o_i, i) (IPPO)
Both are LN - Linear - GELU - LN, ``layers`` times Linear - GELU - LN, Linear, with the width of the other methods. The
agent's number enters as an embedding added to the first linear layer, which is that layer on [input, one-hot number].
The interface is CommFormer's, so that one learner trains both; the graph is ignored and no link is used.
Public name: :class:`ActorCritic`.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from manyone.envs.teams.types import Observation, TeamSpec
from manyone.errors import ManyoneError
from manyone.teams.network.commformer import Acted, Evaluated
from manyone.teams.network.distributions import choose, score
from manyone.teams.network.gate import GateMode
from manyone.teams.network.transformer import ACTIVATED, LAST, linear


class ActorCritic(nn.Module):
    """``critic``: ``central`` (MAPPO) or ``local`` (IPPO)."""

    gated, link_scorer = False, None  # it has no messages

    def __init__(
        self, spec: TeamSpec, *, critic: Literal["central", "local"] = "central", width: int = 64, layers: int = 1
    ) -> None:
        super().__init__()
        if critic not in ("central", "local"):
            raise ManyoneError(f"critic {critic!r}: must be central or local")
        if width < 1 or layers < 0:
            raise ManyoneError(f"width {width}, layers {layers}: width must be at least 1, layers at least 0")
        self.spec, self.critic, self.width, self.layers = spec, critic, width, layers
        outputs = spec.actions if spec.discrete else spec.action_dim
        self.actor = _Trunk(spec.observation_dim, spec.agents, width, layers, outputs)
        seen = spec.observation_dim
        if critic == "central":
            seen = spec.state_dim or spec.agents * spec.observation_dim
        self.value = _Trunk(seen, spec.agents, width, layers, 1)
        self.log_std = None if spec.discrete else nn.Parameter(torch.ones(outputs))

    @torch.no_grad()
    def act(
        self,
        obs: Observation,
        graph: Tensor,
        *,
        noise: Tensor,
        gate_noise: Tensor | None = None,
        gate: GateMode = "open",
        greedy: bool = False,
    ) -> Acted:
        """Acts in every slot. ``noise``: Gumbel [B, n, A] or normal [B, n, a], not used when ``greedy``."""
        outputs, std = self.actor(obs.observations), self.std()
        actions = choose(outputs, obs.available, None if greedy else noise, std, self.spec.digits)
        log_probs, _ = score(outputs, actions, obs.available, std, self.spec.digits)
        batch, n = log_probs.shape
        links = torch.zeros((), dtype=torch.bool, device=log_probs.device).expand(batch, n, n)
        return Acted(actions, log_probs, self.values(obs, graph), links)

    def evaluate(
        self,
        obs: Observation,
        actions: Tensor,
        graph: Tensor,
        *,
        gate_noise: Tensor | None = None,
        gate: GateMode = "open",
    ) -> Evaluated:
        """Log-probabilities of ``actions``, entropies and values, all [B, n], differentiable in the weights."""
        outputs = self.actor(obs.observations)
        log_probs, entropy = score(outputs, actions, obs.available, self.std(), self.spec.digits)
        return Evaluated(log_probs, entropy, self.values(obs, graph), None)

    def values(
        self, obs: Observation, graph: Tensor, *, gate_noise: Tensor | None = None, gate: GateMode = "open"
    ) -> Tensor:
        """The critic alone, [B, n]."""
        if self.critic == "local":
            seen = obs.observations
        else:
            together = obs.state if self.spec.state_dim and obs.state is not None else obs.observations.flatten(1)
            seen = together.unsqueeze(1)
        return self.value(seen).squeeze(-1)

    def std(self) -> Tensor | None:
        """Standard deviations of continuous actions [a], 0.5 sigmoid(log_std); None for discrete ones."""
        return None if self.log_std is None else 0.5 * torch.sigmoid(self.log_std)


class _Trunk(nn.Module):
    """[B, n, outputs] from [B, n, inputs], or from [B, 1, inputs] that all agents share."""

    def __init__(self, inputs: int, agents: int, width: int, layers: int, outputs: int) -> None:
        super().__init__()
        self.input_norm = nn.LayerNorm(inputs)
        # orthogonal over input and number together, as if the one-hot were part of the input
        whole = linear(inputs + agents, width, ACTIVATED)
        self.input = nn.Linear(inputs, width)
        self.agent = nn.Parameter(whole.weight.detach()[:, inputs:].T.contiguous())
        with torch.no_grad():
            self.input.weight.copy_(whole.weight[:, :inputs])
            self.input.bias.zero_()
        self.norm = nn.LayerNorm(width)
        self.hidden = nn.ModuleList(linear(width, width, ACTIVATED) for _ in range(layers))
        self.norms = nn.ModuleList(nn.LayerNorm(width) for _ in range(layers))
        self.out = linear(width, outputs, LAST)

    def forward(self, seen: Tensor) -> Tensor:
        x = self.norm(gelu(self.input(self.input_norm(seen)) + self.agent))
        for layer, norm in zip(self.hidden, self.norms):
            x = norm(gelu(layer(x)))
        return self.out(x)
