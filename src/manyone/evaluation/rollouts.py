"""Roll-outs: all episodes of all tasks in lock-step, one call of the policy a step for the whole batch.

A decision transformer re-encodes its last K steps at every step, so that calling it for one episode at a time costs one
small forward pass per episode and step. Here every running episode takes its step together with all others: the main
process calls the policy once, worker processes (:mod:`manyone.envs.workers`) step their environments.

- :class:`Episode`, :func:`paired_episodes`: what is played; the same for every method, so that differences are paired.
- :class:`BatchedPolicy`: what acts. :func:`rollout`: plays once. :class:`Arena`: keeps processes and environments.

An episode's course depends on its task, goal and seed and on the policy alone: results are the same for any number of
workers, none included. (``max_parallel`` decides who shares a batch, and batched arithmetic may round differently.)
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from manyone.engine.fabric import processors
from manyone.engine.progress import Progress
from manyone.envs.single import make as build
from manyone.envs.single.batched import known
from manyone.envs.single.simulator import Buffers, RowSimulator, buffer_memory
from manyone.envs.workers import (
    KNOWN,
    SUCCESS,
    TERMINATED,
    TRUNCATED,
    UNSTABLE,
    Died,
    Failure,
    Workers,
    worker_count,
)
from manyone.errors import ManyoneError
from manyone.evaluation.lockstep import Clock, Queue, Timing
from manyone.randomness import seed_for

MAX_PARALLEL = 64  # a Meta-World environment holds 20 MB; larger batches gain little


@dataclass(frozen=True)
class Episode:
    """One episode to play: ``index`` counts within the task, ``goal`` and ``seed`` fix how it starts.

    ``target`` is the return to ask of a policy that reads one (default: the policy's own for the task).
    """

    task: str
    index: int = 0
    goal: int = 0
    seed: int = 0
    target: float | None = None

    def __str__(self) -> str:
        return f"episode {self.index} of {self.task} (goal {self.goal}, seed {self.seed})"


@dataclass(frozen=True)
class EpisodeResult:
    """What an episode gave.

    ``return_`` is the undiscounted sum of rewards. ``success`` tells whether the environment's flag was up at any step
    (None where the environment has no such flag), ``first_success`` after how many steps. ``info`` holds
    ``terminated``, ``unstable`` (the simulation gave a non-finite number and was ended) and what the policy's
    ``episode_info`` adds.
    """

    episode: Episode
    return_: float
    success: bool | None
    first_success: int | None
    length: int
    info: dict[str, Any] = field(default_factory=dict)


class BatchedPolicy(Protocol):
    """What :func:`rollout` asks of a policy.

    A *slot* is an episode's position in the sequence given to ``start``, which is called once before anything else. A
    slot is never used twice; the slots of a call are ascending, those of finished episodes no longer appear. When
    more episodes are given than run at a time, later slots appear as earlier ones finish.

    A policy may also have ``episode_info(slot) -> dict``: called when the slot's episode has ended, kept in its result.
    """

    def start(self, episodes: Sequence[Episode]) -> None:
        """New episodes; forget older ones."""

    def act(self, slots: np.ndarray, observations: np.ndarray) -> Any:
        """Actions [b, A] of the slots int64 [b] for their observations float32 [b, S] (array or CPU tensor)."""

    def reward(self, slots: np.ndarray, rewards: np.ndarray) -> None:
        """Rewards float32 [b] that the actions brought; called after every step."""


def paired_episodes(
    tasks: Sequence[str], per_task: int, goals: Sequence[int] | None = None, seed: int = 0
) -> list[Episode]:
    """``per_task`` episodes of each task with fixed goals and seeds, task by task.

    ``goals`` are used in turn (default: those held out from the data, ``build.goals(task)``); tasks that have a single
    goal use it. An episode's seed is a function of (seed, task, index), so lists of different lengths share episodes.
    """
    if per_task < 1:
        raise ManyoneError(f"per_task {per_task}: must be at least 1")
    episodes = []
    for task in tasks:
        allowed = build.goals(task)
        chosen = list(goals if goals is not None and len(allowed) > 1 else allowed)
        if not chosen:
            raise ManyoneError("goals is empty; leave it out for the goals held out for evaluation")
        for index in range(per_task):
            start = seed_for(seed, "episode", task, index) >> 32  # 31 bits: what every simulator takes
            episodes.append(Episode(task, index, chosen[index % len(chosen)], start))
    return episodes


def rollout(
    policy: BatchedPolicy,
    episodes: Sequence[Episode],
    *,
    horizon: int | Mapping[str, int] | None = None,
    workers: int | None = None,
    stop_at_success: bool = False,
    progress: Callable[[int, int], None] | None = None,
    max_parallel: int = MAX_PARALLEL,
) -> list[EpisodeResult]:
    """Plays ``episodes`` and returns their results in the same order; see :meth:`Arena.rollout` for the options."""
    per_task: dict[str, int] = {}
    for episode in episodes:
        per_task[episode.task] = per_task.get(episode.task, 0) + 1
    if not per_task:
        return []
    rows = min(len(episodes), max_parallel)
    with Arena(list(per_task), max(per_task.values()), workers=workers, max_parallel=rows) as arena:
        return arena.rollout(policy, episodes, horizon=horizon, stop_at_success=stop_at_success, progress=progress)


class Arena:
    """Processes and environments that several evaluations share; a context manager.

    ``tasks`` x ``per_task`` episodes, at most ``max_parallel``, run at a time. ``workers`` is the number of processes
    (default: one per processor that this process may use; 0 steps all environments in this process, as does the default
    for fewer than four environments, inside a process that may not start others, and where every task's bodies can be
    stepped together: threads share these). Processes are spawned, so a script that uses them needs the usual
    ``if __name__ == "__main__":``. ``simulator`` goes to ``build.make_env``.
    """

    def __init__(
        self,
        tasks: Sequence[str],
        per_task: int = 1,
        workers: int | None = None,
        *,
        max_parallel: int = MAX_PARALLEL,
        simulator: Mapping[str, Any] | None = None,
    ) -> None:
        if not tasks:
            raise ManyoneError("an arena needs at least one task")
        if per_task < 1 or max_parallel < 1:
            raise ManyoneError(f"per_task {per_task}, max_parallel {max_parallel}: both must be at least 1")
        self.tasks = list(tasks)
        self.rows = min(len(self.tasks) * per_task, max_parallel)
        self.timing = Timing()
        self.simulator = dict(simulator or {})
        together = not self.simulator and all(known(task) for task in self.tasks)
        self.workers = worker_count(0 if workers is None and together else workers, self.rows)
        self._widths = {task: build.spaces(task) for task in self.tasks}
        self._pool: Workers | None = None
        build.prepare(self.tasks)

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, *problem: object) -> None:
        self.close()

    def close(self) -> None:
        """Ends the processes and closes the environments; the arena starts them again when it is used again."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def rollout(
        self,
        policy: BatchedPolicy,
        episodes: Sequence[Episode],
        *,
        horizon: int | Mapping[str, int] | None = None,
        stop_at_success: bool = False,
        progress: Callable[[int, int], None] | None = None,
    ) -> list[EpisodeResult]:
        """Plays ``episodes`` (of this arena's tasks) and returns their results in the same order.

        ``horizon`` ends episodes early, those of all tasks or each by its name (default: each task's own length; 1000
        where it has none). ``stop_at_success`` ends an episode at its
        first success, which is all that a success rate needs and about five times less simulation for a good policy
        (returns are then those up to the success). ``progress(done, total)`` is called as episodes end; without
        it a long roll-out shows its own.
        """
        horizons = horizon if isinstance(horizon, Mapping) else dict.fromkeys(self.tasks, horizon)
        for task, steps in horizons.items():
            if steps is not None and steps < 1:
                raise ManyoneError(f"horizon {steps} of {task}: must be at least 1")
        states, actions = self._check(episodes)
        if self._pool is None:
            self._open()
        self.timing = Timing()
        clock = Clock(self.timing)
        before = self._buffers.seconds[:, 0].sum()
        try:
            with Progress("roll-outs", len(episodes), unit="episodes") as bar:
                tell = progress or bar.update
                results = self._play(policy, episodes, states, actions, horizons, stop_at_success, tell, clock)
        except BaseException:
            self.close()  # replies may still be under way; fresh processes next time
            raise
        self.timing.simulator_cpu = float(self._buffers.seconds[:, 0].sum() - before)
        return results

    def picture(self) -> np.ndarray:
        """The first row's environment, uint8 [height, width, 3]; needs a simulator that can render."""
        if self._pool is None:
            raise ManyoneError("pictures come from an arena while it plays")
        return self._pool.ask("picture", {0: 0})[0]

    def _play(
        self,
        policy: BatchedPolicy,
        episodes: Sequence[Episode],
        states: int,
        actions: int,
        horizon: Mapping[str, int | None],
        stop_at_success: bool,
        progress: Callable[[int, int], None],
        clock: Clock,
    ) -> list[EpisodeResult]:
        buffers, total = self._buffers, len(episodes)
        results: dict[int, EpisodeResult] = {}
        limits = np.array([horizon.get(e.task) or self._widths[e.task][2] for e in episodes], dtype=np.int64)
        each = np.array([self._widths[e.task][0] for e in episodes])
        widest = each if (each < states).any() else each[:0]
        lengths, returns = np.zeros(total, np.int64), np.zeros(total)
        first, known = np.zeros(total, np.int64), np.zeros(total, bool)
        row_of = np.full(total, -1)
        queue = Queue(e.task for e in episodes)
        policy.start(episodes)
        clock.policy()
        fresh = queue.first(self.rows)
        row_of[fresh] = np.arange(len(fresh))
        slots = np.sort(np.array(fresh, dtype=np.int64))
        while len(slots):
            if fresh:
                starts = [(int(row_of[s]), episodes[s].task, episodes[s].goal, episodes[s].seed) for s in fresh]
                self._exchange("reset", starts, episodes, row_of, slots)
                clock.starting()
            rows = row_of[slots]
            seen = buffers.observations[rows, :states]
            if widest.size:  # a row that another task has used before is not empty behind this one's states
                seen = np.where(np.arange(states) < widest[slots, None], seen, 0)
            wanted = policy.act(slots, seen)
            buffers.actions[rows, :actions] = _checked(wanted, actions, slots, episodes, lengths)
            clock.policy()
            self._exchange("step", rows.tolist(), episodes, row_of, slots)
            clock.simulation()
            rewards, flags = buffers.rewards[rows], buffers.flags[rows]
            policy.reward(slots, rewards.astype(np.float32))
            lengths[slots] += 1
            returns[slots] += rewards
            known[slots] |= (flags & KNOWN) > 0
            succeeded = (flags & SUCCESS) > 0
            new = slots[succeeded & (first[slots] == 0)]
            first[new] = lengths[new]
            over = (flags & (TERMINATED | TRUNCATED | UNSTABLE)) > 0
            over |= (lengths[slots] >= limits[slots]) | (succeeded & stop_at_success)
            self.timing.steps += len(slots)
            fresh = []
            for slot, flag in zip(slots[over].tolist(), flags[over].tolist()):
                info = {"terminated": bool(flag & TERMINATED), "unstable": bool(flag & UNSTABLE)}
                info |= _episode_info(policy, slot)
                results[slot] = EpisodeResult(
                    episodes[slot],
                    float(returns[slot]),
                    bool(first[slot]) if known[slot] else None,
                    int(first[slot]) or None,
                    int(lengths[slot]),
                    info,
                )
                later = queue.next(episodes[slot].task)
                if later is not None:
                    row_of[later] = row_of[slot]
                    fresh.append(later)
                row_of[slot] = -1
            if over.any():
                slots = np.sort(np.append(slots[~over], np.array(fresh, dtype=np.int64)))
                progress(len(results), total)
            clock.policy()
        return [results[slot] for slot in range(total)]

    def _check(self, episodes: Sequence[Episode]) -> tuple[int, int]:
        """(S, A) of the widest; a narrower task's observations end in zeros, what follows its actions is not read."""
        for task in dict.fromkeys(e.task for e in episodes):
            if task not in self._widths:
                raise ManyoneError(f"{task} is not one of this arena's tasks ({', '.join(self.tasks)})")
        played = [self._widths[e.task] for e in episodes]
        return max((w[0] for w in played), default=0), max((w[1] for w in played), default=0)

    def _open(self) -> None:
        states, actions = (max(w[i] for w in self._widths.values()) for i in (0, 1))
        count = max(self.workers, 1)
        memory = buffer_memory(self.rows, states, actions, count, shared=self.workers > 0)
        self._buffers = Buffers(**memory.views())
        threads = processors() if self.workers == 0 and not multiprocessing.current_process().daemon else 1
        parts = [(memory, number, self.simulator, threads) for number in range(count)]
        self._pool = Workers("rollout", RowSimulator, parts, processes=self.workers > 0)

    def _exchange(
        self, what: str, items: Sequence[Any], episodes: Sequence[Episode], row_of: np.ndarray, slots: np.ndarray
    ) -> None:
        """Has each simulator do its part: row r belongs to simulator r mod their number."""
        assert self._pool is not None
        count = len(self._pool)
        parts: list[Sequence[Any]] = [items]
        if count > 1:
            parts = [[i for i in items if (i if what == "step" else i[0]) % count == number] for number in range(count)]
        try:
            self._pool.ask(what, {number: part for number, part in enumerate(parts) if part})
        except Failure as problem:
            episode = episodes[next(int(s) for s in slots if row_of[s] == problem.row)]
            raise ManyoneError(f"{episode} failed to {what}: {problem}") from problem
        except Died as problem:
            tasks = dict.fromkeys(episodes[int(s)].task for s in slots if row_of[s] % count == problem.number)
            doing = f"while it simulated {', '.join(tasks)}"
            raise ManyoneError(problem.advice(doing, "fewer max_parallel")) from None


def _checked(
    wanted: Any, width: int, slots: np.ndarray, episodes: Sequence[Episode], lengths: np.ndarray
) -> np.ndarray:
    """Actions as float32 [b, A]; wrong shapes and non-finite numbers are refused with the episode named."""
    actions = np.asarray(wanted, np.float32)
    if actions.shape != (len(slots), width):
        raise ManyoneError(
            f"the policy returned actions of shape {list(actions.shape)}; {[len(slots), width]} are needed "
            f"({len(slots)} episodes of {episodes[int(slots[0])].task}, {width} numbers each)"
        )
    wrong = ~np.isfinite(actions).all(1)
    if wrong.any():
        slot = int(slots[wrong][0])
        raise ManyoneError(
            f"{episodes[slot]}: the policy's action at step {int(lengths[slot])} is not finite "
            f"({actions[wrong][0].tolist()}); check its weights and the normalisation of observations"
        )
    return actions


def _episode_info(policy: BatchedPolicy, slot: int) -> dict[str, Any]:
    tell = getattr(policy, "episode_info", None)
    return {} if tell is None else dict(tell(slot))
