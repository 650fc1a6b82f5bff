"""One iteration's updates: passes over its data that step the network, or the logits of the graph, alone.

    L = L_pi + c_v L_V - c_e H [+ lambda(t) L_gate]      network: Adam, gradient norm clipped    logits: Adam, edge_lr

Public name: :class:`Updates`.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from manyone.randomness import generator_for
from manyone.teams.network.gate import GateMode, gate_loss
from manyone.teams.network.graph import LearnedGraph
from manyone.teams.ppo.buffer import Batch, Buffer
from manyone.teams.ppo.graph_schedule import GraphSchedule
from manyone.teams.ppo.losses import masked_mean, normalise_advantages, policy_loss, value_loss
from manyone.teams.ppo.training import Training
from manyone.teams.ppo.value_norm import ValueNorm

PIECE, PIECE_DEVICE = 8192, 1 << 18
"""Samples times agents that go through the network at a time, on the CPU and on an accelerator."""
_ADAM_EPS = 1e-5  # MAPPO's and MAT's value
_HUBER = 10.0  # threshold of the value loss, in normalised units: theirs too


class _Counts(NamedTuple):
    """Numbers of living agents' samples that the policy's and the value's terms are divided by."""

    policy: Tensor | int
    value: Tensor | int


class Updates:
    """Both levels' optimisers and what they step: ``policy``, the graph of ``schedule``, and the statistics ``norm``.

    ``slots``: copies of the environment, of which some may be held out for the graph.
    """

    def __init__(
        self, policy: Any, schedule: GraphSchedule, norm: ValueNorm, training: Training, *, slots: int, seed: int
    ) -> None:
        self.policy, self.schedule, self.norm, self.training, self.seed = policy, schedule, norm, training, seed
        self.parameters = [p for p in policy.parameters() if p.requires_grad]
        self.device = self.parameters[0].device
        fused = self.device.type in ("cpu", "cuda")
        self.optimiser = torch.optim.Adam(self.parameters, lr=training.lr, eps=_ADAM_EPS, fused=fused)
        self.edge_optimiser: torch.optim.Adam | None = None
        if isinstance(schedule.graph, LearnedGraph):
            self.edge_optimiser = torch.optim.Adam(schedule.graph.parameters(), lr=training.edge_lr, eps=_ADAM_EPS)
        held_out = max(1, round(slots / 5)) if training.upper_data == "heldout" and schedule.learned else 0
        self.lower = slots - held_out  # slots of the network's updates while the graph learns
        self.upper_steps = 0

    def run(self, buffer: Buffer, iteration: int, gate: GateMode, weight: float) -> dict[str, Tensor]:
        """All passes over ``buffer``; means of their figures. ``weight``: of the gate's budget loss."""
        training = self.training
        everyone = bool(buffer.alive.all())
        buffer.advantages.copy_(normalise_advantages(buffer.advantages, None if everyone else buffer.alive))
        learns = self.schedule.learns() and training.upper_every > 0
        split = self.schedule.learns() and self.lower < buffer.slots
        lower = buffer.batch(0, self.lower if split else buffer.slots)
        upper = buffer.batch(self.lower, buffer.slots) if split else lower

        logs: dict[str, list[Tensor]] = {}
        ratio_error: Tensor | None = None
        for epoch in range(training.epochs):
            goes_up = learns and (epoch + 1) % training.upper_every == 0
            for parameter in self.parameters:
                parameter.requires_grad_(not goes_up)
            for number, batch in enumerate(self._minibatches(upper if goes_up else lower, iteration, epoch)):
                graph = self.schedule.updated(iteration, epoch, number)
                figures = self.descend(batch, graph, goes_up, gate, weight, everyone)
                if not goes_up:
                    for name, value in figures.items():
                        logs.setdefault(name, []).append(value)
                if ratio_error is None:
                    ratio_error = figures["ratio_error"]
        for parameter in self.parameters:
            parameter.requires_grad_(True)
        means = {name: torch.stack(values).mean() for name, values in logs.items()}
        assert ratio_error is not None
        return means | {"ratio_change": means["ratio_error"], "ratio_error": ratio_error}

    def descend(
        self, batch: Batch, graph: Tensor, goes_up: bool, gate: GateMode, weight: float, everyone: bool
    ) -> dict[str, Tensor]:
        """One step of the logits alone (as the authors do, without clipping) or of the network alone.

        The batch goes through in pieces, which bounds the memory; their gradients add up to the batch's. ``everyone``:
        whether all agents are alive in all samples.
        """
        optimiser = self.edge_optimiser if goes_up else self.optimiser
        assert optimiser is not None
        optimiser.zero_grad(set_to_none=True)
        alive = None if everyone else batch.observation.alive
        value_mask = alive if self.training.value_alive else None
        counts = _Counts(*(
            batch.values.numel() if mask is None else mask.sum().clamp(min=1) for mask in (alive, value_mask)
        ))  # fmt: skip
        self.norm.update(batch.returns, value_mask)
        batch = batch._replace(returns=self.norm.normalise(batch.returns))
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
            total["grad_norm"] = nn.utils.clip_grad_norm_(self.parameters, self.training.grad_clip)
        optimiser.step()
        return total

    def _loss(
        self, batch: Batch, graph: Tensor, gate: GateMode, weight: float, everyone: bool, counts: _Counts
    ) -> tuple[Tensor, dict[str, Tensor]]:
        training, alive = self.training, None if everyone else batch.observation.alive
        found = self.policy.evaluate(batch.observation, batch.actions, graph, gate=gate, **batch.noise)
        surrogate, ratio_error = policy_loss(
            found.log_probs, batch.log_probs, batch.advantages, training.clip, alive, counts.policy
        )
        error = value_loss(
            found.values, batch.values, batch.returns, training.clip, _HUBER, alive if training.value_alive else None,
            counts.value,
        )  # fmt: skip
        entropy = masked_mean(found.entropy, alive, counts.policy)
        loss = surrogate + training.value_coef * error - training.entropy_coef * entropy
        figures = {"policy_loss": surrogate, "value_loss": error, "entropy": entropy, "ratio_error": ratio_error}
        for name in ("open_probability", "send_probability"):
            if (chance := getattr(found, name)) is not None and gate == "sampled":
                budget = gate_loss(chance, budget=training.gate_loss, target=training.gate_target, alive=alive)
                loss = loss + weight * budget
                figures |= {"gate_loss": figures.get("gate_loss", 0) + budget, name: masked_mean(chance, alive)}
        return loss, {name: value.detach() for name, value in {"loss": loss, **figures}.items()}

    def _pieces(self, batch: Batch, gate: GateMode) -> list[Batch]:
        """``batch`` in equal pieces; whole while a gate is sampled, because its budget is one number for all."""
        room = PIECE if self.device.type == "cpu" else PIECE_DEVICE
        count = 1 if gate == "sampled" else max(1, round(batch.values.numel() / room))
        if count == 1:
            return [batch]
        bounds = [len(batch.values) * k // count for k in range(count + 1)]
        return [batch.select(slice(a, b)) for a, b in pairwise(bounds)]

    def _minibatches(self, data: Batch, iteration: int, epoch: int) -> Iterator[Batch]:
        if self.training.minibatches == 1:
            yield data
            return
        count = len(data.log_probs)
        order = torch.randperm(count, generator=generator_for(self.seed, "minibatches", iteration, epoch))
        for rows in order.to(self.device).tensor_split(self.training.minibatches):
            yield data.select(rows)
