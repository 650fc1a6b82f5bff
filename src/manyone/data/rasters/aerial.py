"""Images of half a metre and finer: buildings of Atlanta from space, crowns of trees from the air."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from xml.etree import ElementTree

import numpy as np
import torch
from PIL import Image

from manyone.assets.archives import Archive, open_archive
from manyone.assets.fetch import get
from manyone.data.decoded import decoded
from manyone.data.rasters.about import about
from manyone.data.rasters.bands import Band
from manyone.data.rasters.geotiff import careful, rasterio, read_geotiff
from manyone.data.rasters.scenes import IGNORE, ArrayScene, LabelledScenes
from manyone.data.rasters.sensors import find_sensor
from manyone.engine.extras import need
from manyone.errors import ManyoneError

_CROWNS = ("2019_YELL_2_528000_4978000_image_crop2", "2019_YELL_2_541000_4977000_image_crop", "OSBS_029", "SOAP_061")
_RGB = (
    Band("R", "red", 650.0, 60.0, 0.1, "rgb", "dn8"),
    Band("G", "green", 560.0, 54.0, 0.1, "rgb", "dn8"),
    Band("B", "blue", 470.0, 72.0, 0.1, "rgb", "dn8"),
)
_LARGEST = 1024**2  # bytes of an annotation
_MOST_PIXELS = 32_000_000


@dataclass(frozen=True)
class Boxes:
    """Rectangles around the objects of one image."""

    corners: np.ndarray
    """int64 [n, 4]: left, top, right, bottom in pixels, the last two excluded."""
    names: tuple[str, ...]


def sn_atlanta() -> LabelledScenes:
    """WorldView-2, panchromatic [1, 900, 900] at 0.5 m (dn16), with the footprints of 43 buildings as a mask."""
    archive = open_archive(get("solaris"))
    values, valid, grid = read_geotiff(archive.read("solaris/data/sample_geotiff.tif"), "sample_geotiff.tif")
    assert grid is not None
    collection = json.loads(archive.read("solaris/data/geotiff_labels.geojson"))
    shapes = [(feature["geometry"], 1) for feature in collection["features"]]
    if len(shapes) != 43 or "32616" not in collection["crs"]["properties"]["name"] or grid.crs != "EPSG:32616":
        raise ManyoneError("solaris: geotiff_labels.geojson is not the one that is known; fetch the package again")
    with careful():
        mask = need("rasterio.features", "footprints of buildings", "earth").rasterize(
            shapes, out_shape=values.shape[1:], transform=rasterio().Affine(*grid.transform), dtype="uint8"
        )
    mask[~valid[0]] = IGNORE
    bands = find_sensor("worldview-2").pick(("PAN",), "dn16")
    scene = ArrayScene("sn-atlanta", bands, values, valid, grid, 0.5)
    notes = ("one image: a split by blocks of it is the best there is", "counts of 11 bits, no reflectance")
    return LabelledScenes("sn-atlanta", (scene,), (mask,), ("background", "building"), about=about("solaris", *notes))


def deepforest() -> LabelledScenes:
    """Four aerial RGB images at 0.1 m (dn8) with crowns of trees against background; crowns are the boxes' pixels."""
    archive = open_archive(get("deepforest"))
    pictures = decoded("deepforest", _pictures)
    scenes, labels = [], []
    for name in _CROWNS:
        pixels = pictures[name].numpy()
        boxes = _boxes(archive, f"deepforest/data/{name}.xml", pixels.shape[1:])
        mask = np.zeros(pixels.shape[1:], np.uint8)
        for left, top, right, bottom in boxes.corners.tolist():
            mask[top:bottom, left:right] = 1
        grid = None
        if name == "OSBS_029":  # the only one whose place is known
            _, _, grid = read_geotiff(archive.read(f"deepforest/data/{name}.tif"), f"{name}.tif")
        scenes.append(ArrayScene(name, _RGB, pixels, None, grid, 0.1))
        labels.append(mask)
    notes = (
        "crowns are the pixels of their boxes, so some ground counts as crown",
        "bands of an ordinary camera: nominal centres",
    )
    return LabelledScenes(
        "deepforest", tuple(scenes), tuple(labels), ("background", "crown"), about=about("deepforest", *notes)
    )


def deepforest_boxes() -> dict[str, Boxes]:
    """Image -> the boxes of its 574, 279, 61 and 37 trees."""
    archive = open_archive(get("deepforest"))
    return {
        name: _boxes(archive, f"deepforest/data/{name}.xml", _size(archive.read(f"deepforest/data/{name}.png"), name))
        for name in _CROWNS
    }


def _size(raw: bytes, name: str) -> tuple[int, int]:
    with Image.open(io.BytesIO(raw)) as image:
        if image.width * image.height > _MOST_PIXELS:
            raise ManyoneError(f"{name}: claims {image.width}x{image.height} pixels; fetch the package again")
        return image.height, image.width


def _pictures() -> dict[str, torch.Tensor]:
    """Image -> uint8 [3, H, W]; decoding them takes half a second."""
    archive = open_archive(get("deepforest"))
    pixels = {}
    for name in _CROWNS:
        raw = archive.read(f"deepforest/data/{name}.png")
        _size(raw, name)
        with Image.open(io.BytesIO(raw)) as image:
            pixels[name] = torch.from_numpy(np.array(image.convert("RGB"), np.uint8).transpose(2, 0, 1))
    return pixels


def _boxes(archive: Archive, member: str, size: tuple[int, ...]) -> Boxes:
    """The objects of a Pascal VOC annotation, cut to the image."""
    raw = archive.read(member)
    if len(raw) > _LARGEST or b"<!" in raw:  # a document type could define entities that grow
        raise ManyoneError(f"{member}: is no plain annotation; fetch the package again")
    corners, names = [], []
    for item in ElementTree.fromstring(raw).iter("object"):
        box = [int(float(item.findtext(f"bndbox/{key}", ""))) for key in ("xmin", "ymin", "xmax", "ymax")]
        corners.append([max(box[0], 0), max(box[1], 0), min(box[2], size[1]), min(box[3], size[0])])
        names.append(item.findtext("name", ""))
    return Boxes(np.array(corners, np.int64).reshape(-1, 4), tuple(names))
