"""Many single-agent environments behind rows of shared arrays: what a worker of a roll-out simulates.

``reset`` starts episodes in rows, ``step`` reads the rows' actions and writes their observations, rewards and flags,
all in place. Bodies that :mod:`manyone.envs.single.batched` knows are stepped together, to the same numbers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from manyone.envs.single import make as build
from manyone.envs.single.batched import Bodies, batched
from manyone.envs.workers import KNOWN, SUCCESS, TERMINATED, TRUNCATED, UNSTABLE, Failure, SharedArrays, words_of

if TYPE_CHECKING:
    import gymnasium

SPARE = 8  # idle environments that a simulator keeps for rows that change their task
_FEWEST = 4  # rows that are worth a thread of their own

Start = tuple[int, str, int, int]  # row, task, goal, seed


@dataclass
class Buffers:
    """Arrays that both sides see; row r belongs to one running episode."""

    observations: np.ndarray  # float32 [rows, S]
    actions: np.ndarray  # float32 [rows, A]
    rewards: np.ndarray  # float64 [rows]
    flags: np.ndarray  # uint8 [rows]
    seconds: np.ndarray  # float64 [simulators, 2]: processor seconds spent in step and in reset


def buffer_memory(rows: int, states: int, actions: int, simulators: int, *, shared: bool) -> SharedArrays:
    """The memory of :class:`Buffers`."""
    shapes = {
        "rewards": ("f8", (rows,)),
        "seconds": ("f8", (simulators, 2)),
        "observations": ("f4", (rows, states)),
        "actions": ("f4", (rows, actions)),
        "flags": ("u1", (rows,)),
    }
    return SharedArrays(shapes, shared=shared)


class RowSimulator:
    """The environments of some rows; they are built when first needed and used again for later episodes.

    Rows that are stepped together share ``threads`` threads, this one among them.
    """

    def __init__(self, buffers: SharedArrays, number: int, options: Mapping[str, Any], threads: int = 1) -> None:
        self.buffers, self.number, self.options = Buffers(**buffers.views()), number, dict(options)
        self.threads, self._pool = threads, ThreadPoolExecutor(threads - 1, "rollout") if threads > 1 else None
        self._rows: dict[int, tuple[str, gymnasium.Env]] = {}
        self._spare: list[tuple[str, gymnasium.Env]] = []  # the longest idle first
        self._bodies: dict[str, Bodies | None] = {}  # by task; None: stepped one by one
        self._groups: list[Bodies] = []  # those that are not None
        self._group = np.full(len(self.buffers.rewards), -1)  # the group of each row that is stepped with others

    def reset(self, starts: Sequence[Start]) -> None:
        """Starts one episode in each of the rows; their first observations are written."""
        began = time.process_time()
        for row, task, goal, seed in sorted(starts, key=lambda start: (start[1], start[0])):
            try:
                bodies = self._batch(task)
                if bodies is None:
                    env = self._environment(row, task)
                    build.set_goal(env, task, goal)
                    observation, _ = env.reset(seed=seed)
                else:
                    build.check_goal(task, goal)
                    self._group[row] = self._groups.index(bodies)
                    (observation,) = bodies.reset([row], [seed])
                self.buffers.observations[row, : len(observation)] = observation
                if not np.isfinite(observation).all():
                    raise ValueError(f"the first observation is not finite: {observation.tolist()}")
            except Exception as problem:
                raise Failure(row, words_of(problem)) from problem
        self.buffers.seconds[self.number, 1] += time.process_time() - began

    def step(self, rows: Sequence[int]) -> None:
        """One step of each of the rows with its action, clipped to the action space."""
        began = time.process_time()
        group = self._group[rows]
        if len(group) and group.min() < 0:
            for row in np.asarray(rows)[group < 0].tolist():
                try:
                    self._step(row)
                except Exception as problem:
                    raise Failure(row, words_of(problem)) from problem
        if len(group) and group.max() >= 0:
            together = np.asarray(rows)[group >= 0]
            try:
                self._step_together(together, group[group >= 0])
            except Exception as problem:
                raise Failure(int(together[0]), words_of(problem)) from problem
        self.buffers.seconds[self.number, 0] += time.process_time() - began

    def _step_together(self, all_rows: np.ndarray, group: np.ndarray) -> None:
        """One step of rows, each with the others of its ``group``; all are dealt out to the threads."""
        buffers = self.buffers
        groups = []
        for number in np.unique(group).tolist():
            bodies, rows = self._groups[number], all_rows[group == number]
            actions = np.clip(buffers.actions[rows, : bodies.action_dim], bodies.low, bodies.high)
            groups.append((bodies, rows, actions, bodies.prepare(rows, actions)))
        count = max(1, min(self.threads, len(all_rows) // _FEWEST))

        def advance(thread: int) -> None:
            dealt = 0
            for bodies, rows, _, _ in groups:
                bodies.advance(rows[(thread - dealt) % count :: count].tolist(), thread)
                dealt += len(rows)

        others = [self._pool.submit(advance, thread) for thread in range(1, count)] if self._pool is not None else []
        try:
            advance(0)
        finally:
            wait(others)
        for other in others:
            other.result()
        for bodies, rows, actions, before in groups:
            seen = bodies.finish(rows, actions, before)
            flags = TERMINATED * seen.terminated | TRUNCATED * seen.truncated
            stable = np.isfinite(seen.observations).all(1) & np.isfinite(seen.rewards)
            buffers.observations[rows, : bodies.state_dim] = seen.observations
            buffers.rewards[rows] = np.where(stable, seen.rewards, 0.0)
            buffers.flags[rows] = np.where(stable, flags, flags | UNSTABLE)

    def _step(self, row: int) -> None:
        _, env = self._rows[row]
        space: Any = env.action_space
        action = np.clip(self.buffers.actions[row, : space.shape[0]], space.low, space.high)
        observation, gained, terminated, truncated, info = env.step(action)
        reward = float(gained)
        flags = TERMINATED * bool(terminated) | TRUNCATED * bool(truncated)
        told = info.get("success", info.get("is_success"))  # Gymnasium-Robotics has the second
        if told is not None:
            flags |= KNOWN | SUCCESS * (float(told) > 0)
        if not (np.isfinite(observation).all() and math.isfinite(reward)):
            reward, flags = 0.0, flags | UNSTABLE  # the episode ends here; nobody acts on this observation
        self.buffers.observations[row, : len(observation)] = observation
        self.buffers.rewards[row] = reward
        self.buffers.flags[row] = flags

    def picture(self, row: int) -> np.ndarray:
        """The row's environment now, uint8 [height, width, 3]; needs ``render_mode`` among the options."""
        image: Any = self._rows[row][1].render()
        return np.asarray(image)

    def close(self) -> None:
        """Closes every environment."""
        for _, env in [*self._rows.values(), *self._spare]:
            env.close()
        self._rows, self._spare, self._bodies, self._groups = {}, [], {}, []
        self._group[:] = -1
        if self._pool is not None:
            self._pool.shutdown()

    def _batch(self, task: str) -> Bodies | None:
        """The bodies of ``task`` where they can be stepped together; pictures and other options need environments."""
        if task not in self._bodies:
            self._bodies[task] = bodies = None if self.options else batched(task)
            self._groups += [] if bodies is None else [bodies]
        return self._bodies[task]

    def _environment(self, row: int, task: str) -> gymnasium.Env:
        self._group[row] = -1
        held = self._rows.get(row)
        if held is not None:
            if held[0] == task:
                return held[1]
            self._spare.append(self._rows.pop(row))
        place = next((i for i, (name, _) in enumerate(self._spare) if name == task), None)
        env = build.make_env(task, **self.options) if place is None else self._spare.pop(place)[1]
        while len(self._spare) > SPARE:
            self._spare.pop(0)[1].close()
        self._rows[row] = (task, env)
        return env
