"""Fixtures that every part of the tests shares."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from manyone.cli.main import run

# The networks of the tests are so small that threads cost more than they save; also in the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if TYPE_CHECKING:
    from manyone.data.tasks import Suite
    from manyone.merging.experts.bundle import Bundle


@pytest.fixture(scope="session")
def fixture_bundle() -> tuple[Suite, Bundle]:
    """The fixture suite with its base, heads and experts (a small residual MLP, seed 0, trained in about two seconds).

    Shared by the whole session: tests must not change its tensors in place.
    """
    from manyone.data.suites import load_suite
    from manyone.merging.experts.bundle_learner import make_bundle

    suite = load_suite("fixture")
    return suite, make_bundle(suite, seed=0)


@pytest.fixture(scope="session")
def shared_cache(tmp_path_factory):
    """A cache folder of this test session, in which experts are trained once."""
    base = tmp_path_factory.getbasetemp()
    if os.environ.get("PYTEST_XDIST_WORKER"):
        base = base.parent
    folder = base / "manyone-cache"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture
def manyone(monkeypatch, tmp_path, capsys, shared_cache):
    """Runs the command line in this process, in an empty folder: returns (exit code, stdout, stderr)."""
    monkeypatch.setenv("MANYONE_CACHE", str(shared_cache))
    monkeypatch.setenv("MANYONE_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)

    def call(*words):
        code = run([str(word) for word in words])
        output = capsys.readouterr()
        return code, output.out, output.err

    return call


@pytest.fixture
def process(shared_cache, tmp_path):
    """Starts ``python ...`` in a process of its own, in the test's folder."""

    def start(*words, **options):
        source = str(Path(__file__).parents[1] / "src")
        path = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH")) if p)
        environment = os.environ | {"MANYONE_CACHE": str(shared_cache), "MANYONE_OFFLINE": "1", "PYTHONPATH": path}
        return subprocess.Popen([sys.executable, *map(str, words)], cwd=tmp_path, env=environment, **options)

    return start
