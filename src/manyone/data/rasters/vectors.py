"""Labels from another file, laid over a scene's grid: polygons, points, or a raster of classes.

GeoJSON, GeoPackage and shapefiles are read with pyogrio, reprojected when the reference systems differ, and
rasterised: a pixel gets the class of the polygon that its centre lies in, or of the point that lies in it; where two
overlap, the later one in the file wins.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from manyone.data.rasters.geotiff import (
    careful,
    check_size,
    gdal_errors,
    grid_of,
    local_file,
    open_geotiff,
    rasterio,
    read_window,
)
from manyone.data.rasters.scenes import IGNORE, Grid, Scene, Window
from manyone.data.rasters.wkb import parse_wkb
from manyone.engine.extras import need
from manyone.errors import ManyoneError

MOST_CLASSES = 254
MOST_FEATURES = 2_000_000
LARGEST_FILE = 1024**3
"""Bytes of a file of vectors."""
_DRIVERS = {".geojson": "GeoJSON", ".json": "GeoJSON", ".gpkg": "GPKG", ".shp": "ESRI Shapefile"}
_RASTERS = (".tif", ".tiff")
_USUAL = ("class", "label", "landcover", "land_cover", "category", "type", "name")
Extent = tuple[float, float, float, float]


@dataclass(frozen=True)
class Labels:
    """A class for each pixel of a scene."""

    pixels: np.ndarray
    """uint8 [H, W], positions in ``classes``, IGNORE where there is none."""
    classes: tuple[str, ...]


def read_labels(path: str | os.PathLike[str], scene: Scene, column: str | None = None) -> Labels:
    """Labels of ``scene`` from a GeoJSON, GeoPackage, shapefile or a GeoTIFF of classes.

    ``column`` names the attribute that holds the class; it may be left out where there is one attribute, or one with a
    usual name. Classes are in sorted order (numbers by value). Raises :class:`ManyoneError` where a reference system
    is missing, nothing overlaps, or there are more than 254 classes.
    """
    place = local_file(path)
    if place.suffix.lower() in _RASTERS:
        if column is not None:
            raise ManyoneError(f"column: {column!r} has no meaning for a raster of classes ({path}); leave it out")
        return _from_raster(place, scene)
    if place.suffix.lower() not in _DRIVERS:
        known = ", ".join([*_DRIVERS, *_RASTERS])
        raise ManyoneError(f"{path}: {place.suffix or 'a file without an ending'} is not read; known are {known}")
    return _from_vectors(place, scene, column)


def _from_vectors(path: Path, scene: Scene, column: str | None) -> Labels:
    grid = _needed_grid(scene)
    shapes, values, crs = _features(path, column)
    kept = [i for i, (s, v) in enumerate(zip(shapes, values, strict=True)) if s is not None and v is not None]
    if not kept:
        raise ManyoneError(f"{path}: none of its {len(shapes)} features has both a geometry and a class")
    classes = _sorted([values[i] for i in kept])
    if len(classes) > MOST_CLASSES:
        raise ManyoneError(f"{path}: {len(classes)} classes; at most {MOST_CLASSES} are read: is the column right?")
    position = {value: k for k, value in enumerate(classes)}
    pairs = [(parse_wkb(shapes[i], str(path)), position[values[i]]) for i in kept]
    library = rasterio()
    features, warp = need("rasterio.features", "labels", "earth"), need("rasterio.warp", "labels", "earth")
    with careful():
        if library.crs.CRS.from_user_input(crs) != library.crs.CRS.from_user_input(grid.crs):
            try:
                moved = warp.transform_geom(crs, grid.crs, [g for g, _ in pairs])
            except gdal_errors():  # outside of where the scene's system is defined
                _fail_overlap(path, [features.bounds(g) for g, _ in pairs], crs, scene, grid)
            pairs = [(g, k) for g, (_, k) in zip(moved, pairs, strict=True)]
        pairs = [(g, k) for g, k in pairs if _finite(g)]
        _check_overlap(path, [features.bounds(g) for g, _ in pairs], scene, grid)
        pixels = features.rasterize(
            pairs, out_shape=scene.shape, fill=IGNORE, transform=library.Affine(*grid.transform), dtype="uint8"
        )
    if (pixels == IGNORE).all():
        raise ManyoneError(f"{path}: its features lie in the scene but cover no pixel's centre; are they too small?")
    return Labels(pixels, tuple(map(_word, classes)))


def _features(path: Path, column: str | None) -> tuple[np.ndarray, list[Any], str]:
    """(geometries as WKB, their class or None, reference system) of a file's first layer."""
    pyogrio = need("pyogrio", "reading labels", "earth")
    if path.stat().st_size > LARGEST_FILE:
        raise ManyoneError(f"{path}: {path.stat().st_size / 1e9:.1f} GB are more than a file of labels may have")
    driver = _DRIVERS[path.suffix.lower()]
    _check_kind(path, driver)
    try:
        info = pyogrio.read_info(str(path), force_feature_count=True)
        if info["driver"] != driver:
            raise ManyoneError(f"{path}: holds {info['driver']}, not {driver} as its ending says")
        if info["features"] > MOST_FEATURES:
            raise ManyoneError(f"{path}: {info['features']:,} features; more than {MOST_FEATURES:,} are not read")
        column = _column(path, list(info["fields"]), column)
        _, _, shapes, fields = pyogrio.raw.read(str(path), columns=[column], force_2d=True)
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, ValueError, OSError) as problem:
        line = next(iter(str(problem).splitlines()), type(problem).__name__)
        raise ManyoneError(f"{path}: not a readable {driver} file ({line}); only that is read") from None
    if not info["crs"]:
        raise ManyoneError(f"{path}: has no coordinate reference system; ogr2ogr -a_srs EPSG:... adds one")
    if not len(shapes):
        raise ManyoneError(f"{path}: has no features")
    if odd := [v for v in fields[0] if isinstance(v, np.ndarray | list | dict)]:
        raise ManyoneError(f"{path}: column {column}: {odd[0]!s:.40} is a list, not one class: give another column")
    values = [None if _missing(v) else (v.item() if isinstance(v, np.generic) else v) for v in fields[0]]
    return shapes, values, str(info["crs"])


