"""How long a job has run, over all the commands that worked on it: a number in a file beside its rows.

The file is written while the job runs, so that a process which is killed loses a few seconds and not its hours.
"""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from manyone.engine.files import write_atomic
from manyone.errors import ManyoneError

_EVERY_SECONDS = 5.0


def run_timed(call: str, clock: Path, arguments: tuple[Any, ...]) -> None:
    """``call`` ("module:function") with ``arguments``; its seconds are added to those in the file ``clock``.

    Where there are rows and no clock (of a version without clocks) none is begun: it would tell a part as the whole.
    """
    module, _, function = call.partition(":")
    known = clock.is_file() or not clock.with_suffix(".jsonl").is_file()
    with _running(clock) if known else contextlib.nullcontext():
        getattr(importlib.import_module(module), function)(*arguments)


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
        while not over.wait(_EVERY_SECONDS):
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
