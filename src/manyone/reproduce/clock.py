"""How long a job has run, over all the commands that worked on it: a number in a file beside its rows.

The file is written while the job runs, so that a process which is killed loses a few seconds and not its hours.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from manyone.engine.files import write_atomic
from manyone.errors import ManyoneError

EVERY_SECONDS = 5.0
"""How much a process that is killed may lose."""


@contextlib.contextmanager
def clocked(clock: Path) -> Iterator[None]:
    """Adds the seconds of the block to those in the file ``clock``, whose name is that of its rows but for the ending.

    Where there are rows and no clock (of a version without clocks) none is begun: it would tell a part as the whole.
    """
    if clock.is_file() or not clock.with_suffix(".jsonl").is_file():
        with _running(clock):
            yield
    else:
        yield


def seconds_of(clocks: Iterable[Path]) -> float | None:
    """The seconds in all these files together; None where one is missing (rows of a version without clocks)."""
    known = [_read(clock) for clock in clocks]
    return None if None in known else sum(filter(None, known))


@contextlib.contextmanager
def _running(clock: Path) -> Iterator[None]:
    before, began, over = _read(clock) or 0.0, time.monotonic(), threading.Event()

    def write() -> None:
        with contextlib.suppress(ManyoneError):  # a disk that is full ends the job by its rows, not by its clock
            write_atomic(clock, f"{before + time.monotonic() - began:.1f}\n".encode())

    def keep_up() -> None:
        while not over.wait(EVERY_SECONDS):
            write()

    write()
    thread = threading.Thread(target=keep_up, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        write()


def _read(clock: Path) -> float | None:
    try:
        return float(clock.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
