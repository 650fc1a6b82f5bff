"""The side of a roll-out that simulates: many environments behind rows of shared arrays, here or in a worker process.

A :class:`Pool` holds the environments of some rows. ``reset`` starts episodes in rows, ``step`` reads the rows' actions
and writes their observations, rewards and flags, all in place, so that a message between processes is a list of row
numbers. :func:`serve` is the loop of a worker process; :class:`Here` and :class:`There` are what the main process
holds of a pool in itself and of one in a worker. Nothing here imports torch: a worker starts in about a second.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import TYPE_CHECKING, Any

import numpy as np

from manyone.envs.single import make as build
from manyone.errors import ManyoneError

if TYPE_CHECKING:
    import gymnasium

TERMINATED, TRUNCATED, KNOWN, SUCCESS, UNSTABLE = 1, 2, 4, 8, 16  # bits of ``Buffers.flags``
SPARE = 8  # idle environments that a pool keeps for rows that change their task

Start = tuple[int, str, int, int]  # row, task, goal, seed


@dataclass
class Buffers:
    """Arrays that both sides see; row r belongs to one running episode."""

    observations: np.ndarray  # float32 [rows, S]
    actions: np.ndarray  # float32 [rows, A]
    rewards: np.ndarray  # float64 [rows]
    flags: np.ndarray  # uint8 [rows]
    seconds: np.ndarray  # float64 [pools, 2]: processor seconds spent in step and in reset


class Block:
    """What :class:`Buffers` is made of: one piece of memory that spawned processes can be handed."""

    def __init__(self, rows: int, states: int, actions: int, pools: int, *, shared: bool) -> None:
        self.shape = (rows, states, actions, pools)
        size = 4 * rows * (states + actions) + 9 * rows + 16 * pools + 3 * 8
        # No name in the file system: nothing is left behind, however the processes end.
        self.memory: Any = multiprocessing.get_context("spawn").RawArray("B", size) if shared else bytearray(size)

    def buffers(self) -> Buffers:
        """The arrays; both sides call this once."""
        rows, states, actions, pools = self.shape
        used = 0

        def take(dtype: str, *shape: int) -> np.ndarray:
            nonlocal used
            used = -(-used // 8) * 8
            array = np.frombuffer(self.memory, dtype, int(np.prod(shape)), used).reshape(shape)
            used += array.nbytes
            return array

        return Buffers(
            rewards=take("f8", rows),
            seconds=take("f8", pools, 2),
            observations=take("f4", rows, states),
            actions=take("f4", rows, actions),
            flags=take("u1", rows),
        )


class Failure(Exception):
    """Row ``row`` could not be reset or stepped."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


class Pool:
    """The environments of some rows; they are built when first needed and used again for later episodes."""

    def __init__(self, buffers: Buffers, number: int, simulator: Mapping[str, Any]) -> None:
        self.buffers, self.number, self.simulator = buffers, number, dict(simulator)
        self._rows: dict[int, tuple[str, gymnasium.Env]] = {}
        self._spare: list[tuple[str, gymnasium.Env]] = []  # the longest idle first

    def reset(self, starts: Sequence[Start]) -> None:
        """Starts one episode in each of the rows; their first observations are written."""
        began = time.process_time()
        for row, task, goal, seed in sorted(starts, key=lambda start: (start[1], start[0])):
            try:
                env = self._environment(row, task)
                build.set_goal(env, task, goal)
                observation, _ = env.reset(seed=seed)
                self.buffers.observations[row, : len(observation)] = observation
                if not np.isfinite(observation).all():
                    raise ValueError(f"the first observation is not finite: {observation.tolist()}")
            except Exception as problem:
                raise Failure(row, _words(problem)) from problem
        self.buffers.seconds[self.number, 1] += time.process_time() - began

    def step(self, rows: Sequence[int]) -> None:
        """One step of each of the rows with its action, clipped to the action space."""
        began = time.process_time()
        for row in rows:
            try:
                self._step(row)
            except Exception as problem:
                raise Failure(row, _words(problem)) from problem
        self.buffers.seconds[self.number, 0] += time.process_time() - began

    def _step(self, row: int) -> None:
        _, env = self._rows[row]
        space: Any = env.action_space
        action = np.clip(self.buffers.actions[row, : space.shape[0]], space.low, space.high)
        observation, gained, terminated, truncated, info = env.step(action)
        reward = float(gained)
        flags = TERMINATED * bool(terminated) | TRUNCATED * bool(truncated)
        if "success" in info:
            flags |= KNOWN | SUCCESS * (float(info["success"]) > 0)
        if not (np.isfinite(observation).all() and math.isfinite(reward)):
            reward, flags = 0.0, flags | UNSTABLE  # the episode ends here; nobody acts on this observation
        self.buffers.observations[row, : len(observation)] = observation
        self.buffers.rewards[row] = reward
        self.buffers.flags[row] = flags

    def picture(self, row: int) -> np.ndarray:
        """The row's environment now, uint8 [height, width, 3]; needs ``render_mode`` among the simulator's options."""
        image: Any = self._rows[row][1].render()
        return np.asarray(image)

    def close(self) -> None:
        """Closes every environment."""
        for _, env in [*self._rows.values(), *self._spare]:
            env.close()
        self._rows, self._spare = {}, []

    def _environment(self, row: int, task: str) -> gymnasium.Env:
        held = self._rows.get(row)
        if held is not None:
            if held[0] == task:
                return held[1]
            self._spare.append(self._rows.pop(row))
        place = next((i for i, (name, _) in enumerate(self._spare) if name == task), None)
        env = build.make_env(task, **self.simulator) if place is None else self._spare.pop(place)[1]
        while len(self._spare) > SPARE:
            self._spare.pop(0)[1].close()
        self._rows[row] = (task, env)
        return env


