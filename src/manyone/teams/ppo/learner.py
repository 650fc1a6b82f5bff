"""Training a team and its communication graph: multi-agent PPO with bi-level steps (CommFormer, arXiv 2405.08550).

One iteration plays ``length`` steps in every slot and makes ``epochs`` passes over them. Every ``upper_every``-th pass
steps the logits of the graph alone (upper level), all others the network alone (lower level):

    L = L_pi + c_v L_V - c_e H [+ lambda(t) L_gate]      network: Adam, gradient norm clipped    logits: Adam, edge_lr

The same class trains MAT, IPPO and MAPPO (a fixed graph, or a policy that ignores it), so that methods share the
buffer, the advantages, the value normalisation and the losses, and differ in communication alone.
Public name: :class:`TeamLearner`.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from manyone.envs.teams.types import TeamEnv
from manyone.errors import ManyoneError
from manyone.randomness import generator_for, seed_for
from manyone.teams.network import gate as gates
from manyone.teams.network.graph import LearnedGraph
from manyone.teams.ppo.buffer import Batch, Buffer
from manyone.teams.ppo.graph_schedule import GraphSchedule, RollOut
from manyone.teams.ppo.losses import masked_mean, normalise_advantages, policy_loss, value_loss
from manyone.teams.ppo.rollout import Collector
from manyone.teams.ppo.value_norm import ValueNorm

_PIECE, _PIECE_DEVICE = 8192, 1 << 18  # samples times agents that go through the network at a time


class _Counts(NamedTuple):
    """Numbers of living agents' samples that the policy's and the value's terms are divided by."""

    policy: Tensor | int
    value: Tensor | int


