"""Simulators in worker processes, or in this one: the pool that single-agent roll-outs and team environments share.

A *simulator* is an object with methods that take one argument and with ``close``; it reads and writes arrays that both
sides share (:class:`SharedArrays`), so that a message between processes is little more than a method's name.
:class:`Workers` holds one simulator in this process, or several in one process each. Nothing here imports torch: a
worker starts in about a second.
Public: ``Workers``, ``SharedArrays``, ``Failure``, ``worker_count``, ``words_of`` and the bits of an environment's
flags.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Protocol

import numpy as np

from manyone.engine.fabric import processors
from manyone.engine.modules import isolated
from manyone.errors import ManyoneError

TERMINATED, TRUNCATED, SUCCESS, KNOWN, UNSTABLE = 1, 2, 4, 8, 16  # KNOWN: the environment tells about success

Shapes = Mapping[str, tuple[str, tuple[int, ...]]]  # dtype and shape by name


class Simulator(Protocol):
    """What a worker holds; further methods are called by their names."""

    def close(self) -> None:
        """Frees everything."""


class SharedArrays:
    """Named arrays in one piece of memory that spawned processes can be handed."""

    def __init__(self, shapes: Shapes, *, shared: bool) -> None:
        self.shapes = dict(shapes)
        size = sum(8 + int(np.prod(shape)) * np.dtype(kind).itemsize for kind, shape in self.shapes.values())
        # No name in the file system: nothing is left behind, however the processes end.
        self.memory: Any = multiprocessing.get_context("spawn").RawArray("B", size) if shared else bytearray(size)

    def views(self) -> dict[str, np.ndarray]:
        """The arrays by name; both sides call this once."""
        found, used = {}, 0
        for name, (kind, shape) in self.shapes.items():
            used = -(-used // 8) * 8
            found[name] = np.frombuffer(self.memory, kind, int(np.prod(shape)), used).reshape(shape)
            used += found[name].nbytes
        return found


class Failure(Exception):
    """Row (or slot) ``row`` of the shared arrays could not be simulated."""

    def __init__(self, row: int, message: str) -> None:
        super().__init__(message)
        self.row = row


class Died(Exception):
    """Worker ``number`` ended without being asked to; ``how`` is its exit code or signal."""

    def __init__(self, number: int, how: str) -> None:
        super().__init__(how)
        self.number, self.how = number, how

    def advice(self, doing: str, fewer: str) -> str:
        """The message for users: what died while ``doing`` what, and what to do, e.g. take ``fewer``."""
        return (
            f"worker {self.number} died ({self.how}) {doing}; if memory was short use {fewer}, if this is a script put "
            'its code under if __name__ == "__main__":, or use workers=0'
        )


def worker_count(asked: int | None, rows: int) -> int:
    """How many processes step ``rows`` environments: what is ``asked``; one a processor where that is None.

    None starts no process for fewer than four environments, nor inside a process that may not start others.
    """
    inside = multiprocessing.current_process().daemon
    if asked is not None and asked < 0:
        raise ManyoneError(f"workers {asked}: must be 0 (this process) or more")
    if asked and inside:
        raise ManyoneError(f"workers {asked}: this process is itself a worker and may not start others; use 0")
    if asked is None:
        asked = 0 if inside or rows < 4 else processors()
    return min(asked, rows)


class Workers:
    """One simulator for each of ``parts``, made by ``make(*part)``: in a process each, or here where there is one part.

    ``make`` and the parts must be picklable for ``processes``. Simulators are made when they are first asked.
    """

    def __init__(
        self, name: str, make: Callable[..., Simulator], parts: Sequence[tuple[Any, ...]], *, processes: bool
    ) -> None:
        kind: type[_Process] | type[_Here] = _Process if processes else _Here
        self._sides: list[_Process | _Here] = [kind(number, name, make, part) for number, part in enumerate(parts)]

    def __len__(self) -> int:
        return len(self._sides)

    def ask(self, what: str, arguments: Mapping[int, Any]) -> list[Any]:
        """Calls the method ``what`` of some simulators, each with its argument, at the same time; the answers in order.

        A :class:`Failure` is raised where one raised it, :class:`Died` where its process ended; answers of others may
        then be under way, so that nothing but ``close`` should follow.
        """
        for number, argument in arguments.items():
            self._sides[number].send(what, argument)
        return [self._sides[number].receive() for number in arguments]

    def close(self) -> None:
        """Ends the processes and closes the simulators."""
        sides, self._sides = self._sides, []
        for side in sides:
            side.hang_up()
        for side in sides:
            side.close()


class _Here:
    """A simulator in this process."""

    def __init__(self, number: int, name: str, make: Callable[..., Simulator], part: tuple[Any, ...]) -> None:
        self._make: Callable[[], Simulator] = lambda: make(*part)
        self._simulator: Simulator | None = None
        self._answer: Any = None

    def send(self, what: str, argument: Any) -> None:
        """Does what is asked, at once."""
        self._simulator = self._simulator or self._make()
        self._answer = getattr(self._simulator, what)(argument)

    def receive(self) -> Any:
        return self._answer

    def hang_up(self) -> None:
        pass

    def close(self) -> None:
        if self._simulator is not None:
            self._simulator.close()


class _Process:
    """A simulator in a worker process, which answers over a pipe."""

    def __init__(self, number: int, name: str, make: Callable[..., Simulator], part: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self._number = number
        self._connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, make, part), daemon=True, name=f"{name}-{number}")
        with isolated():
            self._process.start()
        other.close()

    def send(self, what: str, argument: Any) -> None:
        try:
            self._connection.send((what, argument))
        except OSError:
            raise self._death() from None

    def receive(self) -> Any:
        wait([self._connection, self._process.sentinel])
        try:
            if not self._connection.poll():
                raise self._death()
            reply = self._connection.recv()
        except (EOFError, OSError):
            raise self._death() from None
        if len(reply) == 1:
            return reply[0]
        row, message, trace = reply
        raise Failure(row, message) from RuntimeError(trace)

    def hang_up(self) -> None:
        """Asks the process to end."""
        with contextlib.suppress(OSError):  # it is gone already
            self._connection.send(("close", None))
        self._connection.close()

    def close(self) -> None:
        """Waits for its end, and ends it by force when it does not come."""
        self._process.join(2)
        for end in (self._process.terminate, self._process.kill):
            if self._process.is_alive():
                end()
                self._process.join(2)
        self._process.close()

    def _death(self) -> Died:
        self._process.join(2)
        code = self._process.exitcode
        return Died(self._number, f"signal {-code}" if code is not None and code < 0 else f"exit code {code}")


def _serve(connection: Connection, make: Callable[..., Simulator], part: tuple[Any, ...]) -> None:
    """A worker process: answers ``(method, argument)`` until the other side hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process decides what an interrupt means
    simulator: Simulator | None = None
    try:
        while True:
            what, argument = connection.recv()
            if what == "close":
                return
            try:
                simulator = simulator or make(*part)
                reply: tuple[Any, ...] = (getattr(simulator, what)(argument),)
            except Failure as problem:
                reply = (problem.row, str(problem), traceback.format_exc())
            connection.send(reply)
    except (EOFError, OSError):
        return  # the main process is gone
    finally:
        if simulator is not None:
            simulator.close()


def words_of(problem: Exception) -> str:
    """``problem`` in one line, with its kind where it is not meant for users."""
    text = " ".join(str(problem).split())
    return text if isinstance(problem, ManyoneError) else f"{type(problem).__name__}: {text}"
