"""Warm worker processes: each imports what a study needs once and then runs one job after the other, with one thread.

For networks of this size several processes with one thread are cheaper than threads inside one. What a job prints goes
into a log of its own; what it raises comes back as one line.
"""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

from manyone.errors import InterruptedRun, ManyoneError

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


class Job(NamedTuple):
    """One part of the work for one suite and seed; a study module says what its parts are."""

    suite: str
    seed: int
    part: str

    @property
    def file(self) -> str:
        """The stem of the job's files: ``<suite>-<seed>-<part>``."""
        return f"{self.suite}-{self.seed}-{self.part}"

    def __str__(self) -> str:
        return f"{self.suite} seed {self.seed}, {self.part}"


class Work(NamedTuple):
    """A job with what runs it: ``run_job`` of the study called ``module``, at ``scale``."""

    module: str
    scale: str
    job: Job


def processors() -> int:
    """How many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def following(waiting: Sequence[Work], last: Work | None) -> int:
    """Which of the ``waiting`` jobs suits a worker that did ``last``.

    The order given counts by parts: among the jobs of the first one's study and part, the worker takes those of the
    suite and seed that it has in memory, then those of the same suite, then the first.
    """
    first = waiting[0]

    def rank(k: int) -> tuple[bool, bool]:
        same = last is not None and waiting[k].module == last.module and waiting[k].job.suite == last.job.suite
        return not same, not (same and last is not None and waiting[k].job.seed == last.job.seed)

    alike = [k for k, w in enumerate(waiting) if w.module == first.module and w.job.part == first.job.part]
    return min(alike, key=rank)


@contextlib.contextmanager
def worker_pool(folder: Path, count: int) -> Iterator[list[_Worker]]:
    """``count`` processes that import what every study needs while the caller makes the data ready.

    Logs go into ``folder``. However the block is left, no worker outlives it; SIGTERM leaves it by
    :class:`InterruptedRun`.
    """
    before = signal.signal(signal.SIGTERM, _leave)  # its default would leave the workers behind
    pool: list[_Worker] = []
    try:
        pool += (_Worker(folder) for _ in range(count))
        yield pool
    finally:
        for worker in pool:
            worker.process.terminate()
        for worker in pool:
            worker.close()
        signal.signal(signal.SIGTERM, before)


def run_all(work: Sequence[Work], pool: Sequence[_Worker], watch: Callable[[Sequence[Job]], None]) -> None:
    """Runs every job of ``work`` in ``pool``; ``watch`` is told about five times a second what is running.

    A job that fails, or whose process dies, ends all with a :class:`ManyoneError` that names it and its log.
    """
    waiting = list(work)
    while waiting or any(w.now for w in pool):
        for worker in pool:
            if worker.now is None and waiting:
                worker.start(waiting.pop(following(waiting, worker.last)))
        watch([w.now.job for w in pool if w.now])
        ready = wait([w.connection for w in pool if w.now], timeout=0.2)
        for worker in pool:
            if worker.connection in ready:
                worker.finish()


def _leave(number: int, _frame: object) -> None:
    raise InterruptedRun("stopped by SIGTERM; what was measured is kept: the same command goes on", 128 + number)


class _Worker:
    """One process and the job that it has now."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now: Work | None = None
        self.last: Work | None = None
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs,), name="manyone-worker")
        with _one_thread():
            self.process.start()
        theirs.close()

    def start(self, work: Work) -> None:
        self.now = work
        # A process that died before its first job is found dead where the answer is read.
        with contextlib.suppress(OSError):
            self.connection.send((work, self.log))

    @property
    def log(self) -> Path:
        assert self.now is not None
        return self.folder / f"{self.now.job.file}.log"

    def finish(self) -> None:
        """Reads the answer to the job; raises what went wrong."""
        assert self.now is not None
        rest = f"finished rows are kept in {self.folder}; all of the message: {self.log}"
        try:
            problem = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(5)
            raise ManyoneError(f"{self.now.job}: {_end(self.process.exitcode)} ({rest})") from None
        if problem is not None:
            raise ManyoneError(f"{self.now.job}: {problem} ({rest})")
        self.last, self.now = self.now, None

    def close(self) -> None:
        """Waits for the process, which was told to end; kills one that does not."""
        self.process.join(5)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.connection.close()


def _end(code: int | None) -> str:
    """How a process ended, in words."""
    if code is not None and code < 0:
        with contextlib.suppress(ValueError):
            name = signal.Signals(-code).name
            memory = ": probably out of memory, so try fewer --workers" if name == "SIGKILL" else ""
            return f"its process was ended by {name}{memory}"
    return f"its process ended with status {code}"


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Children started inside compute with one thread; libraries read this before any code of the child runs."""
    before = {name: os.environ.get(name) for name in THREADS}
    os.environ.update(dict.fromkeys(THREADS, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _serve(connection: Connection) -> None:
    """The life of a worker: jobs from ``connection`` until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent hears it too, and ends its workers
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    importlib.import_module("torch")  # seconds, which the main process needs for the data
    while True:
        try:
            work, log = connection.recv()
        except (EOFError, OSError):
            return
        problem = _attempt(work, log)
        try:
            connection.send(problem)
        except OSError:
            return


def _attempt(work: Work, log: Path) -> str | None:
    """Runs one job with its output in ``log``; None, or what went wrong in one line."""
    with log.open("ab", buffering=0) as file, _output_to(file.fileno()):
        try:
            study = importlib.import_module(work.module)
            study.run_job(work.scale, work.job.suite, work.job.seed, work.job.part, log.parent)
        except ManyoneError as problem:
            print(problem, file=sys.stderr)
            return str(problem)
        except Exception as problem:
            traceback.print_exc()
            return (f"{type(problem).__name__}: {problem}".splitlines() or ["an error without a message"])[0]
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
    return None


@contextlib.contextmanager
def _output_to(descriptor: int) -> Iterator[None]:
    """Sends stdout and stderr of the process, C libraries included, to ``descriptor``."""
    kept = os.dup(1), os.dup(2)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    try:
        yield
    finally:
        for number, old in zip((1, 2), kept):
            os.dup2(old, number)
            os.close(old)
