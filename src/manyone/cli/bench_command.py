"""``manyone bench``: runs the repository's benchmarks one after the other and prints one table for each."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from manyone.errors import ManyoneError


def scripts() -> dict[str, Path]:
    """Benchmark name -> script; empty when the package was installed without the repository."""
    folder = Path(__file__).resolve().parents[3] / "benchmarks"
    return {p.stem.replace("_", "-"): p for p in sorted(folder.glob("*.py")) if not p.stem.startswith("_")}


def run(names: Sequence[str] = ()) -> None:
    """Runs the benchmarks called ``names`` (all by default), each in a fresh process so that none warms another."""
    known = scripts()
    if not known:
        raise ManyoneError("the benchmarks come with the repository, not with the package: run this in a clone of it")
    for name in names:
        if name not in known:
            raise ManyoneError(f"unknown benchmark {name!r}: there are {', '.join(known)}")
    for name in names or known:
        print(f"\n== {name}", flush=True)
        status = subprocess.run([sys.executable, str(known[name])], check=False).returncode
        if status:
            raise ManyoneError(f"benchmark {name} ended with status {status}: its own message is above")
