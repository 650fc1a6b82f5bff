"""Playing a team to see how good it is: the same episodes for every method.

Every slot starts again from the evaluation's seed, and what happens in its e-th episode depends on (seed, slot, e) and
the actions alone. Which episodes count is fixed beforehand, so long episodes are not missed in favour of short ones.
Public names: :func:`play`, :class:`Played`, :class:`RandomTeam`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.envs.teams.types import Observation, TeamEnv, TeamSpec
from manyone.errors import ManyoneError
from manyone.randomness import generator_for
from manyone.teams.network.commformer import Acted
from manyone.teams.network.distributions import choose
from manyone.teams.network.gate import GateMode
from manyone.teams.network.graph import LearnedGraph
from manyone.teams.ppo.rollout import action_noise, heard, message_noise, steady


@dataclass(frozen=True)
class Played:
    """E episodes, on the CPU, in the order slot 0 .. B-1 of round 0, then of round 1, ...

    ``returns`` [E]: sum over steps of the agents' mean reward; ``lengths`` [E]; ``success`` bool [E], None where the
    task has none; ``links_per_step`` [E]: messages, of encoder and decoder, between agents that are there, as many as
    agents in processes of their own send; ``receive_rate`` [E]: share of (living agent, step) pairs that received
    anything; ``measures``: the task's own figures [E]; ``frames``: pictures of one slot's first episode.
    ``link_use`` [n, n]: share of steps at which a link was used; ``receive_over_time`` [H, n]: share of running
    episodes in which an agent received at its h-th step (NaN once none runs).
    """

    returns: Tensor
    lengths: Tensor
    success: Tensor | None
    links_per_step: Tensor
    receive_rate: Tensor
    measures: dict[str, Tensor]
    frames: list[np.ndarray]
    link_use: Tensor
    receive_over_time: Tensor

    def figures(self) -> dict[str, float]:
        """Means over episodes."""
        found = {"return": self.returns.mean(), "episode_length": self.lengths.mean(),
                 "links": self.links_per_step.mean(), "receive_rate": self.receive_rate.mean()}  # fmt: skip
        if self.success is not None:
            found["success"] = self.success.float().mean()
        found |= {name: values.mean() for name, values in self.measures.items()}
        return {name: float(value) for name, value in found.items()}


def play(
    env: TeamEnv,
    policy: Any,
    graph: LearnedGraph | Tensor,
    *,
    episodes: int,
    seed: int,
    greedy: bool = True,
    gate: GateMode = "decided",
    film_slot: int | None = None,
    keep: Sequence[int] | None = None,
) -> Played:
    """Plays ``episodes`` episodes in ``env``, which starts anew, and leaves the policy as it was.

    ``graph``: [n, n], of a ``LearnedGraph`` the exact one. ``greedy``: the most probable action and of a dynamic graph
    the best links, else draws from ``seed``. ``gate``: as in ``act``; a policy that has none is open. ``keep``: the
    agents that are left, when ``env`` has fewer than the policy was made for; the others are silent and hear nothing.
    """
    if episodes < 1:
        raise ManyoneError(f"episodes = {episodes}: must be at least 1")
    if film_slot is not None and not 0 <= film_slot < env.batch:
        raise ManyoneError(f"film_slot = {film_slot}: the environment has slots 0 to {env.batch - 1}")
    links = graph.exact().detach() if isinstance(graph, LearnedGraph) else graph
    if gate == "decided" and not getattr(policy, "gated", False):
        gate = "open"
    team = _Team(env, policy, links, keep)
    was_training = policy.training
    policy.eval()
    try:
        with steady(policy):
            return _play(env, team, episodes, seed, greedy, gate, film_slot)
    finally:
        policy.train(was_training)


class RandomTeam:
    """Draws every action evenly among those that an agent may take (bounded ones within their bounds) and sends
    nothing: what any team has to be better than. To be played with ``greedy=False``."""

    training = gated = False
    link_scorer = None

    def __init__(self, spec: TeamSpec) -> None:
        self.spec = spec

    def train(self, mode: bool = True) -> RandomTeam:
        """Nothing to train."""
        return self

    def eval(self) -> RandomTeam:
        """Nothing to evaluate."""
        return self

    def act(self, obs: Observation, graph: Tensor, *, noise: Tensor, **how: Any) -> Acted:
        """``noise`` is Gumbel's or normal, of which evenly drawn actions are made."""
        batch, n = obs.alive.shape
        even = torch.erf(noise / math.sqrt(2))  # of normal noise: even from -1 to 1, which are the bounds
        chosen = (
            choose(torch.zeros_like(noise), obs.available, noise, None, self.spec.digits)
            if self.spec.discrete
            else even
        )
        zeros = noise.new_zeros(batch, n)
        return Acted(chosen, zeros, zeros, torch.zeros(batch, n, n, dtype=torch.bool, device=noise.device))


