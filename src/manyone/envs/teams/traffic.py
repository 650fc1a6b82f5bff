"""Traffic Junction, batched: cars that see next to nothing cross a junction without colliding.

The rules are those of Sukhbaatar et al. (NeurIPS 2016) in the three levels of IC3Net (Singh et al., ICLR 2019). On
every arrival road a car appears with probability ``arrival`` a step, as long as one of the n cars is free, and gets one
of the routes that start there. Actions: 0 gas (one cell further along its route), 1 brake. A car pays 0.01 times the
steps since it appeared, and 10 in every step in which it shares a cell. Episodes last exactly ``limit`` steps; success
is an episode without a collision. Cars that are not on the road are dead: they see zeros and can only brake.

======  ====================================================  ====  =====  =======  =====
level   roads                                                 cars  limit  arrival  grid
======  ====================================================  ====  =====  =======  =====
easy    two one-way roads that cross, 2 routes                5     20     0.3      7
medium  two two-way roads that cross, 4 x 3 routes            10    40     0.2      14
hard    four two-way roads, four junctions, 8 x 7 routes      20    80     0.05     18
======  ====================================================  ====  =====  =======  =====

The arrival probabilities are the final ones of IC3Net's curriculum; its easy grid is called 6 x 6 and made odd.
Public: ``TrafficJunction``, ``routes_of``.
"""

from __future__ import annotations

from itertools import product
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyone.envs.pictures import Board
from manyone.envs.teams.batch import BatchedTeam, below, chance, share, tally, whole, zeros
from manyone.envs.teams.types import Observation, TeamSpec

BRAKE = 1
STRAIGHT, RIGHT, LEFT = range(3)
UP, EAST, DOWN, WEST = (-1, 0), (0, 1), (1, 0), (0, -1)
_CLOCKWISE = (UP, EAST, DOWN, WEST)
Cell = tuple[int, int]


class Level(NamedTuple):
    """A map: its side, where cars enter and in which direction, the 2 x 2 blocks (top left cells) in which they may
    turn, how many choices a route has, and the published settings."""

    size: int
    entries: tuple[tuple[Cell, Cell], ...]
    junctions: tuple[Cell, ...]
    choices: int
    cars: int
    limit: int
    arrival: float


def _level(size: int, lanes: tuple[int, ...], choices: int, cars: int, limit: int, arrival: float) -> Level:
    """Two-way roads whose first lane has index ``lanes``; cars keep to the right: down and west are the first lanes."""
    last = size - 1
    entries = [((0, lane), DOWN) for lane in lanes]
    left = [((lane + 1, 0), EAST) for lane in lanes]
    bottom = [((last, lane + 1), UP) for lane in lanes]
    right = [((lane, last), WEST) for lane in lanes]
    # The published order of arrival roads: it decides who enters when few cars are free.
    entries += [*bottom, *left, *right] if len(lanes) == 1 else [*left, *bottom, *right]
    return Level(size, tuple(entries), tuple(product(lanes, lanes)), choices, cars, limit, arrival)


LEVELS = {
    "easy": Level(7, (((0, 3), DOWN), ((3, 0), EAST)), (), 0, 5, 20, 0.3),
    "medium": _level(14, (6,), 1, 10, 40, 0.2),
    "hard": _level(18, (4, 12), 2, 20, 80, 0.05),
}


def routes_of(level: str) -> list[list[list[Cell]]]:
    """Of every entry its routes, each a list of (row, column); the first is straight on, then right, then left at the
    first junction, and so for the second."""
    plan = LEVELS[level]
    routes = []
    for start, heading in plan.entries:
        found: list[list[Cell]] = []
        for turns in product((STRAIGHT, RIGHT, LEFT), repeat=plan.choices):
            route = _drive(plan, start, heading, turns)
            if route not in found:  # a first turn off the map leaves nothing to choose
                found.append(route)
        routes.append(found)
    return routes


