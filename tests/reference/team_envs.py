"""Plain formulations of the project's team environments: one episode at a time, loops over agents and cells.

Only the counted random words are shared with the batched versions; what is made of them is written out again.
"""

from __future__ import annotations

from itertools import pairwise

from manyone.randomness import counter_words, seed_for

MOVES = [(-1, 0), (0, 1), (1, 0), (0, -1)]


def words(seed, task, slot, episode, step, count):
    return [int(w) for w in counter_words(seed_for(seed, "team", task), (slot, episode, step), count)]


def under(word, bound):
    return word * bound >> 32


class ReferenceGrid:
    """Predator-Prey and Predator-Capture-Prey."""

    def __init__(self, task, slot, seed, size, predators, vision, limit, captors=0, blind=0, reward="mixed"):
        self.task, self.slot, self.seed, self.episode = task, slot, seed, 0
        self.size, self.predators, self.captors, self.blind = size, predators, captors, blind
        self.vision, self.limit, self.reward = vision, limit, reward
        self.start()

    def start(self):
        n = self.predators + self.captors
        drawn = words(self.seed, self.task, self.slot, self.episode, 0, n + 1)
        cells = [(r, c) for r in range(self.size) for c in range(self.size)]
        for i in range(n + 1):
            other = i + under(drawn[i], len(cells) - i)
            cells[i], cells[other] = cells[other], cells[i]
        self.agents, self.prey = cells[:n], cells[n]
        self.reached, self.captured, self.time = [False] * n, [False] * n, 0

    def restart(self):
        self.episode += 1
        self.start()

    def step(self, actions):
        for i, action in enumerate(actions):
            captor = i >= self.predators
            if self.reached[i]:
                if captor and action == 5:
                    self.captured[i] = True
                continue
            if action < 4:
                row, column = self.agents[i][0] + MOVES[action][0], self.agents[i][1] + MOVES[action][1]
                if 0 <= row < self.size and 0 <= column < self.size:
                    self.agents[i] = (row, column)
        self.time += 1
        on = [i for i, cell in enumerate(self.agents) if cell == self.prey]
        rewards = [-0.05] * len(self.agents)
        for i in on:
            self.reached[i] = True
            if i < self.predators or self.captured[i]:
                paid = {"mixed": 0.0, "cooperative": 0.05 * len(on), "competitive": 0.05 / len(on)}
                rewards[i] = paid[self.reward]
        success = len(on) == len(self.agents) and all(self.captured[self.predators :])
        terminated = success and self.reward == "mixed"
        return rewards, terminated, not terminated and self.time >= self.limit, success, {}

    def observations(self):
        places, seen = self.size * self.size, []
        for i, (row, column) in enumerate(self.agents):
            view = []
            for r in range(row - self.vision, row + self.vision + 1):
                for c in range(column - self.vision, column + self.vision + 1):
                    cell = [0.0] * (places + 4)
                    if 0 <= r < self.size and 0 <= c < self.size:
                        cell[r * self.size + c] = 1.0
                    else:
                        cell[places + 1] = 1.0
                    cell[places] = float(self.agents[self.predators :].count((r, c)))
                    cell[places + 3] = float(self.agents[: self.predators].count((r, c)))
                    if i < self.predators - self.blind:
                        cell[places + 2] = float((r, c) == self.prey)
                    if i >= self.predators:
                        cell[places:] = [-1.0] * 4
                    view += cell
            seen.append(view)
        return seen

    def alive(self):
        return [True] * len(self.agents)


class ReferenceTraffic:
    """Traffic Junction on given routes (of every entry a list of routes)."""

    def __init__(self, task, slot, seed, routes, cars, vision, limit, arrival):
        self.task, self.slot, self.seed, self.episode = task, slot, seed, 0
        self.routes, self.cars, self.vision, self.limit, self.arrival = routes, cars, vision, limit, arrival
        self.road = sorted({cell for entry in routes for route in entry for cell in route})
        self.start()

    def start(self):
        self.car = [None] * self.cars  # of each car on the road: entry, route, place on it, steps waited, last action
        self.time = self.collisions = self.through = 0

    def restart(self):
        self.episode += 1
        self.start()

    def cell(self, i):
        car = self.car[i]
        return None if car is None else self.routes[car["entry"]][car["route"]][car["place"]]

    def step(self, actions):
        for i, car in enumerate(self.car):
            if car is None:
                continue
            car["wait"] += 1
            car["last"] = actions[i]
            if actions[i] == 0:
                car["place"] += 1
                if car["place"] == len(self.routes[car["entry"]][car["route"]]):
                    self.car[i] = None
                    self.through += 1
        entries = len(self.routes)
        drawn = words(self.seed, self.task, self.slot, self.episode, self.time, 2 * entries + self.cars)
        free = sorted((i for i in range(self.cars) if self.car[i] is None), key=lambda i: (drawn[2 * entries + i], i))
        for entry in range(entries):
            if drawn[entry] < self.arrival * 2**32 and free:
                route = under(drawn[entries + entry], len(self.routes[entry]))
                self.car[free.pop(0)] = {"entry": entry, "route": route, "place": 0, "wait": 0, "last": 0}
        self.time += 1
        cells = [self.cell(i) for i in range(self.cars)]
        rewards = []
        for car, cell in zip(self.car, cells):
            reward = 0.0 if car is None else -0.01 * car["wait"]
            if cell is not None and cells.count(cell) > 1:
                reward -= 10.0
                self.collisions += 1
            rewards.append(reward)
        measures = {"collisions": self.collisions, "through": self.through}
        return rewards, False, self.time >= self.limit, self.collisions == 0, measures

    def observations(self):
        channels, cells, seen = len(self.road) + 2, [self.cell(i) for i in range(self.cars)], []
        span = range(-self.vision, self.vision + 1)
        total = sum(len(entry) for entry in self.routes)
        for car, cell in zip(self.car, cells):
            if car is None:
                seen.append([0.0] * (2 + len(span) ** 2 * channels))
                continue
            view = [float(car["last"]), (car["entry"] * len(self.routes[0]) + car["route"]) / (total - 1)]
            for r in span:
                for c in span:
                    place = (cell[0] + r, cell[1] + c)
                    one = [0.0] * channels
                    one[self.road.index(place) if place in self.road else channels - 2] = 1.0
                    one[channels - 1] = float(cells.count(place))
                    view += one
            seen.append(view)
        return seen

    def alive(self):
        return [car is not None for car in self.car]


def headings(route):
    """The moves along a route."""
    return [(b[0] - a[0], b[1] - a[1]) for a, b in pairwise(route)]
