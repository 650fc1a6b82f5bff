"""A user's own image: a GeoTIFF of any size (or several files of one band each), read by windows.

What its bands are comes from, in this order: the sensor that is named, wavelengths in the file's metadata, the bands'
descriptions, the colours of an RGB image. What its values are comes from the unit that is named, the bands' own units,
the sensor file, and only then from a guess, which ``notes`` says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from manyone.data.rasters.band_names import describe_bands
from manyone.data.rasters.bands import UNITS, Band, Unit
from manyone.data.rasters.geotiff import (
    alpha_band,
    careful,
    check_size,
    grid_of,
    ground_sampling,
    local_file,
    open_geotiff,
    read_window,
    spread_windows,
)
from manyone.data.rasters.scenes import Window
from manyone.data.rasters.sensors import Sensor, as_sensor
from manyone.data.rasters.units import check_units, guess_unit
from manyone.errors import ManyoneError

_SAMPLES = 5  # windows a side that a scene is sampled by
_SAMPLE_SIDE = 256
Place = str | os.PathLike[str]


class GeoTiffScene:
    """A :class:`~manyone.data.rasters.scenes.Scene` on disk. Close it, or use it in a ``with``."""

    def __init__(self, paths: Sequence[Path], words: dict[str, Any]) -> None:
        self.paths = tuple(paths)
        self.name = paths[0].stem if len(paths) == 1 else f"{paths[0].stem} and {len(paths) - 1} more"
        self.time: float | None = words.get("time")
        self.bands: tuple[Band, ...] = ()
        self.notes: tuple[str, ...] = ()
        """What must be known: a guessed unit, a missing reference system, odd values."""
        self._words = words
        self._open()
        first = self._datasets[0]
        self.shape: tuple[int, int] = first.shape
        self.grid = grid_of(first)
        self.gsd_m = ground_sampling(self.grid, self.shape)
        self.block: tuple[int, int] = first.block_shapes[0]
        """Height and width of the file's tiles or strips: what reads fastest."""
        for path, other in zip(self.paths[1:], self._datasets[1:], strict=True):
            if (other.shape, grid_of(other)) != (self.shape, self.grid):
                raise ManyoneError(
                    f"{path}: {other.shape} pixels at {_corner(other)}, but {self.paths[0]} has {self.shape} at "
                    f"{_corner(first)}; files of one image need one grid (gdalwarp -te ... -tr ...)"
                )

    def _open(self) -> None:
        self._process = os.getpid()
        with careful():
            self._datasets = [open_geotiff(path) for path in self.paths]
            alphas = [alpha_band(d, str(path)) for path, d in zip(self.paths, self._datasets, strict=True)]
        self._layers = [
            (path, dataset, [i for i in range(1, dataset.count + 1) if i != alpha], alpha)
            for path, dataset, alpha in zip(self.paths, self._datasets, alphas, strict=True)
        ]

    @property
    def layers(self) -> list[tuple[Path, Any, list[int], int | None]]:
        """(file, rasterio's dataset, numbers of its bands, number of its alpha band) a file; for metadata."""
        return self._layers

    def read(self, window: Window | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`~manyone.data.rasters.scenes.Scene`; scale and offset of the file are applied."""
        at = window or Window(0, 0, *self.shape)
        end = at.row + at.height, at.column + at.width
        if (
            min(at.row, at.column) < 0
            or min(at.height, at.width) < 1
            or end[0] > self.shape[0]
            or end[1] > self.shape[1]
        ):
            raise ManyoneError(f"{self.name}: {at} does not lie in its {self.shape[0]}x{self.shape[1]} pixels")
        count = sum(len(indexes) for _, _, indexes, _ in self._layers)
        check_size((at.height, at.width), count, self._datasets[0].dtypes[0], self.name)
        if self._process != os.getpid():
            self._open()  # GDAL's handles do not survive a fork
        pixels = np.empty((count, at.height, at.width), np.float32)
        valid = np.empty(pixels.shape, bool)
        start = 0
        with careful():
            for path, dataset, indexes, alpha in self._layers:
                part = np.s_[start : start + len(indexes)]
                values, valid[part] = read_window(dataset, indexes, at, str(path), alpha)
                for position, index in enumerate(indexes):
                    scale, offset = dataset.scales[index - 1], dataset.offsets[index - 1]
                    # float64 in between: 2.75e-5 v - 0.2 loses three digits in float32
                    pixels[start + position] = (
                        values[position] if (scale, offset) == (1, 0) else values[position] * float(scale) + offset
                    )
                start += len(indexes)
        return pixels, valid

    def close(self) -> None:
        """Gives the files back."""
        for dataset in self._datasets:
            dataset.close()

    def __enter__(self) -> GeoTiffScene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> tuple[Any, ...]:
        return _reopen, (self.paths, self._words)


def open_scene(
    path: Place | Sequence[Place],
    sensor: Sensor | Place | None = None,
    unit: Unit | None = None,
    *,
    time: float | None = None,
    strict: bool = True,
) -> GeoTiffScene:
    """A GeoTIFF, or files of one band each ("b2.tif,b3.tif" or a list), as a scene.

    ``sensor`` is a name, a :class:`Sensor` or a YAML file; ``unit`` is what the values are once scale and offset of
    the file are applied; ``time`` is in days since 1970-01-01. Without ``strict`` a unit that is not clear is left
    open, with a note. Raises :class:`ManyoneError` for what is no GeoTIFF, has no valid pixel, or whose unit is neither
    declared nor clear.
    """
    if unit is not None and unit not in UNITS:
        raise ManyoneError(f"unit {unit!r}: must be one of {', '.join(UNITS)}")
    return _reopen(_files(path), {"sensor": sensor, "unit": unit, "time": time, "strict": strict})


@dataclass(frozen=True)
class SceneSample:
    """Pixels of windows that lie evenly over a scene."""

    pixels: np.ndarray
    """float32 [C, n], in the bands' units."""
    valid: np.ndarray
    """bool [C, n]."""
    complete: bool
    """Whether these are all pixels."""

    @property
    def maxima(self) -> np.ndarray:
        """float64 [C]: the largest valid value of each band; NaN where there is none."""
        masked = np.where(self.valid, self.pixels, -np.inf).max(axis=1, initial=-np.inf).astype(np.float64)
        return np.where(np.isfinite(masked), masked, np.nan)


def sample_scene(scene: GeoTiffScene) -> SceneSample:
    """All pixels of a small scene; about 1.6 million, in windows that lie evenly, of a larger one."""
    height, width = scene.shape
    whole = height * width <= (_SAMPLES * _SAMPLE_SIDE) ** 2
    windows = [Window(0, 0, height, width)]
    if not whole:
        windows = spread_windows(scene.shape, scene.block, _SAMPLES, _SAMPLE_SIDE)
    parts = [scene.read(window) for window in windows]
    count = len(parts[0][0])
    pixels, valid = (np.concatenate([p[k].reshape(count, -1) for p in parts], axis=1) for k in (0, 1))
    return SceneSample(pixels, valid, whole)


def aligned_windows(scene: GeoTiffScene, side: int) -> Iterator[Window]:
    """Windows that cover the scene once, about ``side`` pixels a side and made of whole blocks of its file."""
    steps = [max(1, round(side / block)) * block for block in scene.block]
    steps = [min(step, 16 * side, n) for step, n in zip(steps, scene.shape, strict=True)]
    for row in range(0, scene.shape[0], steps[0]):
        for column in range(0, scene.shape[1], steps[1]):
            yield Window(row, column, min(steps[0], scene.shape[0] - row), min(steps[1], scene.shape[1] - column))


def _files(path: Place | Sequence[Place]) -> list[Path]:
    if not isinstance(path, str | os.PathLike):
        places = list(path)
    elif "," in os.fspath(path) and not Path(os.fspath(path)).exists():
        places = [part.strip() for part in os.fspath(path).split(",") if part.strip()]
    else:
        places = [path]
    if not places:
        raise ManyoneError("path: no file is named; give a GeoTIFF")
    return [local_file(place) for place in places]


def _reopen(paths: Sequence[Path], words: dict[str, Any]) -> GeoTiffScene:
    scene = GeoTiffScene(paths, words)
    try:
        _describe(scene, words["sensor"], words["unit"], words["strict"])
    except ManyoneError:
        scene.close()
        raise
    return scene


def _describe(scene: GeoTiffScene, sensor: Sensor | Place | None, unit: Unit | None, strict: bool) -> None:
    """Fills in the scene's bands and notes."""
    bands, notes = describe_bands(scene.layers, None if sensor is None else as_sensor(sensor), scene.gsd_m)
    if scene.grid is None:
        notes.append(
            f"{scene.name}: no coordinate reference system: labels of another file cannot be laid over it "
            f"(gdal_edit.py -a_srs EPSG:... adds one)"
        )
    sample = sample_scene(scene)
    if not sample.valid.any():
        if sample.complete:
            raise ManyoneError(f"{scene.name}: every pixel is nodata; is the nodata value right?")
        notes.append(f"{scene.name}: every pixel of {sample.valid.shape[1]:,} that were looked at is nodata")
    if unit is not None:
        bands = [b if b.kind == "thermal" and b.unit == "kelvin" else replace(b, unit=unit) for b in bands]
    open_ = [b for b in bands if b.unit is None and b.kind not in ("thermal", "radar")]
    if open_ and sample.valid.any():
        maxima = dict(zip((b.name for b in bands), sample.maxima, strict=True))
        try:
            guess = guess_unit(open_, [maxima[b.name] for b in open_], scene.name)
        except ManyoneError as problem:
            if strict:
                raise
            notes.append(str(problem))
        else:
            notes.append(guess.line)
            bands = [replace(b, unit=guess.unit) if b in open_ else b for b in bands]
    notes += [f"{scene.name}: {line}" for line in check_units(bands, sample.pixels, sample.valid, scene.time)]
    scene.bands, scene.notes = tuple(bands), tuple(notes)


def _corner(dataset: Any) -> str:
    crs = dataset.crs.to_string()[:24] if dataset.crs else "no reference system"
    return f"({dataset.transform.c:g}, {dataset.transform.f:g}) {crs}"
