"""Small GeoTIFF files for the tests."""

import numpy as np
import rasterio

from manyone.data.rasters.scenes import Grid

GRID = Grid("EPSG:32632", (10.0, 0.0, 500_000.0, 0.0, -10.0, 5_000_000.0))


def write(path, pixels, *, grid=GRID, describe=None, **profile):
    """A GeoTIFF of ``pixels`` [C, H, W] by rasterio itself; ``describe`` may set metadata on the open dataset."""
    place = {} if grid is None else {"crs": grid.crs, "transform": rasterio.Affine(*grid.transform)}
    count, height, width = pixels.shape
    words = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": pixels.dtype.name}
    with rasterio.open(path, "w", **words, **place, **profile) as dataset:
        dataset.write(pixels)
        if describe is not None:
            describe(dataset)
    return path


def random(shape=(3, 60, 80), low=0, high=3000, dtype=np.uint16, seed=0):
    """Whole numbers from ``low`` to below ``high``."""
    return np.random.default_rng(seed).integers(low, high, shape).astype(dtype)
