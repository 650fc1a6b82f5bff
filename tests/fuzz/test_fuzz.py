"""Damaged files of every format: one line that says what is wrong, or the content; never another exception or a hang.

MANYONE_FUZZ is the number of inputs of a format (default 200; ``make fuzz``: 2,000). What a checksum covers may not
come back changed.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
from pathlib import Path

import numpy as np
import pytest
from tests.fuzz.formats import FORMATS
from tests.fuzz.mutate import mutated

from manyone.errors import ManyoneError
from manyone.randomness import seed_for

COUNT = int(os.environ.get("MANYONE_FUZZ", "200"))
SECONDS, WAIT, ROOM = 20.0, 120.0, 1 << 30


class Hang(BaseException):
    """The time is up; no reader catches it."""


@contextlib.contextmanager
def bounded():
    """At most 20 s of the processor or two minutes (another process may have it), and a gigabyte of address space
    more than there is."""

    def late(*_):
        raise Hang

    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    old = {number: signal.signal(number, late) for number in (signal.SIGPROF, signal.SIGALRM)}
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.setitimer(signal.ITIMER_REAL, WAIT)
    resource.setrlimit(resource.RLIMIT_AS, (now + ROOM, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
        for number, handler in old.items():
            signal.signal(number, handler)


@pytest.mark.parametrize("name", FORMATS)
def test_damage_is_one_line_or_no_matter(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MANYONE_OFFLINE", "1")
    one = FORMATS[name]
    folder = tmp_path / "sample"
    folder.mkdir()
    one.make(folder)
    monkeypatch.chdir(tmp_path)
    with bounded():
        whole = one.read(folder)
    sound = {place: (folder / place).read_bytes() for place in one.files}
    places, wrong = list(sound), []
    for number in range(COUNT):
        draws = np.random.default_rng(seed_for("fuzz", name, number))
        place = places[number % len(places)]
        data = mutated(sound[place], one.files[place], draws)
        (folder / place).write_bytes(data)
        try:
            with bounded():
                found = one.read(folder)
            if one.checked and place in one.checked and data != sound[place] and not one.same(whole, found):
                wrong.append(f"{number} {place}: accepted, and other than it was")
        except ManyoneError as problem:
            if "\n" in str(problem) or len(str(problem)) > 2000:
                wrong.append(f"{number} {place}: a message of many lines: {str(problem)[:300]!r}")
        except Hang:
            wrong.append(f"{number} {place}: still running after {SECONDS:g} s")
        except BaseException as problem:
            if isinstance(problem, KeyboardInterrupt):
                raise
            wrong.append(f"{number} {place}: {type(problem).__name__}: {' '.join(str(problem).split())[:200]}")
        (folder / place).write_bytes(sound[place])
    assert not wrong, f"{len(wrong)} of {COUNT}:\n" + "\n".join(wrong[:15])
