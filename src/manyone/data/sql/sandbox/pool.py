"""The sandbox: warm worker processes, one a processor, that run statements and may be killed at any time."""

from __future__ import annotations

import os
import queue
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from manyone.data.sql.sandbox.files import check_unchanged, fingerprint, state
from manyone.data.sql.sandbox.limits import KINDS, Limits, Outcome
from manyone.data.sql.sandbox.process import Ended, Watchdog, WorkerProcess
from manyone.engine.fabric import processors
from manyone.errors import ManyoneError

Job = tuple[Path, str]
"""A database file and a statement."""

Item = TypeVar("Item")
Result = TypeVar("Result")

_DONE: Future[Any] = Future()
_KEPT = 1_000_000  # values of results that are kept for later, at most


class Sandbox:
    """Runs SQL statements that nobody has vouched for.

        with Sandbox(limits=Limits(seconds=5)) as sandbox:
            outcomes = sandbox.map([(db, "SELECT 1"), (db, "DROP TABLE singer")])

    ``workers`` processes (default: one a processor) start with the first statements and stay warm; one that a statement
    brought down is started again. Methods may be called from several threads. Statements only read: see
    :mod:`manyone.data.sql.sandbox.worker`. A statement that fails is an :class:`Outcome` that says so; a database that
    is missing, no SQLite file, or being written is a ``ManyoneError``.
    """

    def __init__(self, workers: int | None = None, limits: Limits | None = None) -> None:
        if workers is not None and workers < 1:
            raise ManyoneError(f"workers={workers}: must be 1 or more, or None for one a processor")
        self.limits = limits or Limits()
        watchdog = Watchdog()
        self._stopped = threading.Event()  # while the threads of `each` end because one of them failed
        self._workers = [WorkerProcess(self.limits, watchdog, self._stopped) for _ in range(workers or processors())]
        self._idle: queue.LifoQueue[WorkerProcess] = queue.LifoQueue()  # the one used last is the warmest
        for worker in reversed(self._workers):
            self._idle.put(worker)
        self._kept: OrderedDict[tuple[str, str], Outcome] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._process, self._closed = os.getpid(), False
        self._finalizer = weakref.finalize(self, _close, self._workers, os.getpid())

    def __enter__(self) -> Sandbox:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def workers(self) -> int:
        """How many statements run at a time."""
        return len(self._workers)

    def close(self) -> None:
        """Ends the processes."""
        self._closed = True
        self._finalizer()

    def execute(self, db: str | os.PathLike[str], sql: str, *, keep: bool = False) -> Outcome:
        """Runs the statement ``sql`` on the database file ``db``.

        ``keep``: the outcome is taken from memory where the same statement ran on a file with the same content before,
        and kept where it succeeds; for gold statements, which come again.
        """
        path = Path(db)
        key = (fingerprint(path), sql) if keep else None
        if key is not None and (found := self._known(key)) is not None:
            return found
        before = state(path)
        if len(sql) > self.limits.sql:
            words = f"{len(sql):,} characters of SQL: more than {self.limits.sql:,}"
            return Outcome(error=words, kind_of_error="limit")
        request = {"uri": _uri(path), "key": repr(tuple(before)), "sql": sql, "seconds": self.limits.seconds}
        try:
            with self._worker() as worker:
                outcome = _outcome(worker.ask(request))
        except Ended as error:
            outcome = Outcome(error=str(error), kind_of_error=error.kind, seconds=self.limits.seconds)
        check_unchanged(path, before)
        if outcome.kind_of_error == "time":
            outcome = replace(outcome, error=f"ran longer than {self.limits.seconds:g} s")
        if key is not None and outcome.ok:
            self._keep(key, outcome)
        return outcome

    def map(
        self, jobs: Iterable[Job], *, keep: bool = False, done: Callable[[int], None] | None = None
    ) -> list[Outcome]:
        """The outcomes of all ``jobs`` (database, statement), in their order; ``done`` is told how many there are."""
        return self.each(lambda job: self.execute(*job, keep=keep), jobs, done=done)

    def each(
        self, task: Callable[[Item], Result], items: Iterable[Item], *, done: Callable[[int], None] | None = None
    ) -> list[Result]:
        """``task`` of every item, in their order, in as many threads as there are workers.

        For tasks that execute a few statements and keep little of what these gave: only the results of the tasks are
        in memory together.
        """
        found: list[Result] = []
        for result in self._ordered(task, list(items)):
            found.append(result)
            if done is not None:
                done(len(found))
        return found

    def race(self, db: str | os.PathLike[str], first: str, second: str, *, repeats: int = 100,
             seconds: float | None = None) -> list[tuple[float, float]]:  # fmt: skip
        """Seconds until each of two statements gives its first row, in turn, ``repeats`` times, on fresh connections.

        Empty where one fails or all together take longer than ``seconds`` (default: the limit of a statement).
        """
        path = Path(db)
        before = state(path)
        request = {"uri": _uri(path), "key": repr(tuple(before)), "sql": [first, second], "race": repeats,
                   "seconds": seconds or self.limits.seconds}  # fmt: skip
        try:
            with self._worker() as worker:
                answer = worker.ask(request)
        except Ended:
            return []
        check_unchanged(path, before)
        return [(float(a), float(b)) for a, b in answer.get("race", ())]

    def _ordered(self, task: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        if self.workers == 1 or len(items) < 2:
            yield from map(task, items)
            return
        try:
            with ThreadPoolExecutor(self.workers, "sql") as threads:
                futures: list[Future[Result]] = [threads.submit(task, item) for item in items]
                try:
                    for number, future in enumerate(futures):
                        result = future.result()
                        del future
                        futures[number] = _DONE  # it holds the result
                        yield result
                except BaseException:
                    self._stopped.set()
                    threads.shutdown(wait=False, cancel_futures=True)
                    for worker in self._workers:
                        worker.kill()  # what is running would be waited for
                    raise
        finally:
            self._stopped.clear()

    @contextmanager
    def _worker(self) -> Iterator[WorkerProcess]:
        if self._process != os.getpid():
            raise ManyoneError("a sandbox belongs to the process that made it: make one in this process")
        if self._closed:
            raise ManyoneError("this sandbox is closed: make another one")
        worker = self._idle.get()
        if self._stopped.is_set():
            self._idle.put(worker)
            raise ManyoneError("another statement's failure has stopped all of them")
        try:
            yield worker
        finally:
            self._idle.put(worker)

    def _known(self, key: tuple[str, str]) -> Outcome | None:
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def _keep(self, key: tuple[str, str], outcome: Outcome) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = outcome
                self._size += _values(outcome)
            while self._size > _KEPT:
                self._size -= _values(self._kept.popitem(last=False)[1])


def _values(outcome: Outcome) -> int:
    return 1 + len(outcome.rows) * max(1, len(outcome.columns))


def _uri(path: Path) -> str:
    """The file as SQLite opens it: every odd character of the path is escaped, so none is read as an option."""
    return f"{path.absolute().as_uri()}?mode=ro&immutable=1"


def _outcome(answer: dict[str, Any]) -> Outcome:
    seconds = float(answer.get("seconds", 0.0))
    kind = answer.get("kind")
    if kind is not None:
        return Outcome(error=str(answer["error"]), kind_of_error=kind if kind in KINDS else "crash", seconds=seconds)
    rows = answer["rows"]
    blobs = answer["blobs"]
    for number, row in enumerate(rows):  # in place: lists and tuples of all rows at a time would be twice the memory
        if blobs:
            row = [bytes.fromhex(value["b"]) if isinstance(value, dict) else value for value in row]
        rows[number] = tuple(row)
    return Outcome(tuple(answer["columns"]), tuple(rows), seconds=seconds, truncated=bool(answer["truncated"]))


def _close(workers: Sequence[WorkerProcess], process: int) -> None:
    for worker in workers if process == os.getpid() else ():
        worker.close()
