"""How a team is trained, as one value: what the learner, its roll-outs, its graph and its updates go by.

Public names: :class:`Training`, ``RollOut``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from manyone.errors import ManyoneError
from manyone.teams.network.gate import Budget

RollOut = Literal["replay", "official"]


@dataclass(frozen=True, kw_only=True)
class Training:
    """``iterations``: planned number, which the schedules need. ``length``: environment steps an iteration and slot;
    ``minibatches`` a pass. ``lr``, ``edge_lr``: step sizes of the network and of the logits. ``upper_every``: the pass
    that goes to the logits (0: none does); ``upper_data``: on the same data, or on a fifth of the slots that the
    network is not updated on (``heldout``). ``commit``: share of training after which the graph is exact and frozen
    (0: never). ``search``: instead, share of training in which everybody hears everybody while the logits learn; then
    the graph is chosen and a new network is trained on it for the rest (0: no such search). ``graph_rollout`` and
    ``warmup``: see :mod:`manyone.teams.ppo.graph_schedule`. ``value_alive``: leave dead agents out of the value loss;
    the policy's never counts them.

    Of a policy with a gate: it is forced open for the share ``gate_open`` of training, then sampled, with the budget
    loss ``gate_loss`` towards the rate ``gate_target`` (of receiving or of sending; with both gates each has its loss),
    its weight rising to ``gate_weight`` over the share ``gate_ramp``.
    """

    iterations: int
    length: int = 100
    epochs: int = 10
    minibatches: int = 1
    lr: float = 5e-4
    edge_lr: float = 1e-2
    upper_every: int = 5
    upper_data: Literal["same", "heldout"] = "same"
    clip: float = 0.05
    value_coef: float = 1.0
    entropy_coef: float = 0.01
    gamma: float = 0.99
    lam: float = 0.95
    grad_clip: float = 10.0
    graph_rollout: RollOut = "replay"
    commit: float = 0.4
    search: float = 0.0
    warmup: int = 10
    gate_loss: Budget = "ratio"
    gate_target: float = 0.5
    gate_weight: float = 0.2
    gate_open: float = 0.6
    gate_ramp: float = 0.15
    value_alive: bool = True

    @property
    def searched(self) -> int:
        """Iterations of the search."""
        return round(self.search * self.iterations)

    def __post_init__(self) -> None:
        for name in ("iterations", "length", "epochs", "minibatches", "lr", "edge_lr", "clip", "grad_clip"):
            if not 0 < getattr(self, name) < math.inf:
                raise ManyoneError(f"{name} = {getattr(self, name)}: must be positive")
        for name in ("gamma", "lam", "commit", "search", "gate_open", "gate_ramp", "gate_target"):
            if not 0 <= getattr(self, name) <= 1:
                raise ManyoneError(f"{name} = {getattr(self, name)}: must be between 0 and 1")
        if self.search and not 0 < self.searched < self.iterations:
            raise ManyoneError(
                f"search = {self.search}: {self.searched} of {self.iterations} iterations would go to the search; both "
                "it and the training after it need at least one"
            )
        if self.search and self.graph_rollout == "official":
            raise ManyoneError("search: acts on all links, which graph_rollout official does not")
        if self.search and not self.upper_every:
            raise ManyoneError("search: with upper_every = 0 the links would learn nothing")
        if self.upper_every < 0:
            raise ManyoneError(f"upper_every = {self.upper_every}: must be at least 2, or 0 for no pass at all")
