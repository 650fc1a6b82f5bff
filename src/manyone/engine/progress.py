"""Progress with the time left: a bar on a terminal, a plain line now and then in a log. Always on stderr.

    with Progress("roll-outs", total=50, unit="episodes") as bar:
        for episode in range(50):
            ...
            bar.update(episode + 1)

Any number of them may run at the same time, in any threads: they share one display.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from manyone.engine.fabric import is_writer

if TYPE_CHECKING:
    from rich.progress import Progress as Display

_QUIET_SECONDS = 2.0
_REDRAW_SECONDS = 0.1
_LINE_SECONDS = 30.0
_MILLIONS = {"bytes": "MB", "parameters": "million parameters"}  # units that are shown by the million
_FEWEST = 1_000_000  # of such a unit: fewer are shown one by one

_lock = threading.Lock()
_display: Display | None = None  # while there are bars
_hidden = False


def hide_progress() -> None:
    """No bar is shown in this process from now on: the one that has started it shows its own."""
    global _hidden
    _hidden = True


def say_beginning(what: str) -> None:
    """A line before what takes a second or more: PyTorch is imported, if it was not before, and data are read."""
    if is_writer() and "torch" not in sys.modules:
        print(f"{what} ...", file=sys.stderr, flush=True)


class Progress:
    """Shows that ``start`` to ``total`` of some work is done, once it has lasted 2 s (``show=None``), at once (True)
    or never.

    ``unit`` is what is counted, in the plural. As a context manager it removes the bar at the end, also after an error.
    """

    def __init__(
        self, name: str, total: int = 0, *, start: int = 0, unit: str = "steps", show: bool | None = None
    ) -> None:
        self.name, self.total, self.start, self.unit = name, total, start, unit
        self.show = False if _hidden else show
        self._began = time.monotonic()
        self._next = self._began + (0.0 if show else _QUIET_SECONDS)
        self._first: tuple[int, float] | None = None  # how much the first update told as done, and when
        self._task: int | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._task is not None:
            _remove(self._task)

    def update(
        self,
        done: int,
        total: int | None = None,
        *,
        metrics: Mapping[str, float] | None = None,
        name: str | None = None,
    ) -> None:
        """Tells how much is done; ``total`` and ``name`` may have changed, the loss among ``metrics`` is shown."""
        self.total, self.name = self.total if total is None else total, self.name if name is None else name
        now = time.monotonic()
        if self._first is None and done > self.start:
            self._first = done, now
        if self.show is False or now < self._next:
            return
        loss = f"loss {metrics['loss']:.4g}" if metrics and "loss" in metrics else ""
        if sys.stderr.isatty():
            self._next = now + _REDRAW_SECONDS
            self._task = _draw(self, done, loss)
        elif done != self.total or self.show:
            self._next = now + _LINE_SECONDS
            print(f"{self.name}: {self._line(done, now, loss)}", file=sys.stderr, flush=True)

    def count(self, done: int) -> str:
        """How much is done, with what is counted."""
        if self.unit in _MILLIONS and not self.total:
            return f"{done / 1e6:.1f} {_MILLIONS[self.unit]}"
        if self.unit in _MILLIONS and self.total >= _FEWEST:
            return f"{done / 1e6:.1f}/{self.total / 1e6:.1f} {_MILLIONS[self.unit]}"
        return f"{done}/{self.total} {self.unit}"

    def _line(self, done: int, now: float, loss: str) -> str:
        # the first step warms up (compiles, fills caches): it says nothing about those to come
        since, began = self._first if self._first is not None and done > self._first[0] else (self.start, self._began)
        rate = (done - since) / max(now - began, 1e-9)
        millions = _MILLIONS.get(self.unit) if self.total >= _FEWEST or not self.total else None
        speed = f"{rate:.3g} {self.unit}/s" if millions is None else f"{rate / 1e6:.3g} {millions}/s"
        left = f"{_clock((self.total - done) / rate)} left" if rate > 0 and since > self.start else ""
        return "  ".join(filter(None, (self.count(done), loss, speed, left)))


def _draw(progress: Progress, done: int, loss: str) -> int:
    """Draws a bar into the display, which is made for the first; the bar's number."""
    global _display
    with _lock:
        if _display is None:
            _display = _make_display()
        task = progress._task
        if task is None:
            task = _display.add_task(progress.name, total=progress.total, completed=progress.start, count="", loss="")
        text = {"description": progress.name, "count": progress.count(done), "loss": loss}
        _display.update(task, completed=done, total=progress.total, **text)  # type: ignore[arg-type]
        return task


def _remove(task: int) -> None:
    """Takes a bar out of the display, which ends with the last."""
    global _display
    with _lock:
        if _display is not None:
            _display.remove_task(task)  # type: ignore[arg-type]
            if not _display.task_ids:
                _display.stop()
                _display = None


def _make_display() -> Display:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Display

    display = Display(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.fields[count]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[loss]}"),
        console=Console(stderr=True),
        transient=True,
    )
    display.start()
    return display


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
