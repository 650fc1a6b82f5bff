"""Work in the making: removed on every way out, told apart from the work of living processes after a kill."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest
import torch

from manyone.data.decoded import decoded
from manyone.data.trajectories.trajectories import Trajectories
from manyone.engine.artefact import write_model
from manyone.engine.checkpoint import save
from manyone.engine.files import part_beside, write_atomic
from manyone.errors import ManyoneError


def hidden(folder):
    return sorted(path.name for path in folder.iterdir() if path.name.startswith("."))


def test_a_part_is_removed_on_every_way_out(tmp_path):
    with part_beside(tmp_path / "deep/out") as part:
        (part / "a").write_text("1")
        assert part.parent == tmp_path / "deep"
    assert not hidden(tmp_path / "deep")
    with contextlib.suppress(KeyboardInterrupt), part_beside(tmp_path / "out") as part:
        (part / "a").write_text("1")
        raise KeyboardInterrupt
    assert not hidden(tmp_path)
    with part_beside(tmp_path / "out") as part:
        (part / "a").write_text("1")
        part.rename(tmp_path / "out")
    assert (tmp_path / "out/a").read_text() == "1"


def test_the_next_writer_clears_the_remains_of_a_killed_one_and_no_others(tmp_path):
    """Names with brackets, which a pattern would read as more than themselves, included."""
    target = tmp_path / "out[1]"
    code = f"""
import os, signal
from pathlib import Path
from manyone.engine.files import part_beside
with part_beside(Path({str(target)!r})) as part:
    (part / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""
    for _ in range(3):
        assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGKILL
        assert len(hidden(tmp_path)) == 1
    others = [".out1.0123abcd.part", ".out[1].part", ".out[1].notahexn.part", ".out[1].0123abcd.part.txt"]
    for name in others:
        (tmp_path / name).mkdir()
    (tmp_path / ".out[1].01234567.part").symlink_to(tmp_path / others[0])
    with part_beside(target):
        pass
    assert hidden(tmp_path) == sorted([*others, ".out[1].01234567.part"])


def test_the_work_of_a_living_writer_stays(tmp_path):
    """Many threads that write one file at once: each sees the parts of the others, and none removes them."""
    problems = []

    def write(number):
        try:
            for _ in range(20):
                with part_beside(tmp_path / "out") as part:
                    (part / "mine").write_text(str(number))
                    assert (part / "mine").read_text() == str(number)
                    (part / "mine").replace(tmp_path / "out")
        except BaseException as problem:
            problems.append(problem)

    threads = [threading.Thread(target=write, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.fixture
def small_files():
    """No file may pass a quarter of a megabyte: the system refuses the write, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 18, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def save_trajectories(folder):
    episode = {"observations": np.zeros((10_000, 8)), "actions": np.zeros((10_000, 1)), "rewards": np.zeros(10_000)}
    Trajectories.from_episodes("large", [episode]).save(folder / "large")


def save_decoded(folder):
    decoded("made", lambda: {"x": torch.zeros(1 << 17)})


def save_an_artefact(folder):
    write_model(folder / "model", {"x": torch.zeros(1 << 17)}, {"kind": "made"}, "# Card\n")


def save_a_checkpoint(folder):
    save(folder / "checkpoints", 1, {"x": torch.zeros(1 << 17)})


@pytest.mark.parametrize(
    "write", [save_trajectories, save_decoded, save_an_artefact, save_a_checkpoint], ids=lambda w: w.__name__
)
def test_a_refused_write_is_one_line_and_leaves_nothing(write, tmp_path, small_files, monkeypatch):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "cache"))
    with pytest.raises(
        ManyoneError, match=r"^cannot write .*: the (file would pass the size limit: raise|disk takes no more: free)"
    ):
        write(tmp_path)
    left = [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"]
    assert not left
    assert not list(tmp_path.rglob(".*"))


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write anywhere")
def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(ManyoneError, match="permission denied"):
        write_atomic(tmp_path / "a", b"1")
