"""What earth recipes ask for: packages of sets and weights, what reads GeoTIFF and labels, libraries of encoders."""

from __future__ import annotations

import difflib
from pathlib import Path

from manyone.data.rasters.names import source_of
from manyone.earth.names import LIBRARIES, OWN, PACKAGED, SUITES
from manyone.earth.recipes.options import BenchOptions, ImageOptions
from manyone.engine.extras import Extra
from manyone.errors import ManyoneError
from manyone.recipes.needs import Needs, together
from manyone.recipes.options import CommonOptions

_RASTERS = (".tif", ".tiff", ".vrt", ".jp2")
_GEOTIFF, _VECTORS = Extra("rasterio", "reading GeoTIFF", "earth"), Extra("pyogrio", "reading labels", "earth")


def needs(options: CommonOptions) -> Needs:
    """Of a suite its sets, of own images their readers, and what each encoder is made with."""
    if not isinstance(options, ImageOptions):
        return Needs()
    models = getattr(options, "models", None) or (options.model,)  # type: ignore[attr-defined]
    sets = SUITES.get(options.suite, ()) if isinstance(options, BenchOptions) else ()
    found = together([*(encoder_needs(id, options.weights) for id in models), *map(set_needs, sets)])
    if options.data:
        found |= Needs(extras=(_GEOTIFF,))
    labels = str(getattr(options, "labels", ""))
    if labels and Path(labels).suffix.lower() not in _RASTERS:
        found |= Needs(extras=(_VECTORS,))
    return found


def set_needs(name: str) -> Needs:
    """The package of a ready-made set, and what reads it."""
    source = source_of(name)
    assert source is not None  # of a suite
    return Needs((source.asset,), extras=(_GEOTIFF,) if source.geotiff else ())


def encoder_needs(id: str, weights: str = "default") -> Needs:
    """What the encoder ``id`` is made with; ``ManyoneError`` for one that nobody makes."""
    library, colon, name = id.partition(":")
    if not colon or library not in LIBRARIES:
        if id not in OWN:
            near = difflib.get_close_matches(id, OWN)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(OWN)}, timm:NAME, ..."
            raise ManyoneError(f"{id!r}: no such encoder: {hint}")
        return Needs((id,) if id in PACKAGED and weights == "default" else ())
    module, extra = ("transformers", "hub") if library == "hf" else (library, "earth-models")
    hub = (f"weights of {id}",) if weights == "default" and not (library == "hf" and Path(name).exists()) else ()
    return Needs(hub=hub, extras=(Extra(module, id, extra),))