class TeamLearner:
    """Trains ``policy`` (a CommFormer or an ActorCritic) on ``env`` in place; one step is one iteration.

    ``graph``: a ``LearnedGraph``, or a fixed one [n, n]. ``iterations``: planned number of steps, which the schedules
    need. ``length``: environment steps an iteration and slot; ``minibatches`` a pass. ``lr``, ``edge_lr``: step sizes
    of the network and of the logits. ``upper_every``: the pass that goes to the logits; ``upper_data``: on the same
    data, or on a fifth of the slots that the network is not updated on (``heldout``). ``commit``: share of training
    after which the graph is exact and frozen (None: never). ``graph_rollout`` and ``warmup``: see
    :mod:`manyone.teams.ppo.graph_schedule`. ``policy_alive``, ``value_alive``: leave dead agents out of the policy and
    of the value loss. ``huber``: threshold of the value loss, in normalised units.

    Of a policy with a gate: it is forced open for the share ``gate_open`` of training, then sampled, with the budget
    loss ``gate_loss`` towards the rate ``gate_rate`` (of receiving or of sending; with both gates each has its loss),
    its weight rising to ``gate_weight`` over the share ``gate_ramp``. A copy of the network from before the switch is
    kept in ``ungated``. Of a policy with a dynamic graph ``graph`` is the full one; its scorer is part of the network.

    ``evaluate`` is called with the learner and gives metrics.
    """

    def __init__(
        self,
        env: TeamEnv,
        policy: Any,
        *,
        graph: LearnedGraph | Tensor,
        iterations: int,
        length: int = 100,
        epochs: int = 10,
        minibatches: int = 1,
        lr: float = 5e-4,
        edge_lr: float = 1e-2,
        adam_eps: float = 1e-5,
        upper_every: int = 5,
        upper_data: Literal["same", "heldout"] = "same",
        clip: float = 0.05,
        value_coef: float = 1.0,
        entropy_coef: float = 0.01,
        huber: float = 10.0,
        gamma: float = 0.99,
        lam: float = 0.95,
        grad_clip: float = 10.0,
        value_norm: bool = True,
        graph_rollout: RollOut = "replay",
        commit: float | None = 0.4,
        warmup: int = 10,
        gate_loss: gates.Budget = "ratio",
        gate_rate: float = 0.5,
        gate_weight: float = 0.2,
        gate_open: float = 0.6,
        gate_ramp: float = 0.15,
        policy_alive: bool = True,
        value_alive: bool = True,
        seed: int = 0,
        evaluate: Callable[[TeamLearner], Mapping[str, Any]] | None = None,
    ) -> None:
        self.env, self.policy, self.graph, self.seed = env, policy, graph, seed
        self.iterations, self.epochs, self.minibatches = iterations, epochs, minibatches
        self.upper_every, self.clip, self.huber, self.grad_clip = upper_every, clip, huber, grad_clip
        self.value_coef, self.entropy_coef = value_coef, entropy_coef
        self.policy_alive, self.value_alive, self.evaluator = policy_alive, value_alive, evaluate
        self.gate_loss, self.gate_rate, self.gate_weight = gate_loss, gate_rate, gate_weight
        self.gate_open, self.gate_ramp = gate_open, gate_ramp
        self._check(length, lr, edge_lr, gamma, lam, commit)

        self._parameters = [p for p in policy.parameters() if p.requires_grad]
        self.device = self._parameters[0].device
        self.schedule = GraphSchedule(graph, iterations=iterations, mode=graph_rollout, commit=commit, warmup=warmup,
                                      seed=seed)  # fmt: skip
        fused = self.device.type in ("cpu", "cuda")
        self.optimiser = torch.optim.Adam(self._parameters, lr=lr, eps=adam_eps, fused=fused)
        self.edge_optimiser: torch.optim.Adam | None = None
        if isinstance(graph, LearnedGraph):
            self.edge_optimiser = torch.optim.Adam(graph.parameters(), lr=edge_lr, eps=adam_eps)
        self.norm = ValueNorm(device=self.device) if value_norm else None
        held_out = max(1, round(env.batch / 5)) if upper_data == "heldout" and self.schedule.learned else 0
        self._lower = env.batch - held_out  # slots of the network's updates while the graph learns
        self.collector = Collector(
            env, policy, length=length, gamma=gamma, lam=lam, norm=self.norm, device=self.device, seed=seed,
            env_seed=seed_for(seed, "environment"),
        )  # fmt: skip
        self.iteration = 0
        self.upper_steps = 0
        self.ungated: dict[str, Tensor] | None = None

    # ---- the engine's Learner -------------------------------------------------------------------------------------

    def step(self) -> dict[str, float]:
        """One iteration: roll-out and update."""
        gate, weight = self.gate_stage()
        if gate == "sampled" and self.ungated is None:
            self.ungated = {name: t.detach().clone() for name, t in self.policy.state_dict().items()}
        self.schedule.begin(self.iteration)
        self.policy.eval()
        buffer = self.collector.collect(self.iteration, self.schedule.acting(), gate)
        played = self._played(buffer)
        self.policy.train()
        with self._dropout_stream():
            learned = self._update(buffer, gate, weight)
        self.iteration += 1
        return _read({**learned, **played, **self.schedule.figures()}) | {
            "env_steps": self.env_steps, "gate_weight": weight, "upper_steps": self.upper_steps,
        }  # fmt: skip

    def evaluate(self) -> dict[str, Any]:
        """What the ``evaluate`` given at the start says."""
        if self.evaluator is None:
            return {}
        self.policy.eval()
        return dict(self.evaluator(self))

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on, the environment included."""
        graph = self.graph.state_dict() if isinstance(self.graph, LearnedGraph) else {"fixed": self.graph}
        return {
            "iteration": self.iteration,
            "upper_steps": self.upper_steps,
            "policy": self.policy.state_dict(),
            "graph": graph,
            "optimiser": self.optimiser.state_dict(),
            "edge_optimiser": None if self.edge_optimiser is None else self.edge_optimiser.state_dict(),
            "value_norm": None if self.norm is None else self.norm.state_dict(),
            "collector": self.collector.state_dict(),
            "ungated": self.ungated,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.iteration, self.upper_steps = int(state["iteration"]), int(state["upper_steps"])
        self.policy.load_state_dict(state["policy"])
        if isinstance(self.graph, LearnedGraph):
            self.graph.load_state_dict(state["graph"])
        else:
            self.graph.copy_(state["graph"]["fixed"])
        self.optimiser.load_state_dict(state["optimiser"])
        if self.edge_optimiser is not None:
            self.edge_optimiser.load_state_dict(state["edge_optimiser"])
        if self.norm is not None:
            self.norm.load_state_dict(state["value_norm"])
        self.collector.load_state_dict(state["collector"])
        ungated = state["ungated"]
        self.ungated = None if ungated is None else {name: t.to(self.device) for name, t in ungated.items()}
        self.schedule.begin(self.iteration)

    def export(self, folder: Path) -> None:
        """Writes the standard artefact, with the exact graph; of a gated team also ``ungated``, as it was before the
        gate was switched on."""
        from manyone.teams.artefact import save_team

        extra = {"seed": self.seed, "iterations": self.iteration, "env_steps": self.env_steps}
        gate = None if self.ungated is None else "decided"
        if self.ungated is None and getattr(self.policy, "gated", False):
            gate = "open"  # it has never been trained to close
        save_team(folder, self.policy, self.exact_graph(), self.env.spec, extra, gate=gate)
        if self.ungated is not None:
            earlier = copy.deepcopy(self.policy)
            earlier.load_state_dict(self.ungated)
            save_team(folder / "ungated", earlier, self.exact_graph(), self.env.spec, extra, gate="open", program=False)

    # ---- for those who build on it --------------------------------------------------------------------------------

    @property
    def env_steps(self) -> int:
        """Steps of single environments so far."""
        return self.iteration * self.collector.length * self.env.batch

    def exact_graph(self) -> Tensor:
        """The graph [n, n] of evaluation and of the finished team."""
        return self.schedule.exact()

    def gate_stage(self) -> tuple[gates.GateMode, float]:
        """How the gate acts in the coming iteration, and the weight of its loss."""
        if not getattr(self.policy, "gated", False):
            return "open", 0.0
        is_open, weight = gates.gate_schedule(
            self.iteration / self.iterations, open_until=self.gate_open, ramp=self.gate_ramp, weight=self.gate_weight
        )
        return ("open" if is_open else "sampled"), weight

    @contextmanager
    def _dropout_stream(self) -> Iterator[None]:
        """Dropout draws from the global generators: within, they depend on (seed, iteration); afterwards as before."""
        devices = [self.device] if self.device.type == "cuda" else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(seed_for(self.seed, "dropout", self.iteration))
            yield

    # ---- one iteration --------------------------------------------------------------------------------------------

    def _played(self, buffer: Buffer) -> dict[str, Tensor]:
        """Figures of the roll-out: episodes that ended in it, messages and receive rate of its steps."""
        returns, lengths = self.collector.episodes(buffer)
        done = buffer.done
        found = {
            "return": _mean_where(returns, done),
            "episode_length": _mean_where(lengths, done),
            "episodes": done.sum(),
            "reward": buffer.rewards.mean(),
            "receive_rate": masked_mean((buffer.received > 0).float(), buffer.alive),
            "links": buffer.received.sum(-1).float().mean(),
        }
        if self.env.spec.reports_success:
            found["success"] = _mean_where(buffer.success.float(), done)
        return found | {name: _mean_where(values, done) for name, values in buffer.measures.items()}

    def _update(self, buffer: Buffer, gate: gates.GateMode, weight: float) -> dict[str, Tensor]:
        everyone = bool(buffer.alive.all())
        buffer.advantages.copy_(normalise_advantages(buffer.advantages, None if everyone else buffer.alive))
        learns = self.schedule.learns()
        split = learns and self._lower < buffer.slots
        lower = buffer.batch(0, self._lower if split else buffer.slots)
        upper = buffer.batch(self._lower, buffer.slots) if split else lower

        logs: dict[str, list[Tensor]] = {}
        ratio_error: Tensor | None = None
        for epoch in range(self.epochs):
            goes_up = learns and (epoch + 1) % self.upper_every == 0
            for parameter in self._parameters:
                parameter.requires_grad_(not goes_up)
            for number, batch in enumerate(self._minibatches(upper if goes_up else lower, epoch)):
                graph = self.schedule.updated(self.iteration, epoch, number)
                figures = self._descend(batch, graph, goes_up, gate, weight, everyone)
                if not goes_up:
                    for name, value in figures.items():
                        logs.setdefault(name, []).append(value)
                if ratio_error is None:
                    ratio_error = figures["ratio_error"]
        for parameter in self._parameters:
            parameter.requires_grad_(True)
        means = {name: torch.stack(values).mean() for name, values in logs.items()}
        assert ratio_error is not None
        return means | {"ratio_change": means["ratio_error"], "ratio_error": ratio_error}

    def _descend(
        self, batch: Batch, graph: Tensor, goes_up: bool, gate: gates.GateMode, weight: float, everyone: bool
    ) -> dict[str, Tensor]:
        """One step of the logits alone (as the authors do, without clipping) or of the network alone.

        The batch goes through in pieces, which bounds the memory; their gradients add up to the batch's.
        """
        optimiser = self.edge_optimiser if goes_up else self.optimiser
        assert optimiser is not None
        optimiser.zero_grad(set_to_none=True)
        alive = None if everyone else batch.observation.alive
        counts = _Counts(*(
            batch.values.numel() if alive is None or not use else alive.sum().clamp(min=1)
            for use in (self.policy_alive, self.value_alive)
        ))  # fmt: skip
        targets = batch.returns
        if self.norm is not None:
            self.norm.update(targets, alive if self.value_alive else None)
            targets = self.norm.normalise(targets)
        batch = batch._replace(returns=targets)
        leaf = graph.detach().requires_grad_(goes_up)
        total: dict[str, Tensor] = {}
        for piece in self._pieces(batch, gate):
            loss, figures = self._loss(piece, leaf, gate, weight, everyone, counts)
            loss.backward()
            total = {name: value + total[name] if total else value for name, value in figures.items()}
        if goes_up:
            graph.backward(leaf.grad)
            self.upper_steps += 1
        else:
            total["grad_norm"] = nn.utils.clip_grad_norm_(self._parameters, self.grad_clip)
        optimiser.step()
        return total

    def _loss(
        self, batch: Batch, graph: Tensor, gate: gates.GateMode, weight: float, everyone: bool, counts: _Counts
    ) -> tuple[Tensor, dict[str, Tensor]]:
        alive = None if everyone else batch.observation.alive
        mask = alive if self.policy_alive else None
        found = self.policy.evaluate(batch.observation, batch.actions, graph, gate=gate, **batch.noise)
        surrogate, ratio_error = policy_loss(
            found.log_probs, batch.log_probs, batch.advantages, self.clip, mask, counts.policy
        )
        error = value_loss(
            found.values, batch.values, batch.returns, self.clip, self.huber, alive if self.value_alive else None,
            counts.value,
        )  # fmt: skip
        entropy = masked_mean(found.entropy, mask, counts.policy)
        loss = surrogate + self.value_coef * error - self.entropy_coef * entropy
        figures = {"policy_loss": surrogate, "value_loss": error, "entropy": entropy, "ratio_error": ratio_error}
        for name in ("open_probability", "send_probability"):
            if (chance := getattr(found, name)) is not None and gate == "sampled":
                budget = gates.gate_loss(chance, budget=self.gate_loss, target=self.gate_rate, alive=alive)
                loss = loss + weight * budget
                figures |= {"gate_loss": figures.get("gate_loss", 0) + budget, name: masked_mean(chance, alive)}
        return loss, {name: value.detach() for name, value in {"loss": loss, **figures}.items()}

    def _pieces(self, batch: Batch, gate: gates.GateMode) -> list[Batch]:
        """``batch`` in equal pieces; whole while a gate is sampled, because its budget is one number for all."""
        room = _PIECE if self.device.type == "cpu" else _PIECE_DEVICE
        count = 1 if gate == "sampled" else max(1, round(batch.values.numel() / room))
        if count == 1:
            return [batch]
        bounds = [len(batch.values) * k // count for k in range(count + 1)]
        return [batch.select(slice(a, b)) for a, b in pairwise(bounds)]

    def _minibatches(self, data: Batch, epoch: int) -> Iterator[Batch]:
        if self.minibatches == 1:
            yield data
            return
        count = len(data.log_probs)
        order = torch.randperm(count, generator=generator_for(self.seed, "minibatches", self.iteration, epoch))
        for rows in order.to(self.device).tensor_split(self.minibatches):
            yield data.select(rows)

    def _check(self, length: int, lr: float, edge_lr: float, gamma: float, lam: float, commit: float | None) -> None:
        positive = {"iterations": self.iterations, "length": length, "epochs": self.epochs, "clip": self.clip,
                    "minibatches": self.minibatches, "upper_every": self.upper_every, "lr": lr, "edge_lr": edge_lr,
                    "grad_clip": self.grad_clip, "huber": self.huber}  # fmt: skip
        for name, value in positive.items():
            if not (value > 0 and math.isfinite(value)):
                raise ManyoneError(f"{name} = {value}: must be positive")
        shares = {"gamma": gamma, "lam": lam, "commit": commit, "gate_open": self.gate_open,
                  "gate_ramp": self.gate_ramp, "gate_rate": self.gate_rate}  # fmt: skip
        for name, share in shares.items():
            if share is not None and not 0 <= share <= 1:
                raise ManyoneError(f"{name} = {share}: must be between 0 and 1")
        if isinstance(self.graph, LearnedGraph) and self.upper_every == 1:
            raise ManyoneError("upper_every = 1: every pass would go to the graph and none to the network; at least 2")
        samples = length * self.env.batch
        if self.minibatches > samples:
            raise ManyoneError(f"minibatches = {self.minibatches}: an iteration has only {samples} samples")
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
