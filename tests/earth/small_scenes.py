"""Small images that tests make: stripes of two classes that two bands tell apart."""

from __future__ import annotations

import json

import numpy as np

from manyone.data.rasters.bands import Band
from manyone.data.rasters.geotiff import write_raster
from manyone.data.rasters.scenes import IGNORE, ArrayScene, Grid, LabelledScenes

BANDS = (
    Band("R", "red", 660, 30, 10, unit="refl"),
    Band("G", "green", 560, 30, 10, unit="refl"),
    Band("N", "nir", 835, 100, 10, unit="refl"),
)
GRID = Grid("EPSG:32632", (10.0, 0.0, 500000.0, 0.0, -10.0, 5000000.0))


def classes_of(side: int = 48) -> np.ndarray:
    """0 and 1 in squares of 8 pixels."""
    return (np.add.outer(np.arange(side) // 8, np.arange(side) // 8) % 2).astype(np.uint8)


def pixels_of(labels: np.ndarray, noise: float = 0.02, seed: int = 0) -> np.ndarray:
    """float32 [3, H, W], reflectances that depend on the class."""
    draws = np.random.default_rng(seed).normal(size=(3, *labels.shape))
    means = np.array([[0.1, 0.3], [0.2, 0.25], [0.5, 0.2]])
    return (means[:, labels] + noise * draws).astype(np.float32)


def labelled(side: int = 48, missing: bool = True) -> LabelledScenes:
    """A scene with all pixels labelled but a corner, and a hole without values."""
    labels = classes_of(side)
    pixels = pixels_of(labels)
    if missing:
        pixels[:, 20:24, 20:24] = np.nan
        labels = labels.copy()
        labels[:4, :4] = IGNORE
    scene = ArrayScene("made", BANDS, pixels, grid=GRID, gsd_m=10)
    return LabelledScenes("made", (scene,), (labels,), ("field", "wood"))


def write_files(folder, side: int = 48) -> None:
    """``scene.tif`` and ``points.geojson`` with a point in every second pixel of every second row."""
    labels = classes_of(side)
    write_raster(folder / "scene.tif", pixels_of(labels), GRID, names=("red", "green", "nir"))
    features = [
        {
            "type": "Feature",
            "properties": {"class": ("field", "wood")[labels[r, c]]},
            "geometry": {"type": "Point", "coordinates": [500005.0 + 10 * c, 4999995.0 - 10 * r]},
        }
        for r in range(0, side, 2)
        for c in range(0, side, 2)
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32632"}}
    text = json.dumps({"type": "FeatureCollection", "crs": crs, "features": features})
    (folder / "points.geojson").write_text(text)
