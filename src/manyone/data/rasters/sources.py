"""The real sets by name: what decodes each of :mod:`manyone.data.rasters.names`."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from manyone.data.rasters.aerial import deepforest, sn_atlanta
from manyone.data.rasters.climate import koppen
from manyone.data.rasters.hyperspectral import indian_pines
from manyone.data.rasters.landsat import l7l8, nc_landsat, nc_landsat_points, olinda, statlog
from manyone.data.rasters.names import RASTER_SETS, SCENES
from manyone.data.rasters.scenes import RasterSet, Scenes
from manyone.data.rasters.sentinel import satsense, spyndex, spyndex_spectra
from manyone.errors import ManyoneError

_SETS: dict[str, Callable[[], RasterSet]] = {
    "nc-landsat": nc_landsat,
    "nc-landsat-points": nc_landsat_points,
    "statlog": statlog,
    "indian-pines": indian_pines,
    "sn-atlanta": sn_atlanta,
    "deepforest": deepforest,
    "spyndex-spectra": spyndex_spectra,
    "koppen": koppen,
}
_SCENES: dict[str, Callable[[], Scenes]] = {"l7l8": l7l8, "olinda": olinda, "satsense": satsense, "spyndex": spyndex}


def load_set(name: str) -> RasterSet:
    """The labelled set of this name, fetched where the cache lacks it."""
    if name in RASTER_SETS:
        return _SETS[name]()
    if name in SCENES:
        raise ManyoneError(f"{name} has no labels, so nothing can be evaluated on it: labelled are {_names()}")
    raise ManyoneError(_unknown(name, [*RASTER_SETS]))


def load_scenes(name: str) -> Scenes:
    """The unlabelled scenes of this name, fetched where the cache lacks them."""
    if name not in SCENES:
        raise ManyoneError(_unknown(name, [*SCENES]))
    return _SCENES[name]()


def _unknown(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
    return f"unknown raster set {name!r}: {hint}"


def _names() -> str:
    return ", ".join(RASTER_SETS)
