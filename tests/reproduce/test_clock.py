"""A job's clock: added up over commands, known of a killed process, unknown where rows are older than clocks."""

import os
import signal
import subprocess
import sys
import time

import pytest

from manyone.reproduce.clock import clocked, seconds_of


def test_seconds_add_up_over_commands(tmp_path):
    clock = tmp_path / "job.seconds"
    for _ in range(2):
        with clocked(clock):
            time.sleep(0.2)
        (tmp_path / "job.jsonl").write_text("{}")
    total = seconds_of([clock])
    assert total is not None
    assert 0.3 <= total < 10
    assert seconds_of([]) == 0


def test_a_job_that_fails_has_taken_its_time_too(tmp_path):
    with pytest.raises(ValueError, match="broken"), clocked(tmp_path / "job.seconds"):
        raise ValueError("broken")
    assert seconds_of([tmp_path / "job.seconds"]) is not None


def test_rows_without_a_clock_stay_without(tmp_path):
    (tmp_path / "job.jsonl").write_text("{}")
    with clocked(tmp_path / "job.seconds"):
        pass
    assert list(tmp_path.glob("*.seconds")) == []
    with clocked(tmp_path / "other.seconds"):
        pass
    assert seconds_of([tmp_path / "job.seconds", tmp_path / "other.seconds"]) is None


def test_a_killed_process_leaves_its_clock(tmp_path):
    code = (
        "import pathlib, time, manyone.reproduce.clock as clock\n"
        "clock.EVERY_SECONDS = 0.1\n"
        f"with clock.clocked(pathlib.Path({str(tmp_path / 'job.seconds')!r})): time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 60
    while not (seconds_of([tmp_path / "job.seconds"]) or 0) > 0.3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert (seconds_of([tmp_path / "job.seconds"]) or 0) > 0.3
