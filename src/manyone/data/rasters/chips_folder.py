"""A folder of chips, one folder a class (as EuroSAT comes): CLASS/file.tif, .png or .jpg, all of one size.

What a file's header claims is compared with the first file's before any pixel is decoded.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from manyone.data.rasters.band_names import describe_bands
from manyone.data.rasters.bands import UNITS, Band, Unit
from manyone.data.rasters.geotiff import (
    careful,
    gdal_errors,
    grid_of,
    ground_sampling,
    open_geotiff,
    read_window,
)
from manyone.data.rasters.scenes import About, Chips, Window
from manyone.data.rasters.sensors import Sensor, as_sensor
from manyone.data.rasters.units import check_units, guess_unit
from manyone.engine.extras import need
from manyone.errors import ManyoneError

MOST_CHIPS = 2_000_000
LONGEST_SIDE = 4096
LARGEST_SET = 32 * 1024**3
"""Bytes of all pixels together."""
_GEOTIFF = (".tif", ".tiff")
_PICTURES = (".png", ".jpg", ".jpeg")
_RGB = (
    Band("R", "red", 650.0, sensor="rgb"),
    Band("G", "green", 560.0, sensor="rgb"),
    Band("B", "blue", 470.0, sensor="rgb"),
)
Form = tuple[tuple[int, int, int], str]


def read_chips(
    folder: str | os.PathLike[str],
    sensor: Sensor | str | os.PathLike[str] | None = None,
    unit: Unit | None = None,
    out: Callable[[tuple[int, ...], np.dtype], np.ndarray] = np.empty,
    most: int | None = None,
) -> Chips:
    """All chips of ``folder``; classes and files in sorted order.

    ``sensor`` says what the bands are and ``unit`` what the values are, as in ``open_scene``; 8-bit pictures are dn8.
    ``out(shape, dtype)`` makes the array that the pixels are written to (a memory-mapped one, for example). ``most``:
    read only so many, evenly over all. A file of another size, type or number of bands than the first is an error that
    names it.
    """
    if unit is not None and unit not in UNITS:
        raise ManyoneError(f"unit {unit!r}: must be one of {', '.join(UNITS)}")
    root, classes, files = chip_files(folder)
    first, _ = files[0]
    if most is not None and most < len(files):
        files = [files[i] for i in np.unique(np.linspace(0, len(files) - 1, most).astype(int)).tolist()]
    with careful():
        form = _form(first)
        (count, height, width), kind = form
        size = len(files) * count * height * width * np.dtype(kind).itemsize
        if size > LARGEST_SET:
            raise ManyoneError(
                f"{folder}: {size / 1e9:,.0f} GB of pixels; more than {LARGEST_SET / 1e9:,.0f} are not read"
            )
        pixels = out((len(files), count, height, width), np.dtype(kind))
        invalid: dict[int, np.ndarray] = {}
        places = np.full((len(files), 2), np.nan)
        for at, (path, _) in enumerate(files):
            if (found := _form(path)) != form:
                raise ManyoneError(f"{path}: is {_words(found)}, {first} is {_words(form)}; all chips need one form")
            values, valid, place = _read(path)
            pixels[at] = values
            if not valid.all():
                invalid[at] = valid
            places[at] = place
        bands, notes, gsd = _bands(first, sensor)
    valid_all = None
    if invalid:
        valid_all = np.ones(pixels.shape, bool)
        for at, valid in invalid.items():
            valid_all[at] = valid
    bands, more = _with_unit(bands, unit, pixels, valid_all, first, root.name)
    located = bool(np.isfinite(places).all())
    return Chips(
        name=root.name,
        bands=tuple(bands),
        pixels=pixels,
        target="class",
        targets=np.array([k for _, k in files], np.int64),
        classes=tuple(classes),
        ids=tuple(f"{path.parent.name}/{path.name}" for path, _ in files),
        valid=valid_all,
        places=places if located else None,
        place_unit="degree",
        lonlat=places if located else None,
        gsd_m=gsd,
        about=About(source=str(root), notes=(*notes, *more)),
    )


def chip_files(folder: str | os.PathLike[str]) -> tuple[Path, list[str], list[tuple[Path, int]]]:
    """(the folder, its classes, every chip with the number of its class), sorted. Nothing is opened."""
    root = Path(os.fspath(folder)).expanduser()
    if not root.is_dir():
        raise ManyoneError(f"{folder}: there is no such folder; give one with a folder a class")
    classes = sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    files = [(path, k) for k, name in enumerate(classes) for path in sorted((root / name).iterdir()) if _is_chip(path)]
    if len(classes) < 2 or not files:
        raise ManyoneError(f"{folder}: has {len(classes)} folders with {len(files)} images; give one folder a class")
    if empty := set(range(len(classes))) - {k for _, k in files}:
        raise ManyoneError(f"{root / classes[min(empty)]}: holds no {', '.join((*_GEOTIFF, *_PICTURES))} file")
    if len(files) > MOST_CHIPS:
        raise ManyoneError(f"{folder}: {len(files):,} images; more than {MOST_CHIPS:,} are not read")
    return root, classes, files


def is_chips_folder(folder: str | os.PathLike[str]) -> bool:
    """Whether ``folder`` has folders, and images in one of them at least."""
    root = Path(os.fspath(folder)).expanduser()
    if not root.is_dir():
        return False
    folders = (p for p in root.iterdir() if p.is_dir() and not p.name.startswith("."))
    return any(_is_chip(path) for folder_ in folders for path in folder_.iterdir())


def _is_chip(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() in (*_GEOTIFF, *_PICTURES)


def _form(path: Path) -> Form:
    """((bands, height, width), type) as the header claims, within limits."""
    if path.suffix.lower() in _GEOTIFF:
        with open_geotiff(path) as dataset:
            form: Form = ((dataset.count, *dataset.shape), dataset.dtypes[0])
            if set(dataset.scales) != {1.0} or set(dataset.offsets) != {0.0}:
                raise ManyoneError(f"{path}: has a scale or offset; apply it: gdal_translate -unscale -ot Float32")
    else:
        try:
            with Image.open(path) as image:
                form = ((3, image.height, image.width), "uint8")
        except (OSError, ValueError, Image.DecompressionBombError) as problem:
            raise ManyoneError(f"{path}: is not a picture ({problem}); remove it") from None
    if max(form[0][1:]) > LONGEST_SIDE:
        raise ManyoneError(f"{path}: is {_words(form)}; chips of more than {LONGEST_SIDE} pixels a side are scenes")
    return form


def _read(path: Path) -> tuple[np.ndarray, np.ndarray, tuple[float, float]]:
    """(values [C, H, W], valid, longitude and latitude of the centre)."""
    if path.suffix.lower() in _GEOTIFF:
        with open_geotiff(path) as dataset:
            whole = Window(0, 0, *dataset.shape)
            values, valid = read_window(dataset, range(1, dataset.count + 1), whole, str(path))
            return values, valid, _center(dataset)
    try:
        with Image.open(io.BytesIO(path.read_bytes())) as image:
            values = np.asarray(image.convert("RGB"), np.uint8).transpose(2, 0, 1)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as problem:
        raise ManyoneError(f"{path}: cannot be decoded ({problem}); remove it or copy it anew") from None
    return values, np.ones(values.shape, bool), (np.nan, np.nan)


def _center(dataset: Any) -> tuple[float, float]:
    """Longitude and latitude: files of one set may lie in several zones."""
    if grid_of(dataset) is None:
        return np.nan, np.nan
    at, column, row = dataset.transform, dataset.width / 2, dataset.height / 2
    x, y = at.a * column + at.b * row + at.c, at.d * column + at.e * row + at.f
    try:
        xs, ys = need("rasterio.warp", "reading chips", "earth").transform(dataset.crs, "EPSG:4326", [x], [y])
    except gdal_errors():  # a centre outside of where its own system is defined
        return np.nan, np.nan
    return xs[0], ys[0]


def _bands(first: Path, sensor: Sensor | str | os.PathLike[str] | None) -> tuple[list[Band], list[str], float | None]:
    chosen = None if sensor is None else as_sensor(sensor)
    if first.suffix.lower() in _GEOTIFF:
        with open_geotiff(first) as dataset:
            gsd = ground_sampling(grid_of(dataset), dataset.shape)
            layers = [(first, dataset, list(range(1, dataset.count + 1)), None)]
            bands, notes = describe_bands(layers, chosen, gsd)
        return bands, notes, gsd
    if chosen is None:
        return list(_RGB), [], None
    return [chosen.band(colour) for colour in ("red", "green", "blue")], [], None


def _with_unit(
    bands: list[Band], unit: Unit | None, pixels: np.ndarray, valid: np.ndarray | None, first: Path, name: str
) -> tuple[list[Band], list[str]]:
    """The bands with a declared or guessed unit, and what there is to say; at most 512 chips are looked at."""
    if unit is None and first.suffix.lower() in _PICTURES:
        unit = "dn8"
    some = np.unique(np.linspace(0, len(pixels) - 1, min(512, len(pixels))).astype(int))
    part = np.moveaxis(np.asarray(pixels[some]), 1, 0).reshape(len(bands), -1)
    good = np.isfinite(part) if part.dtype.kind == "f" else np.ones(part.shape, bool)
    if valid is not None:
        good &= np.moveaxis(valid[some], 1, 0).reshape(len(bands), -1)
    if not good.any():
        raise ManyoneError(f"{name}: every pixel is nodata; is the nodata value of the files right?")
    notes = []
    if unit is not None:
        bands = [replace(b, unit=unit) for b in bands]
    elif missing := [i for i, b in enumerate(bands) if b.unit is None and b.kind not in ("thermal", "radar")]:
        maxima = [float(part[i][good[i]].max()) if good[i].any() else np.nan for i in missing]
        guess = guess_unit([bands[i] for i in missing], maxima, name)
        bands = [replace(b, unit=guess.unit) if i in missing else b for i, b in enumerate(bands)]
        notes.append(guess.line)
    return bands, [*notes, *(f"{name}: {line}" for line in check_units(bands, part, good))]


def _words(form: Form) -> str:
    (count, height, width), kind = form
    return f"{count} bands of {height}x{width} {kind}"
