"""Relay: a contextual bandit whose best communication graph is known, to test what a learnt graph is worth.

Agent i sees its own random symbol of K, its own number and a need bit. It is paid 1 for naming the symbol of one fixed
other agent, its sender (a permutation without fixed points). With probability ``need`` the need bit is 1 and only a
message can tell the symbol; otherwise the bit is 0 and the symbol is in the agent's own observation, so that listening
is wasted. One step is an episode. Public: ``Relay``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyone.envs.pictures import Board
from manyone.envs.teams.batch import BatchedTeam, below, chance, share, whole
from manyone.envs.teams.types import Observation, TeamSpec
from manyone.randomness import generator_for


def senders_of(agents: int, graph: int) -> list[int]:
    """A uniformly drawn permutation without fixed points: agent i listens best to entry i."""
    attempt = 0
    while True:
        order = torch.randperm(agents, generator=generator_for("relay", agents, graph, attempt))
        if not bool((order == torch.arange(agents)).any()):
            return order.tolist()
        attempt += 1


class Relay(BatchedTeam):
    """``agents`` n, ``symbols`` K, ``need`` the probability that an agent depends on its sender, ``graph`` the number
    of the drawn permutation. Observation: one-hot symbol [K], one-hot agent [n], need bit, one-hot target [K] (zeros
    when need = 1). ``spec.details``: ``best_senders`` and ``need_column``. Success: all agents right; measure:
    ``accuracy``.
    """

    fields: ClassVar[tuple[str, ...]] = ("symbols", "need")

    def __init__(
        self,
        batch: int,
        device: str | torch.device = "cpu",
        *,
        agents: int = 6,
        symbols: int = 5,
        need: float = 1.0,
        graph: int = 0,
    ) -> None:
        agents, kinds = whole("relay", "agents", agents, 2, 1000), whole("relay", "symbols", symbols, 2, 1000)
        self.probability = share("relay", "need", need)
        senders = senders_of(agents, whole("relay", "graph", graph, 0, 1 << 31))
        details: dict[str, Any] = {"best_senders": senders, "need_column": kinds + agents, "need": self.probability}
        width = 2 * kinds + agents + 1
        spec = TeamSpec("relay", agents, width, kinds, horizon=1, reports_success=True, details=details)
        super().__init__(spec, batch, device)
        self.symbols = torch.zeros(batch, agents, dtype=torch.int64, device=self.device)
        self.need = torch.ones(batch, agents, dtype=torch.bool, device=self.device)
        self._senders = torch.tensor(senders, device=self.device)
        self._alive = torch.ones(batch, agents, dtype=torch.bool, device=self.device)
        self._numbers = torch.eye(agents, dtype=torch.float32, device=self.device)
        self._kinds = torch.eye(kinds, dtype=torch.float32, device=self.device)

    def _start(self, rows: Tensor, slots: NDArray[np.int64]) -> None:
        words = self._words(slots, 2 * self.spec.agents)
        symbols = below(words[:, : self.spec.agents], self.spec.actions)
        need = chance(words[:, self.spec.agents :], self.probability)
        self.symbols[rows] = torch.from_numpy(symbols).to(self.device)
        self.need[rows] = torch.from_numpy(need).to(self.device)

    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        right = actions == self.symbols[:, self._senders]
        rewards = right.to(torch.float32)
        ended = torch.ones(self.batch, dtype=torch.bool, device=self.device)
        return rewards, ended, right.all(dim=1), {"accuracy": rewards.mean(dim=1)}

    def _observe(self, rows: Tensor | None) -> Observation:
        symbols, need = (self.symbols, self.need) if rows is None else (self.symbols[rows], self.need[rows])
        told = self._kinds[symbols[:, self._senders]] * (~need)[..., None]
        numbers = self._numbers.expand(len(symbols), -1, -1)
        observations = torch.cat([self._kinds[symbols], numbers, need[..., None], told], dim=-1)
        return Observation(observations, self._alive[: len(symbols)])

    def frame(self, slot: int = 0) -> np.ndarray:
        """A row an agent: its number (orange when it needs its sender), its symbol, its sender, the symbol to name."""
        n = self.spec.agents
        board = Board(n, 4)
        symbols, need = self.symbols[slot].tolist(), self.need[slot].tolist()
        for agent, sender in enumerate(self.spec.details["best_senders"]):
            board.discs(4 * agent, [(str(agent), "other" if need[agent] else "agent")])
            board.discs(4 * agent + 1, [(str(symbols[agent]), "done")])
            board.discs(4 * agent + 2, [(str(sender), "agent")])
            board.discs(4 * agent + 3, [(str(symbols[sender]), "goal")])
        return board.array()
