"""SIGTERM and SIGINT as requests: the loop finishes its step, saves, and leaves with the usual exit code.

Public names: :class:`StopRequests`, :func:`saying_how_to_go_on`.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType

from manyone.errors import InterruptedRun


@contextmanager
def saying_how_to_go_on(advice: Callable[[], str | None]) -> Iterator[None]:
    """SIGTERM and SIGINT outside of training leave the block by ``InterruptedRun``, with ``advice()`` in its message.

    A run has phases without checkpoints (data, baselines, figures), where nothing waits for a step to end. Where there
    is nothing to go on with, ``advice()`` is None: SIGINT stays ``KeyboardInterrupt``, and SIGTERM too unwinds the
    block, so that what was half written is removed.
    """
    owner, main = os.getpid(), threading.current_thread() is threading.main_thread()

    def leave(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a forked child has its parent's handlers
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        text = advice()
        name = signal.Signals(number).name
        raise InterruptedRun(f"stopped by {name}{'' if text is None else f'; {text}'}", 128 + number)

    before = signal.signal(signal.SIGTERM, leave) if main else None
    try:
        yield
    except KeyboardInterrupt:
        text = advice()
        if text is None:
            raise
        raise InterruptedRun(f"stopped by SIGINT; {text}", 128 + signal.SIGINT) from None
    finally:
        if main:
            signal.signal(signal.SIGTERM, before or signal.SIG_DFL)  # None: not set by Python


class StopRequests:
    """While entered, the first SIGTERM or SIGINT is noted in ``received`` instead of ending the process.

    A second one acts as if nothing were in its way (Ctrl-C twice stops at once, without saving). Outside the main
    thread Python cannot install handlers, and nothing changes.
    """

    def __init__(self) -> None:
        self.received: int = 0
        self._before: dict[int, object] = {}

    def __enter__(self) -> StopRequests:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.received = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before = {}
