"""Progress with the time left: a rich bar on a terminal, a plain line now and then in a log. Always on stderr."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

_QUIET_SECONDS = 2.0
_LINE_SECONDS = 30.0


class Progress:
    """Shows steps ``start`` to ``total``, once the work has lasted 2 s (``show=None``), at once (True) or never.

    As a context manager it removes the bar at the end, also after an error.
    """

    def __init__(self, name: str, start: int, total: int, show: bool | None = None) -> None:
        self.name, self.start, self.total = name, start, total
        self.show = show
        self._began = time.monotonic()
        self._next = self._began + (0.0 if show else _QUIET_SECONDS)
        self._bar: RichProgress | None = None

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def update(self, step: int, metrics: Mapping[str, float]) -> None:
        """Tells that ``step`` is done and what it measured."""
        now = time.monotonic()
        if self.show is False or (now < self._next and self._bar is None):
            return
        loss = f"loss {metrics['loss']:.4g}" if "loss" in metrics else ""
        if sys.stderr.isatty():
            if self._bar is None:
                self._bar = self._make_bar()
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=step, loss=loss)
        else:
            self._next = now + _LINE_SECONDS
            rate = (step - self.start) / max(now - self._began, 1e-9)
            left = (self.total - step) / max(rate, 1e-9)
            print(
                f"{self.name}: step {step}/{self.total}  {loss}  {rate:.3g} steps/s  {_clock(left)} left",
                file=sys.stderr,
                flush=True,
            )

    def _make_bar(self) -> RichProgress:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as RichProgress

        bar = RichProgress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=Console(stderr=True),
            transient=True,
        )
        bar.add_task(self.name, total=self.total, completed=self.start, loss="")
        bar.start()
        return bar


def _clock(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
