"""What lock-step roll-outs keep beside the episodes: whose turn it is, and where the time goes."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass
class Timing:
    """Where the time went: wall seconds of this process, and processor seconds of the simulators."""

    policy: float = 0.0  # in start, act and reward
    simulation: float = 0.0  # waiting for steps
    starting: float = 0.0  # waiting for environments to be built and reset
    simulator_cpu: float = 0.0  # processor seconds of steps, summed over workers
    steps: int = 0  # environment steps


class Queue:
    """Which episode runs next: one of every task in turn at first, then one of the task that has just ended.

    The order depends on the episodes alone, never on which worker is free, and it lets environments be used again.
    """

    def __init__(self, tasks: Iterable[str]) -> None:
        """``tasks`` [n]: the task of every episode."""
        self._waiting: dict[str, deque[int]] = {}
        for slot, task in enumerate(tasks):
            self._waiting.setdefault(task, deque()).append(slot)
        self._turn = deque(self._waiting)

    def first(self, rows: int) -> list[int]:
        """The episodes that ``rows`` environments start with."""
        taken = (self.next() for _ in range(rows))
        return [slot for slot in taken if slot is not None]

    def next(self, task: str | None = None) -> int | None:
        """An episode of ``task`` where one waits, else of the task whose turn it is; None when nothing waits."""
        if task is not None and self._waiting[task]:
            return self._waiting[task].popleft()
        for _ in range(len(self._turn)):
            self._turn.rotate(-1)
            waiting = self._waiting[self._turn[-1]]
            if waiting:
                return waiting.popleft()
        return None


class Clock:
    """Books the time since its last call."""

    def __init__(self, timing: Timing) -> None:
        self.timing, self.last = timing, time.perf_counter()

    def _since(self) -> float:
        now = time.perf_counter()
        passed, self.last = now - self.last, now
        return passed

    def policy(self) -> None:
        self.timing.policy += self._since()

    def simulation(self) -> None:
        self.timing.simulation += self._since()

    def starting(self) -> None:
        self.timing.starting += self._since()
