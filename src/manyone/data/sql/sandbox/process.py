"""One worker process as the parent sees it, and the watchdog that kills those which pass their deadline."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import IO, Any

from manyone.data.sql.sandbox.limits import CELL, ROW, Kind, Limits
from manyone.errors import ManyoneError

PROGRAM = Path(__file__).with_name("worker.py")
_START = 60.0  # seconds that a process may take to begin
_BASE = 192 << 20  # bytes of address space that Python itself needs
_SLACK = 4 << 20  # bytes of an answer besides its rows: names of columns
_INHERITED = ("SYSTEMROOT", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME")


class Ended(Exception):
    """The process has ended without an answer: ``kind`` and the message say why."""

    def __init__(self, kind: Kind, words: str) -> None:
        super().__init__(words)
        self.kind = kind


class Watchdog:
    """A thread that kills what is late; it starts with the first process and ends with the program."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._until: dict[WorkerProcess, float] = {}
        self._wakes = 0.0
        self._thread: threading.Thread | None = None

    def watch(self, worker: WorkerProcess, seconds: float) -> None:
        """Kills ``worker`` in ``seconds`` unless :meth:`leave` comes first."""
        until = time.monotonic() + seconds
        with self._changed:
            self._until[worker] = until
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sql-watchdog", daemon=True)
                self._thread.start()
            elif until < self._wakes:
                self._changed.notify()

    def leave(self, worker: WorkerProcess) -> None:
        """The worker has answered, or is gone."""
        with self._changed:
            self._until.pop(worker, None)

    def _run(self) -> None:
        with self._changed:
            while True:
                now = time.monotonic()
                for worker, until in list(self._until.items()):
                    if until <= now:
                        del self._until[worker]
                        worker.late = True
                        worker.kill()
                self._wakes = min(self._until.values(), default=now + 3600)
                self._changed.wait(self._wakes - now)


class WorkerProcess:
    """A process that runs one statement at a time; started on demand, and again after it had to be killed.

    While ``stopped`` is set nothing is asked: who sets it and then kills ends what runs and what is about to.
    """

    def __init__(self, limits: Limits, watchdog: Watchdog, stopped: threading.Event) -> None:
        self.limits, self.watchdog, self.stopped = limits, watchdog, stopped
        self.late = False
        self._process: subprocess.Popen[bytes] | None = None

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """The answer to ``request``, whose "seconds" are how long it may take. Raises :class:`Ended`."""
        if self._process is None or self.late or self._process.poll() is not None:
            self._start()
        try:
            answer = self._exchange(request, request["seconds"] + self.limits.grace)
        except BaseException:
            self.close(kill=True)  # also after an interrupt: an answer that nobody reads would be taken for the next
            raise
        if answer.get("kind") == "memory":
            self.close(kill=True)  # what it still holds is unknown
        return answer

    def kill(self) -> None:
        """Ends the process at once, from any thread."""
        process = self._process
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()

    def close(self, *, kill: bool = False) -> None:
        """Ends the process and waits for that."""
        process, self._process, self.late = self._process, None, False
        if process is None:
            return
        if kill:
            process.kill()
        assert process.stdin is not None
        assert process.stdout is not None
        with contextlib.suppress(OSError):
            process.stdin.close()
        try:
            process.wait(2.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()

    def _start(self) -> None:
        self.close(kill=True)
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(PROGRAM)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            cwd=Path(os.sep).resolve(),  # no folder of anybody's
            start_new_session=os.name == "posix",  # Ctrl-C at the terminal is the parent's
        )
        own = self.limits
        limits = {"memory": own.memory, "base": _BASE, "rows": own.rows, "size": own.size, "text": own.text,
                  "sql": own.sql, "depth": own.depth, "operations": own.operations, "grace": own.grace,
                  "cell": CELL, "row": ROW}  # fmt: skip
        try:
            self._exchange(limits, _START)
        except Ended as error:
            self.close(kill=True)
            raise ManyoneError(
                f"the SQL sandbox cannot start {sys.executable} {PROGRAM}: {error}; limits of {own.memory >> 20} MiB "
                "may be too small"
            ) from None

    def _exchange(self, message: dict[str, Any], seconds: float) -> dict[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        data = json.dumps(message).encode()
        self.watchdog.watch(self, seconds)
        try:
            if self.stopped.is_set():
                raise Ended("crash", "stopped")
            process.stdin.write(struct.pack(">I", len(data)) + data)
            process.stdin.flush()
            (length,) = struct.unpack(">I", _read(process.stdout, 4))
            if length > self.limits.size + _SLACK:
                raise Ended("crash", f"the process sent {length} bytes")
            return json.loads(_read(process.stdout, length))
        except (BrokenPipeError, EOFError, ValueError):
            raise self._ended(process) from None
        finally:
            self.watchdog.leave(self)

    def _ended(self, process: subprocess.Popen[bytes]) -> Ended:
        process.kill()
        code = process.wait()
        if self.late or -code == getattr(signal, "SIGXCPU", None):  # Windows has no such signal
            return Ended("time", "took too long and was killed")
        return Ended("crash", f"its process ended with code {code}")


def _read(stream: IO[bytes], length: int) -> bytes:
    data = stream.read(length)
    if len(data) < length:
        raise EOFError
    return data
