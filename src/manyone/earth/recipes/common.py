"""What earth's runners share: options as values of the methods, and the store."""

from __future__ import annotations

from pathlib import Path

from manyone.assets.cache import cache_folder
from manyone.earth.embedding import How
from manyone.earth.encoders.mae import MaeOptions
from manyone.earth.recipes.options import ImageOptions
from manyone.earth.sensors.options import LayerOptions
from manyone.earth.store import Store
from manyone.engine.devices import device_of


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
