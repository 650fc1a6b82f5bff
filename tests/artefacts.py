"""Artefacts that a test damages on purpose."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from manyone.engine.artefact import CONFIG, DIGEST, WEIGHTS


def without_digest(folder: Path) -> None:
    """Takes the checksum out of the configuration, so that what is damaged is found by what comes after it."""
    config = json.loads((folder / CONFIG).read_text())
    config.pop(DIGEST)
    (folder / CONFIG).write_text(json.dumps(config))


def replace_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Other tensors in the model folder, and no checksum."""
    save_file(dict(tensors), folder / WEIGHTS)
    without_digest(folder)
