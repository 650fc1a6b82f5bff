"""Collecting one iteration: the team acts in all slots for a number of steps, and everything that the update needs is
kept in a :class:`~manyone.teams.ppo.buffer.Buffer`.

Nothing is read back from the device inside the loop. Episodes that are cut off, in mid-roll-out or at its end, are
continued by the value of what the team saw last; all such values are computed in one batch afterwards.
Public names: :class:`Collector`, :func:`action_noise`, :func:`message_noise`, :func:`heard`.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from manyone.envs.teams.types import Observation, TeamEnv, TeamSpec
from manyone.randomness import generator_for, seed_for
from manyone.teams.network.commformer import Acted
from manyone.teams.network.dynamic import link_noise
from manyone.teams.network.gate import GateMode, gate_noise
from manyone.teams.ppo.buffer import Buffer
from manyone.teams.ppo.returns import bootstrapped, finished_episodes, gae, own_ends, with_stand_ins
from manyone.teams.ppo.training import Training
from manyone.teams.ppo.value_norm import ValueNorm

_CHUNK = 8192  # slots whose values are computed at a time


def action_noise(spec: TeamSpec, batch: int, generator: torch.Generator) -> Tensor:
    """What makes actions random: Gumbel [B, n, A] for discrete actions, normal [B, n, a] for continuous ones."""
    if spec.discrete:
        shape = batch, spec.agents, spec.actions
        noise = torch.empty(shape, device=generator.device).exponential_(generator=generator)
        return noise.clamp_(min=torch.finfo(noise.dtype).tiny).log_().neg_()
    shape = batch, spec.agents, spec.action_dim
    return torch.randn(shape, generator=generator, device=generator.device)


def message_noise(
    policy: Any, generator: torch.Generator, batch: int, gate: GateMode, *, links: bool = True
) -> dict[str, Tensor]:
    """What draws a policy's gates, where they are sampled, and (``links``) its dynamic graph, by the names under which
    ``act``, ``evaluate`` and ``values`` take it. Empty for a policy that has neither."""
    found = {}
    for part, name in (("receive_gate", "gate_noise"), ("send_gate", "send_noise")):
        if gate == "sampled" and getattr(policy, part, None) is not None:
            found[name] = gate_noise(generator, batch, policy.spec.agents)
    if links and getattr(policy, "link_scorer", None) is not None:
        found["link_noise"] = link_noise(generator, batch, policy.spec.agents)
    return found


def heard(acted: Acted, seen: Observation) -> tuple[Tensor, Tensor]:
    """(links used bool [B, n, n], messages on them int [B, n, n]) between agents that are there."""
    present = seen.present()
    both = present.unsqueeze(-1) & present.unsqueeze(-2)
    return acted.links & both, (acted.links if acted.messages is None else acted.messages) * both


def steady(policy: Any) -> AbstractContextManager[None]:
    """Lets a policy keep what it prepares from its weights while they do not change, if it can."""
    return policy.steady() if hasattr(policy, "steady") else nullcontext()


class Collector:
    """Plays ``env`` with ``policy`` for ``training.length`` steps at a time; episodes go on in the next iteration.

    The environment stays on its own device, the buffer is on the policy's.
    """

    def __init__(
        self, env: TeamEnv, policy: Any, training: Training, *, norm: ValueNorm, device: torch.device, seed: int
    ) -> None:
        self.env, self.policy, self.training, self.norm = env, policy, training, norm
        self.device, self.seed = device, seed
        self.returns = torch.zeros(env.batch, device=device)
        self.lengths = torch.zeros(env.batch, device=device)
        self._buffer: Buffer | None = None
        self._observation: Observation | None = None

    def collect(self, iteration: int, graph: Tensor, gate: GateMode) -> Buffer:
        """Steps the environment and fills the buffer, advantages and returns included (in the unit of the rewards)."""
        with steady(self.policy):
            return self._collect(iteration, graph, gate)

    def _collect(self, iteration: int, graph: Tensor, gate: GateMode) -> Buffer:
        if self._observation is None:
            self._observation = self.env.reset(seed_for(self.seed, "environment"))
        if self._buffer is None:
            self._buffer = Buffer(self.env.spec, self._observation, self.training.length, self.device)
        buffer, batch = self._buffer, self.env.batch
        generator = generator_for(self.seed, "act", iteration, device=self.device)
        cuts: list[Tensor] = []
        finals: list[Observation] = []
        for t in range(self.training.length):
            seen = buffer.see(t, self._observation)
            noise = action_noise(self.env.spec, batch, generator)
            drawn = buffer.draw(t, message_noise(self.policy, generator, batch, gate))
            with torch.inference_mode():
                acted = self.policy.act(seen, graph, noise=noise, gate=gate, **drawn)
                buffer.actions[t].copy_(acted.actions)
                buffer.log_probs[t].copy_(acted.log_probs)
                buffer.values[t].copy_(acted.values)
                used, messages = heard(acted, seen)
                buffer.received[t].copy_(used.any(-1))
                buffer.messages[t].copy_(messages.sum((-1, -2)))
            alive = self._observation.alive
            taken = self.policy.spec.to_bounds(buffer.actions[t])
            step = self.env.step(taken.to(self.env.device, copy=True))  # its own: environments may keep it
            terminated, truncated = own_ends(alive, step)
            buffer.outcome(t, step, terminated, truncated)
            if step.final is not None:
                rows = truncated.any(-1).nonzero().squeeze(-1)
                if len(rows):
                    cuts.append(torch.stack([torch.full_like(rows, t), rows], -1).to(self.device))
                    finals.append(step.final.select(rows))
            self._observation = step.observation
        self._advantages(buffer, graph, gate, cuts, finals, generator)
        return buffer

    def episodes(self, buffer: Buffer) -> tuple[Tensor, Tensor]:
        """Returns and lengths of the episodes that ended in the buffer, [T, B]; to be called once an iteration."""
        return finished_episodes(buffer.rewards.mean(-1), buffer.done, self.returns, self.lengths)

    def state_dict(self) -> dict[str, Any]:
        """The environment and the running episodes."""
        started = self._observation is not None
        env = self.env.state_dict() if started else None
        return {"env": env, "returns": self.returns, "lengths": self.lengths}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self._observation = None if state["env"] is None else self.env.load_state_dict(state["env"])
        self.returns.copy_(state["returns"])
        self.lengths.copy_(state["lengths"])

    def _advantages(self, buffer: Buffer, graph: Tensor, gate: GateMode, cuts: list[Tensor], finals: list[Observation],
                    generator: torch.Generator) -> None:  # fmt: skip
        assert self._observation is not None
        ends = [self._observation, *finals]
        joined = Observation(*(None if parts[0] is None else torch.cat(parts).to(self.device) for parts in zip(*ends)))  # type: ignore[arg-type]
        values = []
        with torch.inference_mode():
            count = len(joined.alive)
            noise = message_noise(self.policy, generator, count, gate)
            for start in range(0, count, _CHUNK):
                rows = slice(start, start + _CHUNK)
                drawn = {name: part[rows] for name, part in noise.items()}
                piece = Observation(*(None if p is None else p[rows] for p in joined))  # type: ignore[arg-type]
                values.append(self.policy.values(piece, graph, gate=gate, **drawn))
            old = self.norm.denormalise(buffer.values)
            end = with_stand_ins(self.norm.denormalise(torch.cat(values)), joined)
            last, cut_values = end[: buffer.slots], end[buffer.slots :]
            places = torch.cat(cuts) if cuts else torch.empty(0, 2, dtype=torch.int64, device=self.device)
            whose = buffer.truncated[places[:, 0], places[:, 1]]
            following = bootstrapped(old, last, places, cut_values, whose)
            alive = None if bool(buffer.alive.all()) else buffer.alive
            advantages, returns = gae(
                buffer.rewards, old, following, buffer.terminated, buffer.terminated | buffer.truncated, alive,
                gamma=self.training.gamma, lam=self.training.lam,
            )  # fmt: skip
            buffer.advantages.copy_(advantages)
            buffer.returns.copy_(returns)
