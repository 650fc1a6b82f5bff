"""Signals outside of training: a run says how it goes on; with nothing to go on with they end the process as ever."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from manyone.engine.signals import StopRequests, saying_how_to_go_on
from manyone.errors import InterruptedRun


def test_a_signal_says_how_to_go_on_and_the_handler_before_comes_back():
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(InterruptedRun, match=r"^stopped by SIGTERM; again$") as stopped,
        saying_how_to_go_on(lambda: "again"),
    ):
        os.kill(os.getpid(), signal.SIGTERM)
    assert stopped.value.exit_code == 143
    with (
        pytest.raises(InterruptedRun, match="stopped by SIGINT; again") as stopped,
        saying_how_to_go_on(lambda: "again"),
    ):
        raise KeyboardInterrupt
    assert stopped.value.exit_code == 130
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_training_within_finishes_its_step():
    with saying_how_to_go_on(lambda: "again"):
        with StopRequests() as stop:
            os.kill(os.getpid(), signal.SIGTERM)
        assert stop.received == signal.SIGTERM


def test_in_a_forked_child_the_signal_ends_the_process():
    code = """
import os, signal, sys
from manyone.engine.signals import saying_how_to_go_on
with saying_how_to_go_on(lambda: 'again'):
    if os.fork(): sys.exit(-os.wait()[1])
    os.kill(os.getpid(), signal.SIGTERM)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=False)
    assert done.returncode == 256 - signal.SIGTERM
    assert done.stderr == b""


def test_with_nothing_to_go_on_with_what_is_half_written_is_removed(tmp_path):
    code = f"""
import os, signal, sys
from pathlib import Path
from manyone.cli import main as cli
from manyone.engine.files import part_beside
def halfway(words):
    with part_beside(Path({str(tmp_path)!r}) / "out") as part:
        (part / "half").write_text("half")
        os.kill(os.getpid(), signal.SIGTERM)
cli._dispatch = halfway
sys.exit(cli.run(["run"]))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stderr == "manyone: stopped by SIGTERM\n"
    assert not list(tmp_path.iterdir())


def test_without_a_run_ctrl_c_is_ctrl_c():
    with pytest.raises(KeyboardInterrupt), saying_how_to_go_on(lambda: None):
        raise KeyboardInterrupt
