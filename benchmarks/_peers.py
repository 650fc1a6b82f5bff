"""Peers live in virtual environments of their own, because their pins do not go together with ours."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def peer_python(home: Path, *installs: list[str]) -> Path:
    """The Python of the virtual environment ``home``; made, with one ``pip install`` for each of ``installs``, once."""
    python = home / "bin" / "python"
    if not (home / "ready").exists():
        print(f"installing {installs[-1][-1]} into {home}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(home)], check=True)
        for words in installs:
            subprocess.run([str(python), "-m", "pip", "install", "-q", *words], check=True)
        (home / "ready").touch()
    return python
