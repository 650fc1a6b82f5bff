"""Statements that try to write, to break out or to bring the house down: each is one line of ``hostile.jsonl``.

A line's ``sql`` is a list of [text, times]; ``kinds`` are the outcomes that will do (null: it runs, and harms nothing).
"""

import hashlib
import json
import resource
import time
from dataclasses import replace
from pathlib import Path

import pytest

from manyone.data.sql.sandbox import Limits, Sandbox

CASES = [json.loads(line) for line in Path(__file__).with_name("hostile.jsonl").read_text().splitlines()]
LIMITS = Limits(seconds=0.2, grace=0.2, memory=128 << 20, rows=2000, size=4 << 20)
PATIENT = replace(LIMITS, seconds=60)
"""For statements that end by themselves, also on a busy machine."""
GENEROUS = 30.0
"""Seconds that no statement may last, on the slowest machine: what it is stopped by is told by its kind."""


def peak() -> int:
    """Bytes that this process has had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@pytest.fixture(scope="module")
def sandboxes():
    with Sandbox(1, LIMITS) as short, Sandbox(1, PATIENT) as patient:
        yield short, patient


def everything(folder: Path) -> dict[str, str]:
    return {str(p): hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["id"])
def test_it_harms_nothing(case, sandboxes, singers, tmp_path, monkeypatch):
    sandbox = sandboxes[0 if "time" in case["kinds"] else 1]
    monkeypatch.chdir(tmp_path)
    sql = "".join(text * times for text, times in case["sql"])
    before, most = everything(singers.parent), peak()
    began = time.monotonic()
    outcome = sandbox.execute(singers, sql)
    assert time.monotonic() - began < GENEROUS
    kind = "truncated" if outcome.truncated else outcome.kind_of_error
    assert kind in case["kinds"], (kind, outcome.error)
    assert (outcome.error == "") == (outcome.kind_of_error is None)
    assert "\n" not in outcome.error
    assert len(outcome.error) < 400
    assert len(outcome.rows) <= LIMITS.rows
    assert everything(singers.parent) == before
    assert not list(tmp_path.iterdir())
    assert peak() - most < 64 << 20
    for _ in range(50):  # on a busy machine also this may last longer than the short limit
        after = sandbox.execute(singers, "SELECT count(*), max(name) FROM singer")
        if after.kind_of_error != "time":
            break
    assert after.rows == ((60, "singer 9"),), after.error


def test_there_are_many_and_they_bring_about_every_kind():
    assert len(CASES) >= 60
    kinds = {kind for case in CASES for kind in case["kinds"]}
    assert kinds >= {"denied", "statement", "limit", "time", "error", "truncated"}
