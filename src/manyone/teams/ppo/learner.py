"""Training a team and its communication graph: multi-agent PPO with bi-level steps (CommFormer, arXiv 2405.08550).

One iteration plays ``length`` steps in every slot and makes ``epochs`` passes over them (``update.py``). Every
``upper_every``-th pass steps the logits of the graph alone (upper level), all others the network alone (lower level).
The same class trains MAT, IPPO and MAPPO (a fixed graph, or a policy that ignores it), so that methods share the
buffer, the advantages, the value normalisation and the losses, and differ in communication alone.
Public name: :class:`TeamLearner`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyone.envs.teams.types import TeamEnv
from manyone.errors import ManyoneError
from manyone.randomness import seed_for
from manyone.teams.artefact import save_team
from manyone.teams.network.gate import GateMode, gate_schedule
from manyone.teams.network.graph import LearnedGraph
from manyone.teams.ppo.buffer import Buffer
from manyone.teams.ppo.graph_schedule import GraphSchedule
from manyone.teams.ppo.losses import masked_mean
from manyone.teams.ppo.rollout import Collector
from manyone.teams.ppo.training import Training
from manyone.teams.ppo.update import Updates
from manyone.teams.ppo.value_norm import ValueNorm


class TeamLearner:
    """Trains ``policy`` (a CommFormer or an ActorCritic) on ``env`` in place; one step is one iteration.

    ``graph``: a ``LearnedGraph``, or a fixed one [n, n]; of a policy with a dynamic graph the full one: its scorer is
    part of the network. Of a policy with a gate ``ungated`` keeps a copy of the network from before the gate was
    switched on. ``evaluate`` is called with the learner and gives metrics.
    """

    def __init__(
        self,
        env: TeamEnv,
        policy: Any,
        training: Training,
        *,
        graph: LearnedGraph | Tensor,
        seed: int = 0,
        evaluate: Callable[[TeamLearner], Mapping[str, Any]] | None = None,
    ) -> None:
        self.env, self.policy, self.training, self.graph = env, policy, training, graph
        self.seed, self.evaluator = seed, evaluate
        self._check()
        self.schedule = GraphSchedule(graph, training, seed=seed)
        self.device = next(p for p in policy.parameters() if p.requires_grad).device
        self.norm = ValueNorm(self.device)
        self.updates = Updates(policy, self.schedule, self.norm, training, slots=env.batch, seed=seed)
        self.collector = Collector(env, policy, training, norm=self.norm, device=self.device, seed=seed)
        self.iteration = 0
        self.ungated: dict[str, Tensor] | None = None
        self._untrained: dict[str, Tensor] | None = None
        """What the network starts from again after a search."""
        if training.search:
            self._untrained = {name: t.detach().clone() for name, t in policy.state_dict().items()}

    # ---- the engine's Learner -------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One iteration: roll-out and update; the first one after a search begins with a new network."""
        if self._untrained is not None and self.iteration == self.training.searched:
            self.policy.load_state_dict(self._untrained)
            self.updates.optimiser.state.clear()
            self.norm.load_state_dict(ValueNorm(self.device).state_dict())
        gate, weight = self.gate_stage()
        if gate == "sampled" and self.ungated is None:
            self.ungated = {name: t.detach().clone() for name, t in self.policy.state_dict().items()}
        self.schedule.begin(self.iteration)
        self.policy.eval()
        buffer = self.collector.collect(self.iteration, self.schedule.acting(), gate)
        played = self._played(buffer)
        self.policy.train()
        with self._dropout_stream():
            learned = self.updates.run(buffer, self.iteration, gate, weight)
        self.iteration += 1
        return _read({**learned, **played, **self.schedule.figures()}) | {
            "env_steps": self.env_steps, "gate_weight": weight, "upper_steps": self.updates.upper_steps,
        }  # fmt: skip

    def evaluate(self) -> dict[str, Any]:
        """What the ``evaluate`` given at the start says."""
        if self.evaluator is None:
            return {}
        self.policy.eval()
        return dict(self.evaluator(self))

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on, the environment included."""
        graph, edges = self.graph, self.updates.edge_optimiser
        return {
            "acts_in": "bounds",  # units of actions; checkpoints of before have the environment's, and hear the dead
            "iteration": self.iteration,
            "upper_steps": self.updates.upper_steps,
            "policy": self.policy.state_dict(),
            "graph": graph.state_dict() if isinstance(graph, LearnedGraph) else {"fixed": graph},
            "optimiser": self.updates.optimiser.state_dict(),
            "edge_optimiser": None if edges is None else edges.state_dict(),
            "value_norm": self.norm.state_dict(),
            "collector": self.collector.state_dict(),
            "ungated": self.ungated,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        if "acts_in" not in state:
            self.policy.spec = replace(self.policy.spec, absences=False, agent_low=(), agent_high=())
        self.iteration, self.updates.upper_steps = int(state["iteration"]), int(state["upper_steps"])
        self.policy.load_state_dict(state["policy"])
        if isinstance(self.graph, LearnedGraph):
            self.graph.load_state_dict(state["graph"])
        else:
            self.graph.copy_(state["graph"]["fixed"])
        self.updates.optimiser.load_state_dict(state["optimiser"])
        if self.updates.edge_optimiser is not None:
            self.updates.edge_optimiser.load_state_dict(state["edge_optimiser"])
        self.norm.load_state_dict(state["value_norm"])
        self.collector.load_state_dict(state["collector"])
        ungated = state["ungated"]
        self.ungated = None if ungated is None else {name: t.to(self.device) for name, t in ungated.items()}
        self.schedule.begin(self.iteration)

    def export(self, folder: Path) -> None:
        """Writes the standard artefact, with the exact graph; of a gated team also ``ungated``, as it was before the
        gate was switched on."""
        extra = {"seed": self.seed, "iterations": self.iteration, "env_steps": self.env_steps}
        gate = None if self.ungated is None else "decided"
        if self.ungated is None and getattr(self.policy, "gated", False):
            gate = "open"  # it has never been trained to close
        spec = self.policy.spec
        save_team(folder, self.policy, self.exact_graph(), spec, extra, gate=gate)
        if self.ungated is not None:
            earlier = copy.deepcopy(self.policy)
            earlier.load_state_dict(self.ungated)
            save_team(folder / "ungated", earlier, self.exact_graph(), spec, extra, gate="open", program=False)

    # ---- for those who build on it --------------------------------------------------------------------------------

    @property
    def env_steps(self) -> int:
        """Steps of single environments so far."""
        return self.iteration * self.training.length * self.env.batch

    def exact_graph(self) -> Tensor:
        """The graph [n, n] of evaluation and of the finished team."""
        return self.schedule.exact()

    def gate_stage(self) -> tuple[GateMode, float]:
        """How the gate acts in the coming iteration, and the weight of its loss: by the share done of the training of
        the network that is exported, so that it is open during a search."""
        if not getattr(self.policy, "gated", False):
            return "open", 0.0
        plan, own = self.training, self.iteration - self.training.searched
        if own < 0:
            return "open", 0.0
        done = own / (plan.iterations - plan.searched)
        is_open, weight = gate_schedule(done, open_until=plan.gate_open, ramp=plan.gate_ramp, weight=plan.gate_weight)
        return ("open" if is_open else "sampled"), weight

    @contextmanager
    def _dropout_stream(self) -> Iterator[None]:
        """Dropout draws from the global generators: within, they depend on (seed, iteration); afterwards as before."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed_for(self.seed, "dropout", self.iteration))
            yield

    def _played(self, buffer: Buffer) -> dict[str, Tensor]:
        """Figures of the roll-out: episodes that ended in it, messages and receive rate of its steps."""
        returns, lengths = self.collector.episodes(buffer)
        done = buffer.done
        found = {
            "return": _mean_where(returns, done),
            "episode_length": _mean_where(lengths, done),
            "episodes": done.sum(),
            "reward": buffer.rewards.mean(),
            "receive_rate": masked_mean(buffer.received.float(), buffer.alive),
            "links": buffer.messages.mean(),
        }
        if self.env.spec.reports_success:
            found["success"] = _mean_where(buffer.success.float(), done)
        return found | {name: _mean_where(values, done) for name, values in buffer.measures.items()}

    def _check(self) -> None:
        learned = isinstance(self.graph, LearnedGraph)
        if self.training.search and not learned:
            raise ManyoneError("search: there is no graph to look for: it is not learned")
        if learned and self.training.upper_every == 1:
            raise ManyoneError("upper_every = 1: every pass would go to the graph and none to the network; at least 2")
        samples = self.training.length * self.env.batch
        if self.training.minibatches > samples:
            raise ManyoneError(f"minibatches = {self.training.minibatches}: an iteration has only {samples} samples")
        n = self.env.spec.agents
        size = len(self.graph.logits if isinstance(self.graph, LearnedGraph) else self.graph)
        if size != n:
            raise ManyoneError(f"graph is for {size} agents, the environment {self.env.spec.name} has {n}")


def _mean_where(values: Tensor, where: Tensor) -> Tensor:
    """Mean of the entries ``where`` True; NaN when there is none, which a report shows as missing."""
    return torch.where(where, values, 0.0).sum() / where.sum()


def _read(figures: Mapping[str, Tensor]) -> dict[str, float]:
    """All figures in one transfer; those that are not finite because nothing ended are left out."""
    values = torch.stack([value.to(torch.float64) for value in figures.values()]).tolist()
    return {name: value for name, value in zip(figures, values) if not math.isnan(value) or name == "loss"}
