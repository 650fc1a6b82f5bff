"""Progress: quiet at first, lines in a log, one display for all bars on a terminal."""

from __future__ import annotations

import contextlib
import sys
import threading
import time

import pytest

from manyone.engine import progress
from manyone.engine.progress import Progress


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(progress.time, "monotonic", lambda: self.now)


def test_a_log_has_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock(monkeypatch)
    with Progress("toy", 100, start=10) as bar:
        for step in range(11, 101):
            clock.now += 1
            bar.update(step, metrics={"loss": 1 / step})
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "toy: 12/100 steps  loss 0.08333  1 steps/s  0:01:28 left"
    assert [line.split()[1] for line in lines] == ["12/100", "42/100", "72/100"]
    with Progress("quick", 3) as bar:
        bar.update(2)
    with Progress("at the end", 3) as bar:
        clock.now += 60
        bar.update(3)
    with Progress("never", 3, show=False) as bar:
        clock.now += 60
        bar.update(2)
    assert capsys.readouterr().err == ""
    with Progress("now", 4, show=True) as bar:
        bar.update(0)
    assert capsys.readouterr().err == "now: 0/4 steps  0 steps/s\n", "nothing is known about the time left yet"


def test_the_time_left_ignores_the_first_step(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = Clock(monkeypatch)
    with Progress("toy", 101) as bar:
        clock.now += 40  # compiling
        bar.update(1)
        for step in range(2, 32):
            clock.now += 1
            bar.update(step)
    assert capsys.readouterr().err.splitlines() == [
        "toy: 1/101 steps  0.025 steps/s",
        "toy: 31/101 steps  1 steps/s  0:01:10 left",
    ]


def test_units_and_what_may_change(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    clock = Clock(monkeypatch)
    with Progress("get", unit="bytes", show=True) as bar:
        clock.now += 2
        bar.update(1_000_000, 9_000_000)
        clock.now += 30
        bar.update(46_000_000, 90_000_000, name="get more")
    assert capsys.readouterr().err == "get: 1.0/9.0 MB  0.5 MB/s\nget more: 46.0/90.0 MB  1.5 MB/s  0:00:29 left\n"


def test_bars_in_any_thread_share_one_display(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    clock = Clock(monkeypatch)
    monkeypatch.setattr(type(sys.stderr), "isatty", lambda self: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    running = threading.active_count()

    def work(name: str, wait: threading.Barrier) -> None:
        with Progress(name, 10, unit="[rows]", show=True) as bar:
            bar.update(3)
            clock.now += 1
            wait.wait()

    both = threading.Barrier(2)
    threads = [threading.Thread(target=work, args=(name, both)) for name in ("[one]", "two")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    err = capsys.readouterr().err
    for words in ("[one]", "two", "3/10 [rows]"):
        assert words in err
    with contextlib.suppress(ZeroDivisionError), Progress("again", 1, show=True) as bar:
        bar.update(1 // 0)
    until = time.time() + 5
    while threading.active_count() > running and time.time() < until:
        time.sleep(0.01)
    assert threading.active_count() <= running, "the display ends with the last bar, also after an error"


def test_few_of_what_is_counted_in_millions_are_shown_one_by_one():
    assert Progress("average", total=50_000, unit="parameters").count(1200) == "1200/50000 parameters"
    assert Progress("average", total=2_500_000, unit="parameters").count(1_200_000) == "1.2/2.5 million parameters"
    assert Progress("download", unit="bytes").count(3_400_000) == "3.4 MB"  # nobody said how much there is