class _Team:
    """A policy behind a change of size: what it sees, and what comes back, in the environment's terms."""

    def __init__(self, env: TeamEnv, policy: Any, graph: Tensor, keep: Sequence[int] | None) -> None:
        self.policy, self.graph = policy, graph
        self.size, self.device = len(graph), graph.device
        n = env.spec.agents
        kept = list(range(self.size)) if keep is None else list(keep)
        if len(kept) != n or sorted(set(kept)) != sorted(kept) or not set(kept) <= set(range(self.size)):
            raise ManyoneError(
                f"keep = {kept}: name {n} different agents of 0 to {self.size - 1}, as many as {env.spec.name} has"
            )
        self.kept = torch.tensor(kept, device=self.device)
        self.whole = kept == list(range(self.size))
        if not self.whole:
            left = torch.zeros(self.size, device=self.device)
            left[self.kept] = 1
            self.graph = self.graph * left * left[:, None]

    def act(self, seen: Observation, noise: Tensor, drawn: dict[str, Tensor], gate: GateMode, greedy: bool) -> Any:
        """(actions as the environment takes them, links, messages) of the environment's agents."""
        seen = seen if self.whole else self._padded(seen)
        acted = self.policy.act(seen, self.graph, noise=noise, gate=gate, greedy=greedy, **drawn)
        actions = self.policy.spec.to_bounds(acted.actions)
        parts = heard(acted, seen)
        if self.whole:
            return actions, *parts
        return actions[:, self.kept], *(part[:, self.kept][:, :, self.kept] for part in parts)

    def _padded(self, seen: Observation) -> Observation:
        """The observation of all agents that the policy knows: those that are not there see zeros and are dead."""
        batch, width = len(seen.alive), self.policy.spec.state_dim
        observations = seen.observations.new_zeros(batch, self.size, seen.observations.shape[-1])
        observations[:, self.kept] = seen.observations
        alive = seen.alive.new_zeros(batch, self.size)
        alive[:, self.kept] = seen.alive
        available = None
        if seen.available is not None:
            available = seen.available.new_ones(batch, self.size, seen.available.shape[-1])
            available[:, self.kept] = seen.available
        # values play no part here, and the state of a smaller team may have another width
        state = None if seen.state is None else seen.state.new_zeros(batch, width)
        return Observation(observations, alive, available, state)


def _play(env: TeamEnv, team: _Team, episodes: int, seed: int, greedy: bool, gate: GateMode,
          film_slot: int | None) -> Played:  # fmt: skip
    batch, n, device = env.batch, env.spec.agents, team.device
    rounds = -(-episodes // batch)
    # slot b plays the episodes with e * batch + b < episodes
    wanted = (episodes - torch.arange(batch, device=device) + batch - 1) // batch
    slots = torch.arange(batch, device=device)
    table = torch.zeros(5, rounds, batch, device=device)  # return, length, success, links a step, receive rate
    measures: dict[str, Tensor] = {}
    sums = torch.zeros(5, batch, device=device)  # return, length, links, received, living
    played = torch.zeros(batch, dtype=torch.int64, device=device)
    used = torch.zeros(n, n, device=device)
    times = torch.zeros(env.spec.horizon + 1, n + 1, device=device)
    generator = generator_for(seed, "play", device=device)
    frames: list[np.ndarray] = []
    filming = film_slot is not None
    observation = env.reset(seed)
    while True:
        if filming and film_slot is not None:
            frames.append(env.frame(film_slot))
        seen = Observation(*(None if part is None else part.to(device) for part in observation))  # type: ignore[arg-type]
        with torch.inference_mode():
            noise = action_noise(team.policy.spec, batch, generator)
            drawn = message_noise(team.policy, generator, batch, gate, links=not greedy)
            actions, links, messages = team.act(seen, noise, drawn, gate, greedy)
            running = (played < wanted).float()
            received = links.any(-1) & seen.alive
            used += (links * running[:, None, None]).sum(0)
            moment = sums[1].long().clamp(max=env.spec.horizon)
            heard = torch.cat([received * running[:, None], running[:, None]], -1)
            times.index_add_(0, moment, heard)
        step = env.step(actions.to(env.device, copy=True))
        with torch.inference_mode():
            sums += torch.stack([
                step.rewards.to(device).mean(-1), torch.ones(batch, device=device), messages.sum((-1, -2)).float(),
                received.sum(-1).float(), seen.alive.sum(-1).float(),
            ])  # fmt: skip
            done = step.done.to(device)
            counted = done & (played < wanted)
            row = played.clamp(max=rounds - 1)
            rates = torch.stack([sums[0], sums[1], step.success.to(device).float(), sums[2] / sums[1],
                                 sums[3] / sums[4].clamp(min=1)])  # fmt: skip
            table[:, row, slots] = torch.where(counted, rates, table[:, row, slots])
            for name, values in step.measures.items():
                held = measures.setdefault(name, torch.zeros(rounds, batch, device=device))
                held[row, slots] = torch.where(counted, values.to(device).float(), held[row, slots])
            played += done
            sums *= ~done
        if film_slot is not None and step.final is not None:
            filming = filming and not bool(done[film_slot])
        observation = step.observation
        if step.final is not None and bool((played >= wanted).all()):
            break
    flat = table.flatten(1)[:, :episodes].cpu()
    steps = flat[1].sum().clamp(min=1)
    return Played(
        returns=flat[0], lengths=flat[1], success=flat[2] > 0.5 if env.spec.reports_success else None,
        links_per_step=flat[3], receive_rate=flat[4],
        measures={name: values.flatten()[:episodes].cpu() for name, values in measures.items()},
        frames=frames, link_use=used.cpu() / steps,
        receive_over_time=(times[:-1, :n] / times[:-1, n:]).cpu(),
    )  # fmt: skip
