"""What earth's runners share: options as values of the methods, the store, and what a command line says of a plan."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manyone.assets.cache import cache_folder
from manyone.claims.figure import read_json
from manyone.earth.embedding import How
from manyone.earth.encoders.mae import MaeOptions
from manyone.earth.recipes.options import ImageOptions
from manyone.earth.sensors.options import LayerOptions
from manyone.earth.store import Store
from manyone.engine.devices import device_of
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.options import Split


def how_of(options: ImageOptions, model: str) -> How:
    """How ``model`` gets its input."""
    return How(
        layer=LayerOptions(missing=options.missing, normalise=options.normalise, unit=options.unit),
        window=options.window,
        stride=options.stride,
        device=str(device_of(options.device)),
        seed=options.seed,
        mae=MaeOptions(steps=options.mae_steps, wave=model == "wave-small"),
        memory_mb=options.memory,
    )


def store_of(options: ImageOptions) -> Store:
    """Where features are kept."""
    return Store(Path(options.store) if options.store else cache_folder("earth", "features"))


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
