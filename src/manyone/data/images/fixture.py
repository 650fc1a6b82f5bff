"""The ``fixture`` suite: a few hundred redistributable real images per task, read from one safetensors file.

It exists so that tests and a first look need no network. Five tasks of 28x28 grey images in the form of ``mini6``.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from manyone.data.splits import make_splits
from manyone.data.tasks import Suite, Task
from manyone.engine.tensors import save_tensors
from manyone.errors import ManyoneError

FILE = Path("tests") / "fixtures" / "images.safetensors"


def fixture_path(path: Path | str | None = None) -> Path:
    """``path``, else the environment's MANYONE_FIXTURE, else the file in the source checkout that holds this module."""
    chosen = path or os.environ.get("MANYONE_FIXTURE")
    candidates = [Path(chosen)] if chosen else [parent / FILE for parent in Path(__file__).resolve().parents]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    where = chosen or FILE
    raise ManyoneError(f"{where}: no fixture file; set MANYONE_FIXTURE to the images.safetensors of a source checkout")


def load_fixture(seed: int = 0, path: Path | str | None = None) -> Suite:
    """The fixture's tasks, split by ``seed`` (test and validation a quarter and a tenth, the rest for training)."""
    file = fixture_path(path)
    try:
        with safe_open(str(file), "pt") as store:
            about = json.loads((store.metadata() or {})["tasks"])
            data = {key: store.get_tensor(key) for key in store.keys()}  # noqa: SIM118 - not a mapping
    except Exception as problem:
        # safetensors raises its own exception type for every kind of damage.
        raise ManyoneError(f"{file}: not a readable fixture file ({problem}); run scripts/make_fixture.py") from None
    tasks = []
    for name, info in about.items():
        images, labels = data[f"{name}.images"][:, None], data[f"{name}.labels"].long()
        train, val, test, _ = make_splits(images, labels, seed, "fixture", name)
        tasks.append(Task(name, tuple(info["classes"]), train, val, test, info["source"], info["licence"]))
    return Suite("fixture", "image", tuple(tasks))


def write_fixture(path: Path, tasks: dict[str, tuple[Tensor, Tensor]], about: dict[str, dict[str, object]]) -> None:
    """Writes images (uint8 [n, 28, 28]) and labels of every task; ``about``: classes, source and licence per task."""
    tensors = {}
    for name, (images, labels) in tasks.items():
        tensors[f"{name}.images"], tensors[f"{name}.labels"] = images.contiguous(), labels.byte().contiguous()
    save_tensors(tensors, path, metadata={"tasks": json.dumps(about)})