def serve(connection: Connection, block: Block, number: int, simulator: Mapping[str, Any]) -> None:
    """A worker process: answers ``("reset", starts)`` and ``("step", rows)`` until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides what an interrupt means
    pool = Pool(block.buffers(), number, simulator)
    try:
        while True:
            what, argument = connection.recv()
            if what == "close":
                return
            try:
                getattr(pool, what)(argument)
            except Failure as problem:
                connection.send((problem.row, str(problem), traceback.format_exc()))
            else:
                connection.send(None)
    except (EOFError, OSError):
        return  # the main process is gone
    finally:
        pool.close()


class Here:
    """A pool in this process."""

    def __init__(self, buffers: Buffers, simulator: Mapping[str, Any]) -> None:
        self.pool = Pool(buffers, 0, simulator)

    def send(self, what: str, part: Sequence[Any]) -> None:
        """Does what is asked, at once."""
        getattr(self.pool, what)(part)

    def receive(self) -> None:
        """Nothing is left to wait for."""

    def hang_up(self) -> None:
        """Nothing to tell anybody."""

    def close(self) -> None:
        """Closes the environments."""
        self.pool.close()


class Died(Exception):
    """Worker ``number`` ended without being asked to; ``how`` is its exit code or signal."""

    def __init__(self, number: int, how: str) -> None:
        super().__init__(how)
        self.number, self.how = number, how


class Remote:
    """A worker process that answers messages over a pipe."""

    def __init__(self, number: int, name: str, serve: Callable[..., None], *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.number = number
        self.connection, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, *arguments), daemon=True, name=f"{name}-{number}")
        self.process.start()
        other.close()

    def send(self, what: str, argument: Any = None) -> None:
        """Asks for ``what``; :class:`Died` when nobody is there."""
        try:
            self.connection.send((what, argument))
        except OSError:
            raise self._death() from None

    def answer(self) -> Any:
        """Waits for the answer; :class:`Died` when the process did."""
        wait([self.connection, self.process.sentinel])
        try:
            if not self.connection.poll():
                raise self._death()
            return self.connection.recv()
        except (EOFError, OSError):
            raise self._death() from None

    def hang_up(self) -> None:
        """Asks the process to end."""
        with contextlib.suppress(OSError):  # it is gone already
            self.connection.send(("close", None))
        self.connection.close()

    def close(self) -> None:
        """Waits for its end, and ends it by force when it does not come."""
        self.process.join(2)
        for end in (self.process.terminate, self.process.kill):
            if self.process.is_alive():
                end()
                self.process.join(2)
        self.process.close()

    def _death(self) -> Died:
        self.process.join(2)
        code = self.process.exitcode
        return Died(self.number, f"signal {-code}" if code is not None and code < 0 else f"exit code {code}")


class There(Remote):
    """A pool in a worker process."""

    def __init__(self, block: Block, number: int, simulator: Mapping[str, Any]) -> None:
        super().__init__(number, "rollout", serve, block, number, simulator)

    def receive(self) -> None:
        """Waits until it is done; :class:`Failure` when it went wrong, :class:`Died` when the process did."""
        if (reply := self.answer()) is not None:
            row, message, trace = reply
            raise Failure(row, message) from RuntimeError(trace)


def _words(problem: Exception) -> str:
    text = " ".join(str(problem).split())
    return text if isinstance(problem, ManyoneError) else f"{type(problem).__name__}: {text}"