def _drive(plan: Level, start: Cell, heading: Cell, turns: tuple[int, ...]) -> list[Cell]:
    """Follows one car off the map: a right turn leaves a junction from its first cell, a left turn from its second."""
    route, place, left_in, waiting = [], start, -1, list(turns)
    was_inside = False
    while 0 <= place[0] < plan.size and 0 <= place[1] < plan.size:
        route.append(place)
        inside = any(0 <= place[0] - row < 2 and 0 <= place[1] - column < 2 for row, column in plan.junctions)
        if inside and not was_inside:
            turn = waiting.pop(0) if waiting else STRAIGHT
            heading = _turned(heading, 1) if turn == RIGHT else heading
            left_in = 1 if turn == LEFT else -1
        elif left_in > 0:
            heading, left_in = _turned(heading, -1), -1
        was_inside = inside
        place = (place[0] + heading[0], place[1] + heading[1])
    return route


def _turned(heading: Cell, quarters: int) -> Cell:
    return _CLOCKWISE[(_CLOCKWISE.index(heading) + quarters) % 4]


class TrafficJunction(BatchedTeam):
    """One level with the published settings or others.

    Observation: last action, route number / (routes - 1), then the (2 ``vision`` + 1)^2 cells around the car, row by
    row, each one-hot over road cells and "off the road" plus the number of cars. Measures: ``collisions`` (cars times
    steps in a shared cell), ``through`` (cars that left the map).
    """

    fields: ClassVar[tuple[str, ...]] = ("alive", "route", "progress", "wait", "last", "collisions", "through")

    def __init__(
        self,
        batch: int,
        device: str | torch.device = "cpu",
        *,
        level: str = "easy",
        cars: int | None = None,
        vision: int = 0,
        limit: int | None = None,
        arrival: float | None = None,
    ) -> None:
        name, plan = f"traffic-junction-{level}", LEVELS[level]
        agents = plan.cars if cars is None else whole(name, "cars", cars, 1, 1000)
        horizon = plan.limit if limit is None else whole(name, "limit", limit, 1, 1_000_000)
        self.arrival = plan.arrival if arrival is None else share(name, "arrival", arrival)
        self.size = plan.size
        routes = routes_of(level)
        cells = sorted({cell for entry in routes for route in entry for cell in route})
        self.window = (2 * whole(name, "vision", vision, 0, plan.size) + 1) ** 2
        self.channels = len(cells) + 2
        self.entries, self.per_entry = len(routes), len(routes[0])
        details: dict[str, Any] = {"grid": plan.size, "vision": vision, "arrival": self.arrival}
        width = 2 + self.window * self.channels
        spec = TeamSpec(
            name, agents, width, 2, horizon=horizon, reports_success=True, absences=True, details=details
        )  # fmt: skip
        super().__init__(spec, batch, device)
        shape = (batch, agents)
        self.alive = torch.zeros(shape, dtype=torch.bool, device=self.device)
        for field in ("route", "progress", "wait", "last"):
            setattr(self, field, torch.zeros(shape, dtype=torch.int64, device=self.device))
        self.collisions = torch.zeros(batch, dtype=torch.int64, device=self.device)
        self.through = torch.zeros(batch, dtype=torch.int64, device=self.device)
        self._tables([route for entry in routes for route in entry], cells, vision)

    route: Tensor
    progress: Tensor
    wait: Tensor
    last: Tensor

    def _tables(self, routes: list[list[Cell]], cells: list[Cell], vision: int) -> None:
        """Routes as rows of road-cell numbers, and of each road cell those around it (off the road: R)."""
        number = {cell: i for i, cell in enumerate(cells)}
        self.road, off = cells, len(cells)
        longest = max(len(route) for route in routes)
        table = [[number[cell] for cell in route] + [off] * (longest + 1 - len(route)) for route in routes]
        shift = range(-vision, vision + 1)
        around = [[number.get((r + dr, c + dc), off) for dr in shift for dc in shift] for r, c in cells]
        around.append([off] * self.window)
        self._path = torch.tensor(table, device=self.device)
        self._length = torch.tensor([len(route) for route in routes], device=self.device)
        self._around = torch.tensor(around, device=self.device)
        self._hot = self._around + 2 + torch.arange(self.window, device=self.device) * self.channels

    def _start(self, rows: Tensor, slots: NDArray[np.int64]) -> None:
        """An empty map: the first cars may appear in the first step."""
        for field in self.fields:
            getattr(self, field)[rows] = 0

    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        self.wait = (self.wait + 1) * self.alive
        self.last = actions * self.alive
        self.progress = self.progress + ((actions != BRAKE) & self.alive)
        self.left = left = self.alive & (self.progress == self._length[self.route])
        self.alive = self.alive & ~left
        self.wait = self.wait * self.alive
        self._arrive()
        cells = self._path[self.route, self.progress]
        crash = self.alive & (tally(cells, len(self.road), self.alive).gather(1, cells) > 1)
        self.collisions = self.collisions + crash.sum(dim=1)
        self.through = self.through + left.sum(dim=1)
        rewards = -0.01 * self.wait.to(torch.float32) - 10.0 * crash
        never = torch.zeros(self.batch, dtype=torch.bool, device=self.device)
        measures = {"collisions": self.collisions.clone(), "through": self.through.clone()}
        return rewards, never, self.collisions == 0, measures

    def _arrive(self) -> None:
        """New cars: entries in their order, each taking the next of the free cars in a random order."""
        n, entries = self.spec.agents, self.entries
        words = self._words(np.arange(self.batch), 2 * entries + n, self.steps.cpu().numpy())
        want = torch.from_numpy(chance(words[:, :entries], self.arrival)).to(self.device)
        choice = torch.from_numpy(below(words[:, entries : 2 * entries], self.per_entry)).to(self.device)
        order = torch.from_numpy(words[:, 2 * entries :].astype(np.int64)).to(self.device)
        free = (order + (self.alive.to(torch.int64) << 32)).argsort(dim=1, stable=True)
        place = want.cumsum(dim=1) - 1
        enters = want & (place < n - self.alive.sum(dim=1, keepdim=True))
        car = torch.where(enters, free.gather(1, place.clamp(0, n - 1)), n)
        number = choice + torch.arange(entries, device=self.device) * self.per_entry
        given = torch.full((self.batch, n + 1), -1, device=self.device).scatter_(1, car, number)[:, :n]
        new = given >= 0
        self.alive = self.alive | new
        self.route = torch.where(new, given, self.route)
        self.progress = self.progress * ~new
        self.last = self.last * ~new

    def _observe(self, rows: Tensor | None) -> Observation:
        parts = (self.alive, self.route, self.progress, self.last)
        alive, route, progress, last = parts if rows is None else (part[rows] for part in parts)
        count, agents = alive.shape
        cells = self._path[route, progress]
        flat = zeros((count, agents, self.spec.observation_dim), self.device)
        shown = alive.to(torch.float32)[:, :, None]
        flat[..., 0] = last * alive
        flat[..., 1] = route * alive / (len(self._path) - 1)
        flat.scatter_(2, self._hot[cells], shown.expand(-1, -1, self.window))
        cars = tally(cells, len(self.road), alive).gather(1, self._around[cells].flatten(1))
        view = flat[..., 2:].unflatten(2, (self.window, self.channels))
        view[..., -1] = cars.view(count, agents, self.window) * shown
        available = torch.ones(count, agents, 2, dtype=torch.bool, device=self.device)
        available[..., 1 - BRAKE] = alive
        return Observation(flat, alive.clone(), available)

    def frame(self, slot: int = 0) -> np.ndarray:
        """The map: roads grey, cars as numbered discs: blue, orange when they brake, red cells where they collide."""
        board = Board(self.size, self.size)
        for row, column in self.road:
            board.fill(row * self.size + column, "road")
        cars: dict[int, list[tuple[str, str]]] = {}
        cells = self._path[self.route[slot], self.progress[slot]].tolist()
        for i in self.alive[slot].nonzero()[:, 0].tolist():
            row, column = self.road[cells[i]]
            braked = int(self.last[slot, i]) == BRAKE
            cars.setdefault(row * self.size + column, []).append((str(i), "other" if braked else "agent"))
        for cell, marks in cars.items():
            if len(marks) > 1:
                board.fill(cell, "wrong")
            board.discs(cell, marks)
        return board.array()
