"""A cache that all tests of recipes share (also across workers), and the command line in an empty folder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from manyone.cli.main import run


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
        source = str(Path(__file__).parents[2] / "src")
        path = os.pathsep.join(p for p in (source, os.environ.get("PYTHONPATH")) if p)
        environment = os.environ | {"MANYONE_CACHE": str(shared_cache), "MANYONE_OFFLINE": "1", "PYTHONPATH": path}
        return subprocess.Popen([sys.executable, *map(str, words)], cwd=tmp_path, env=environment, **options)

    return start
