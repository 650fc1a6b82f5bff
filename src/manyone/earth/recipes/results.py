"""What a finished run of earth has written, read again; without PyTorch, so that matching bands starts quickly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from manyone.claims.figure import read_json
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.options import Split


def results_of(folder: RunFolder, name: str, split: Split) -> Mapping[str, Any]:
    """What a finished run has written into ``name``."""
    if split != "test":
        raise ManyoneError(f"--split {split}: {folder.recipe} reports test samples alone: leave it out")
    path = folder.path / name
    if not path.is_file():
        raise ManyoneError(f"{folder.path}: not finished, nothing to show yet: manyone resume {folder.path}")
    found = read_json(path, "the results")
    if not isinstance(found, dict):
        raise ManyoneError(f"{path}: not what {folder.recipe} writes: run it again")
    return found
