"""Pieces of work on spawned processes, or here: the results are the same, only the waiting differs."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

from manyone.engine.fabric import processors
from manyone.engine.modules import isolated
from manyone.errors import ManyoneError

Key = TypeVar("Key")
Runner = Callable[[Mapping[Any, Callable[[], Any]]], Iterator[tuple[Any, Any]]]
"""Takes calls by key and yields (key, result) as they finish, in any order."""


@contextlib.contextmanager
def runner(workers: int | None = None) -> Iterator[Runner]:
    """Runs calls on ``workers`` processes (default and upper limit: the processors), or here if that is one.

    Calls must be picklable (``functools.partial`` of a module's function). At an error or an interruption what is
    pending is dropped.
    """
    if workers is not None and workers < 1:
        raise ManyoneError(f"--workers {workers}: must be at least 1")
    count = min(workers or processors(), processors())
    if count == 1:
        yield lambda calls: ((key, call()) for key, call in calls.items())
        return
    with isolated():  # its queues start multiprocessing's resource tracker
        pool = ProcessPoolExecutor(count, mp_context=multiprocessing.get_context("spawn"), initializer=_begin)

    def run(calls: Mapping[Any, Callable[[], Any]]) -> Iterator[tuple[Any, Any]]:
        with isolated():
            futures = {pool.submit(call): key for key, call in calls.items()}
        try:
            for future in as_completed(futures):
                yield futures.pop(future), future.result()
        except BrokenProcessPool:
            raise ManyoneError(
                f"a worker process died, perhaps for want of memory; start again with --workers {max(1, count // 2)}: "
                "what is finished is kept"
            ) from None

    try:
        yield run
    finally:
        pool.shutdown(cancel_futures=True)


def _begin() -> None:
    """A worker leaves interruptions to its parent, goes when the parent has gone, and computes in one thread."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[variable] = "1"
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
