"""Predator-Prey and Predator-Capture-Prey on a grid, batched: the tasks of CommNet, IC3Net, HetNet and CommFormer.

Predators and one prey that never moves stand on distinct random cells of a D x D grid. Actions: 0 up, 1 right, 2 down,
3 left, 4 stay; the border blocks, and who has reached the prey stays there. Reward "mixed" (Singh et al., ICLR 2019):
-0.05 a step off the prey, 0 on it, and the episode ends when all are on it. In "cooperative" and "competitive" those
on the prey get 0.05 times, or divided by, their number, and the episode runs to its limit.
An agent sees the (2v+1)^2 cells around it, row by row; a cell is D^2 + 4 numbers: one-hot of its place on the grid
(zeros outside), the number of capture agents, whether it is outside, the number of preys, the number of predators.

Predator-Capture-Prey (Seraji et al., AAMAS 2022) adds capture agents: blind to all but their place (the last four
numbers of every cell are -1), with a sixth action "capture" that works on the prey. One that stands there and has not
captured still pays 0.05; the episode ends when all have arrived and all capture agents have captured.
Public: ``GridTeam``.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyone.envs.pictures import Board
from manyone.envs.teams.batch import BatchedTeam, below, one_of, tally, whole, zeros
from manyone.envs.teams.types import Observation, TeamSpec
from manyone.errors import ManyoneError

MOVES = ((-1, 0), (0, 1), (1, 0), (0, -1), (0, 0), (0, 0))
CAPTURE = 5
REWARDS = ("mixed", "cooperative", "competitive")


class GridTeam(BatchedTeam):
    """Agents in this order: predators that see, ``blind`` predators that never see the prey, ``captors``.

    ``size`` D, ``vision`` v, ``limit`` the most steps (4 D when it is None: 20 on a 5 x 5 grid, as published).
    ``Step.success``: all are on the prey and all captors have captured.
    """

    fields: ClassVar[tuple[str, ...]] = ("cells", "prey", "captured")

    def __init__(
        self,
        batch: int,
        device: str | torch.device = "cpu",
        *,
        name: str = "predator-prey",
        size: int = 5,
        predators: int = 3,
        captors: int = 0,
        blind: int = 0,
        vision: int = 1,
        limit: int | None = None,
        reward: str = "mixed",
    ) -> None:
        whole(name, "size", size, 2, 100)
        whole(name, "predators", predators, 1, 100)
        whole(name, "captors", captors, 0, 100)
        whole(name, "blind", blind, 0, predators)
        whole(name, "vision", vision, 0, size)
        horizon = 4 * size if limit is None else whole(name, "limit", limit, 1, 1_000_000)
        self.reward = one_of(name, "reward", reward, REWARDS)
        agents = predators + captors
        if agents + 1 > size * size:
            raise ManyoneError(
                f"{name}: {agents} agents and a prey need more than the {size * size} cells of size={size}"
            )
        self.size, self.vision, self.places = size, vision, size * size
        self.predators, self.captors, self.blind = predators, captors, blind
        self.window, self.channels = (2 * vision + 1) ** 2, self.places + 4
        roles = ["predator"] * (predators - blind) + ["blind"] * blind + ["captor"] * captors
        spec = TeamSpec(
            name,
            agents,
            self.window * self.channels,
            6 if captors else 5,
            horizon=horizon,
            agent_names=tuple(f"{role} {i}" for i, role in enumerate(roles)),
            reports_success=True,
            details={"size": size, "vision": vision, "reward": reward, "roles": roles},
        )
        super().__init__(spec, batch, device)
        self.cells = torch.zeros(batch, agents, dtype=torch.int64, device=self.device)
        self.prey = torch.zeros(batch, 1, dtype=torch.int64, device=self.device)
        self.captured = torch.zeros(batch, captors, dtype=torch.bool, device=self.device)
        self._tables()

    def _tables(self) -> None:
        """What depends on a cell alone: the cells around it, where a move leads, and the constant part of its view."""
        size, v = self.size, self.vision
        place = torch.arange(self.places)
        row, column = place // size, place % size
        shift = torch.arange(-v, v + 1)
        rows = (row[:, None, None] + shift[None, :, None]).expand(-1, -1, len(shift))
        columns = (column[:, None, None] + shift[None, None, :]).expand(-1, len(shift), -1)
        inside = (rows >= 0) & (rows < size) & (columns >= 0) & (columns < size)
        around = torch.where(inside, rows * size + columns, self.places).reshape(self.places, -1)
        moves = torch.tensor(MOVES)
        to_row = (row[:, None] + moves[:, 0]).clamp(0, size - 1)
        after = to_row * size + (column[:, None] + moves[:, 1]).clamp(0, size - 1)
        # An outside cell's one-hot channel is the second of the four after the places.
        channel = torch.where(inside.reshape(self.places, -1), around, self.places + 1)
        self._around = around.to(self.device)
        self._hot = (channel + torch.arange(self.window) * self.channels).to(self.device)
        self._after = after.flatten().to(self.device)
        self._alive = torch.ones(self.batch, self.spec.agents, dtype=torch.bool, device=self.device)
        self._one = torch.ones(1, dtype=torch.float32, device=self.device)
        self._available = None
        if self.captors:
            available = torch.ones(self.batch, self.spec.agents, 6, dtype=torch.bool, device=self.device)
            available[:, : self.predators, CAPTURE] = False
            self._available = available

    def _start(self, rows: Tensor, slots: NDArray[np.int64]) -> None:
        """Distinct cells by the first steps of a Fisher-Yates shuffle, all slots at once."""
        count = self.spec.agents + 1
        words = self._words(slots, count)
        order = np.tile(np.arange(self.places), (len(slots), 1))
        line = np.arange(len(slots))
        for i in range(count):
            other = i + below(words[:, i], self.places - i)
            picked = order[line, other]
            order[line, other] = order[:, i]
            order[:, i] = picked
        drawn = torch.from_numpy(order[:, :count].copy()).to(self.device)
        self.cells[rows], self.prey[rows] = drawn[:, :-1], drawn[:, -1:]
        self.captured[rows] = False

    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        was_on = self.cells == self.prey
        self.cells = torch.where(was_on, self.cells, self._after[self.cells * len(MOVES) + actions])
        on = self.cells == self.prey
        settled = on
        if self.captors:
            # Arriving and capturing are two steps: only who stood on the prey before can capture.
            capture = (actions[:, self.predators :] == CAPTURE) & was_on[:, self.predators :]
            self.captured = self.captured | capture
            settled = torch.cat([on[:, : self.predators], on[:, self.predators :] & self.captured], dim=1)
        if self.reward == "mixed":
            rewards = torch.where(settled, 0.0, -0.05)
        else:
            crowd = on.sum(dim=1, keepdim=True)
            paid = 0.05 * crowd if self.reward == "cooperative" else 0.05 / crowd.clamp(min=1)
            rewards = torch.where(settled, paid, -0.05)
        success = settled.all(dim=1)
        terminated = success if self.reward == "mixed" else torch.zeros_like(success)
        return rewards.to(torch.float32), terminated, success, {}

    def _observe(self, rows: Tensor | None) -> Observation:
        cells, prey = (self.cells, self.prey) if rows is None else (self.cells[rows], self.prey[rows])
        count, agents = cells.shape
        around = self._around[cells]
        flat = zeros((count, agents, self.window * self.channels), self.device)
        flat.scatter_(2, self._hot[cells], self._one.expand(count, agents, self.window))
        view = flat.view(count, agents, self.window, self.channels)
        view[..., -1] = self._seen(cells[:, : self.predators], around)
        seeing = self.predators - self.blind
        view[:, :seeing, :, -2] = (around[:, :seeing] == prey[:, :, None]).to(torch.float32)
        if self.captors:
            view[..., -4] = self._seen(cells[:, self.predators :], around)
            view[:, self.predators :, :, -4:] = -1.0
        available = None if self._available is None else self._available[:count]
        return Observation(flat, self._alive[:count], available)

    def _seen(self, cells: Tensor, around: Tensor) -> Tensor:
        """How many of these agents stand on each of the cells around everybody, float32 [slots, n, cells]."""
        return tally(cells, self.places).gather(1, around.flatten(1)).view(around.shape)

    def frame(self, slot: int = 0) -> np.ndarray:
        """The grid: what is seen tinted, the prey a red cell, agents as numbered discs (blue; orange when they are
        blind; green when they have arrived and are done)."""
        board = Board(self.size, self.size)
        cells, prey = self.cells[slot].tolist(), int(self.prey[slot])
        seeing = self.predators - self.blind
        for cell in {place for i in range(seeing) for place in self._around[cells[i]].tolist()} - {self.places}:
            board.fill(cell, "seen")
        board.fill(prey, "goal")
        captured = [True] * self.predators + self.captured[slot].tolist()
        for cell in sorted(set(cells)):
            marks = []
            for i in (i for i, place in enumerate(cells) if place == cell):
                colour = "agent" if i < seeing else "other"
                marks.append((str(i), "done" if cell == prey and captured[i] else colour))
            board.discs(cell, marks)
        return board.array()
