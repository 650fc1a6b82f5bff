"""Indian Pines: an image of 200 narrow bands with labelled fields."""

from __future__ import annotations

import io

import numpy as np
from scipy.io import loadmat, whosmat

from manyone.assets.archives import open_archive
from manyone.assets.fetch import get
from manyone.data.rasters.about import about
from manyone.data.rasters.scenes import IGNORE, ArrayScene, LabelledScenes
from manyone.data.rasters.sensors import find_sensor
from manyone.errors import ManyoneError

PINES_CLASSES = (
    "alfalfa", "corn, no till", "corn, minimum till", "corn", "grass, pasture", "grass, trees", "grass, mown pasture",
    "hay, windrowed", "oats", "soybean, no till", "soybean, minimum till", "soybean, clean", "wheat", "woods",
    "buildings, grass, trees, drives", "stone and steel towers",
)  # fmt: skip
_LARGEST = 64 * 1024**2
_PLACE = "ghost/data/indian_pines"


def indian_pines() -> LabelledScenes:
    """AVIRIS of 1992, [200, 145, 145], 16 classes, 10,249 labelled pixels.

    Counts of a calibrated radiance (500 times it, plus 1,000), no reflectance: declared dn16.
    """
    archive = open_archive(get("ghost-hsi"))
    cube = _array(archive.read(f"{_PLACE}/Indian_pines_corrected.mat"), "indian_pines_corrected", (145, 145, 200))
    truth = _array(archive.read(f"{_PLACE}/Indian_pines_gt.mat"), "indian_pines_gt", (145, 145))
    sensor = find_sensor("aviris-indian-pines-200")
    bands = sensor.pick([b.name for b in sensor.bands], "dn16")
    scene = ArrayScene("indian-pines", bands, np.ascontiguousarray(cube.transpose(2, 0, 1)), None, None, 20.0)
    labels = np.where(truth == 0, IGNORE, truth - 1).astype(np.uint8)
    notes = ("counts of radiance, not reflectance", "centres of the bands by a linear rule, a few nm off")
    return LabelledScenes("indian-pines", (scene,), (labels,), PINES_CLASSES, about=about("ghost-hsi", *notes))


def _array(raw: bytes, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The one plain array of a MATLAB 5 file, after what the file says of it has been checked."""
    if len(raw) > _LARGEST:
        raise ManyoneError(f"{name}: {len(raw):,} bytes are more than the package holds; fetch it again")
    content = whosmat(io.BytesIO(raw))
    if [(n, tuple(s)) for n, s, _ in content] != [(name, shape)] or content[0][2] in ("cell", "struct", "object"):
        raise ManyoneError(f"{name}: holds {content}, not one array of shape {shape}; fetch the package again")
    value = loadmat(io.BytesIO(raw), variable_names=[name])[name]
    if type(value) is not np.ndarray or value.dtype.kind not in "uif" or value.shape != shape:
        raise ManyoneError(f"{name}: is no plain array of numbers; fetch the package again")
    return value
