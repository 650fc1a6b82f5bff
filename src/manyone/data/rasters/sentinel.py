"""Small crops of Sentinel-2 without labels, and 120 labelled spectra of Landsat-8."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from manyone.assets.archives import open_archive
from manyone.assets.fetch import get
from manyone.data.rasters.about import about
from manyone.data.rasters.geotiff import read_geotiff
from manyone.data.rasters.scenes import ArrayScene, Chips, Scenes
from manyone.data.rasters.sensors import find_sensor
from manyone.errors import ManyoneError

_TEN_METRES = ("B2", "B3", "B4", "B8")
_REFLECTIVE = ("B1", "B2", "B3", "B4", "B5", "B6", "B7")


def satsense() -> Scenes:
    """Sentinel-2 of Bangalore, the bands of 10 m [4, 152, 155], at level 2A and 1C (refl_dn)."""
    archive = open_archive(get("satsense"))
    bands = find_sensor("sentinel-2").pick(_TEN_METRES, "refl_dn")
    scenes = []
    for name, member in (("satsense-2a", "section_2_sentinel"), ("satsense-1c", "section_2_sentinel_l1c")):
        raw = archive.read(f"satsense-0.9/test/data/source/{member}.tif")
        values, valid, grid = read_geotiff(raw, f"{member}.tif")
        if name.endswith("1c"):
            valid &= values.any(axis=0)  # the file declares no nodata; 0 in all bands is Sentinel-2's
        scenes.append(ArrayScene(name, bands, values, valid, grid, 10.0))
    return Scenes("satsense", tuple(scenes), about("satsense", "before baseline 04.00: no offset in the counts"))


def spyndex() -> Scenes:
    """Sentinel-2, the bands of 10 m [4, 300, 300] (refl_dn); neither place nor day is known."""
    values = np.array(_table("S2_10m.json", 4 * 300 * 300), dtype=np.uint16)
    if values.shape != (4, 300, 300):
        raise ManyoneError(f"spyndex: S2_10m.json has the shape {values.shape}; fetch the package again")
    bands = find_sensor("sentinel-2").pick(_TEN_METRES, "refl_dn")
    return Scenes("spyndex", (ArrayScene("spyndex", bands, values, None, None, 10.0),), about("spyndex"))


def spyndex_spectra() -> Chips:
    """120 spectra of Landsat-8 [8, 1, 1]: reflectance at the ground of B1 to B7, B10 in kelvin; 3 land covers."""
    table = _table("spectral.json", 120 * 9)
    keys = [str(i) for i in range(120)]
    columns = [f"SR_{name}" for name in _REFLECTIVE] + ["ST_B10"]
    words = [table["class"][key] for key in keys]
    classes = tuple(sorted(set(words)))
    sensor = find_sensor("landsat-8")
    return Chips(
        name="spyndex-spectra",
        bands=(*sensor.pick(_REFLECTIVE, "refl"), *sensor.pick(("B10",), "kelvin")),
        pixels=np.array([[table[c][key] for c in columns] for key in keys], np.float32)[:, :, None, None],
        target="class",
        targets=np.array([classes.index(word) for word in words], np.int64),
        classes=tuple(word.lower() for word in classes),
        gsd_m=30.0,
        about=about("spyndex", "120 pixels: for examples and tests, not for claims"),
    )


def _table(name: str, numbers: int) -> Any:
    """A JSON file of the package, no larger than ``numbers`` values can be."""
    raw = open_archive(get("spyndex")).read(f"spyndex/data/{name}")
    if len(raw) > 40 * numbers:
        raise ManyoneError(f"spyndex: {name} has {len(raw):,} bytes; fetch the package again")
    return json.loads(raw)