def _check_kind(path: Path, driver: str) -> None:
    """Raises unless the file begins as its ending says: GDAL goes by content, and some formats name other files."""
    with path.open("rb") as file:
        head = file.read(4096)
    begins = {
        "GeoJSON": head.removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"),
        "GPKG": head.startswith(b"SQLite format 3\0") and head[68:72] in (b"GPKG", b"GP10", b"GP11"),
        "ESRI Shapefile": head.startswith(b"\0\0\x27\x0a"),
    }
    if not begins[driver]:
        raise ManyoneError(f"{path}: is not the {driver} that its ending says")


def _column(path: Path, fields: list[str], column: str | None) -> str:
    if column is not None:
        if column not in fields:
            raise ManyoneError(f"{path}: has no column {column!r}; known are {', '.join(fields) or 'none'}")
        return column
    usual = [f for f in fields if f.lower() in _USUAL]
    if len(fields) == 1 or len(usual) == 1:
        return (usual or fields)[0]
    raise ManyoneError(f"{path}: which column holds the class? Known are {', '.join(fields) or 'none'}")


def _from_raster(path: Path, scene: Scene) -> Labels:
    """A GeoTIFF of classes, its values as names, brought to the scene's grid by the nearest pixel."""
    library = rasterio()
    warp = need("rasterio.warp", "labels", "earth")
    with careful():
        dataset = open_geotiff(path)
        with dataset:
            if dataset.count != 1:
                raise ManyoneError(f"{path}: has {dataset.count} bands; a raster of classes has one")
            check_size(dataset.shape, 1, "int64", str(path))
            values, valid = read_window(dataset, [1], Window(0, 0, *dataset.shape), str(path))
            own = grid_of(dataset)
        if values.dtype.kind == "f" and not np.array_equal(np.trunc(values[valid]), values[valid]):
            raise ManyoneError(f"{path}: its values are no whole numbers, so they are no classes")
        codes = np.unique(values[valid])
        if len(codes) > MOST_CLASSES:
            raise ManyoneError(f"{path}: {len(codes)} different values; at most {MOST_CLASSES} classes are read")
        pixels: np.ndarray = np.full(values.shape[1:], IGNORE, np.uint8)
        pixels[valid[0]] = np.searchsorted(codes, values[valid]).astype(np.uint8)
        if not (own == scene.grid and pixels.shape == scene.shape):
            grid = _needed_grid(scene)
            if own is None:
                raise ManyoneError(
                    f"{path}: has no coordinate reference system and not the scene's {scene.shape} pixels"
                )
            corners = _extent(own, pixels.shape)
            try:
                extent = warp.transform_bounds(own.crs, grid.crs, *corners)
            except gdal_errors():
                _fail_overlap(path, [corners], own.crs, scene, grid)
            _check_overlap(path, [extent], scene, grid)
            target: np.ndarray = np.full(scene.shape, IGNORE, np.uint8)
            warp.reproject(
                pixels, target, src_transform=library.Affine(*own.transform), src_crs=own.crs, src_nodata=IGNORE,
                dst_transform=library.Affine(*grid.transform), dst_crs=grid.crs, dst_nodata=IGNORE,
                resampling=library.enums.Resampling.nearest,
            )  # fmt: skip
            pixels = target
    if (pixels == IGNORE).all():
        raise ManyoneError(f"{path}: gives no pixel of the scene a class")
    return Labels(pixels, tuple(_word(c.item()) for c in codes))


def _check_overlap(path: Path, boxes: list[Extent], scene: Scene, grid: Grid) -> None:
    """Raises where no box (in the scene's reference system) meets the scene."""
    left, bottom, right, top = _extent(grid, scene.shape)
    if any(b[0] < right and b[2] > left and b[1] < top and b[3] > bottom for b in boxes):
        return
    _fail_overlap(path, boxes, grid.crs, scene, grid)


def _fail_overlap(path: Path, boxes: list[Extent], crs: str, scene: Scene, grid: Grid) -> NoReturn:
    """The error that names both extents; ``boxes`` are in ``crs``."""
    ends = np.array(boxes) if boxes else np.full((1, 4), np.nan)
    where = [*ends[:, :2].min(0), *ends[:, 2:].max(0)]
    raise ManyoneError(
        f"{path}: CRS mismatch between labels and scene, or another place: the labels lie at {_box(where)} in "
        f"{_short(crs)}, the scene at {_box(list(_extent(grid, scene.shape)))} in {_short(grid.crs)}; nothing overlaps"
    )


def _extent(grid: Grid, shape: tuple[int, ...]) -> Extent:
    a, b, c, d, e, f = grid.transform
    corners = [(a * x + b * y + c, d * x + e * y + f) for x in (0, shape[1]) for y in (0, shape[0])]
    xs, ys = zip(*corners, strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _needed_grid(scene: Scene) -> Grid:
    if scene.grid is None:
        raise ManyoneError(f"{scene.name}: has no coordinate reference system, so labels cannot be laid over it")
    return scene.grid


def _finite(geometry: dict[str, Any]) -> bool:
    flat = np.fromiter(_numbers(geometry["coordinates"]), float)
    return bool(flat.size) and bool(np.isfinite(flat).all())


def _numbers(nested: Any) -> Any:
    for part in nested:
        if isinstance(part, list | tuple):
            yield from _numbers(part)
        else:
            yield part


def _sorted(values: list[Any]) -> list[Any]:
    unique = set(values)
    numeric = all(isinstance(v, int | float) for v in unique)
    return sorted(unique) if numeric else sorted(unique, key=str)


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float | np.floating) and bool(np.isnan(value))) or value == ""


def _word(value: Any) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _box(ends: list[float]) -> str:
    return f"({ends[0]:.8g}, {ends[1]:.8g}) to ({ends[2]:.8g}, {ends[3]:.8g})"


def _short(crs: str) -> str:
    return crs if len(crs) < 24 else crs[:24] + "..."
