"""GeoTIFF files: opened without trusting them, read by windows, written whole or not at all.

Only the GTiff driver is allowed (a cloud-optimised GeoTIFF is one): no VRT or other format can lead GDAL to a second
file, no sidecar file is looked for, and nothing is fetched. What a header claims is compared with limits before
anything is allocated.
"""

from __future__ import annotations

import contextlib
import math
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from manyone.data.rasters.scenes import Grid, Window
from manyone.engine.extras import need
from manyone.engine.files import part_beside
from manyone.errors import ManyoneError

LARGEST_BLOCK = 512 * 1024**2
"""Bytes of one tile or strip: GDAL holds at least one in memory."""
LARGEST_READ = 4 * 1024**3
"""Bytes that one call of ``read`` may allocate."""
MOST_BANDS = 2048
LONGEST_SIDE = 2_000_000
"""Pixels a side; 20,000 km at 10 m."""
_CACHE_MB = 128
_DTYPES = ("uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64")


def rasterio() -> Any:
    """The library that reads rasters; it comes with the extra ``earth``."""
    return need("rasterio", "reading and writing GeoTIFF", "earth")


def gdal_errors(*more: type[Exception]) -> tuple[type[Exception], ...]:
    """What rasterio raises, and ``more``; some of GDAL's own errors reach Python under no public name."""
    library = rasterio()
    return library.errors.RasterioError, library.errors.CRSError, library._err.CPLE_BaseError, *more


@contextlib.contextmanager
def careful() -> Iterator[None]:
    """GDAL's settings while it handles a file of somebody else."""
    library = rasterio()
    session = need("rasterio.session", "reading GeoTIFF", "earth").DummySession()
    settings = {
        "GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR",
        "GDAL_PAM_ENABLED": "NO",
        "GDAL_CACHEMAX": _CACHE_MB,
        "GDAL_NUM_THREADS": "1",
    }
    with library.Env(session=session, **settings), warnings.catch_warnings():
        warnings.simplefilter("ignore", library.errors.NotGeoreferencedWarning)
        yield


def local_file(path: str | os.PathLike[str]) -> Path:
    """``path``, if it is an ordinary file of this machine."""
    text = os.fspath(path)
    if text.startswith("/vsi") or "://" in text:
        raise ManyoneError(f"{text}: only files of this machine are read; download it and give the path")
    place = Path(text).expanduser().absolute()
    if not place.is_file():
        raise ManyoneError(f"{text}: there is no such file; correct the path")
    return place


def open_geotiff(path: str | os.PathLike[str]) -> Any:
    """rasterio's dataset of a GeoTIFF, after its header has been checked. Called, and used, inside :func:`careful`."""
    place = local_file(path)
    library = rasterio()
    try:
        dataset = library.open(str(place), driver="GTiff", sharing=False)
    except gdal_errors(ValueError) as problem:
        with place.open("rb") as file:
            head = file.read(4)
        kind = "a damaged TIFF" if head[:2] in (b"II", b"MM") else "not a TIFF"
        raise ManyoneError(f"{path}: {kind} ({_reason(problem)}); only GeoTIFF files are read") from None
    try:
        _check_header(dataset, str(path))
    except ManyoneError:
        dataset.close()
        raise
    return dataset


def _check_header(dataset: Any, path: str) -> None:
    if dataset.count < 1:
        raise ManyoneError(f"{path}: has no bands; give an image")
    if dataset.count > MOST_BANDS:
        raise ManyoneError(f"{path}: claims {dataset.count:,} bands; more than {MOST_BANDS:,} are not read")
    if max(dataset.shape) > LONGEST_SIDE:
        raise ManyoneError(f"{path}: claims {dataset.shape} pixels; more than {LONGEST_SIDE:,} a side are not read")
    if odd := [t for t in dataset.dtypes if t not in _DTYPES]:
        raise ManyoneError(f"{path}: its values are {odd[0]}; write real numbers (an amplitude, decibels) instead")
    interleaved = dataset.count if dataset.interleaving and "pixel" in str(dataset.interleaving).lower() else 1
    high, wide = max(dataset.block_shapes, key=lambda b: b[0] * b[1])
    size = high * wide * interleaved * max(np.dtype(t).itemsize for t in dataset.dtypes)
    if size > LARGEST_BLOCK:
        raise ManyoneError(
            f"{path}: its blocks of {high}x{wide} pixels take {size / 1e6:,.0f} MB each; "
            f"tile it: gdal_translate -co TILED=YES {path} tiled.tif"
        )


def grid_of(dataset: Any) -> Grid | None:
    """Where its pixels lie; None without a coordinate reference system or with rotation that cannot be inverted."""
    crs, at = dataset.crs, dataset.transform
    if crs is None or not crs.to_wkt() or at.is_degenerate:
        return None
    return Grid(_code(crs.to_wkt()), (at.a, at.b, at.c, at.d, at.e, at.f))


@lru_cache(maxsize=64)
def _code(wkt: str) -> str:
    """ "EPSG:..." where the system is exactly that one, else its WKT; looking it up takes a tenth of a second."""
    code = rasterio().crs.CRS.from_wkt(wkt).to_epsg(confidence_threshold=100)
    return f"EPSG:{code}" if code else wkt


def ground_sampling(grid: Grid | None, shape: tuple[int, int]) -> float | None:
    """Metres a pixel at the centre of the raster; None without a grid."""
    if grid is None:
        return None
    a, b, _, d, e, f = grid.transform
    side = math.sqrt(abs(a * e - b * d))
    crs = rasterio().crs.CRS.from_user_input(grid.crs)
    if not crs.is_geographic:
        try:
            return side * float(crs.linear_units_factor[1])
        except gdal_errors():  # a system of another kind (heights, none): nobody knows how long its units are
            return None
    latitude = f + d * shape[1] / 2 + e * shape[0] / 2
    return side * 111_320.0 * math.sqrt(max(math.cos(math.radians(latitude)), 1e-6))


def read_window(
    dataset: Any, indexes: Sequence[int], window: Window, path: str, mask: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """(values [C, h, w] of the file's own type, valid bool [C, h, w]) of the bands ``indexes`` (the first is 1).

    ``mask`` is the number of an alpha band. Called inside :func:`careful`; a damaged block is one line.
    """
    library = rasterio()
    at = library.windows.Window(window.column, window.row, window.width, window.height)
    try:
        values = dataset.read(list(indexes), window=at)
        valid = np.isfinite(values) if values.dtype.kind == "f" else np.ones(values.shape, bool)
        flags = library.enums.MaskFlags
        for position, index in enumerate(indexes):
            said = dataset.mask_flag_enums[index - 1]
            if flags.all_valid not in said and flags.alpha not in said:  # an alpha band is the caller's to judge
                valid[position] &= dataset.read_masks(index, window=at) > 0
        if mask is not None:
            valid &= dataset.read(mask, window=at) > 0
    except gdal_errors(MemoryError) as problem:
        cause = problem.__cause__ or problem
        raise ManyoneError(
            f"{path}: rows {window.row} to {window.row + window.height - 1}, columns {window.column} to "
            f"{window.column + window.width - 1} cannot be read ({_reason(cause)}); the file is damaged: copy it anew"
        ) from None
    return values, valid


@contextlib.contextmanager
def open_geotiff_bytes(raw: bytes, name: str) -> Iterator[Any]:
    """The dataset of a GeoTIFF in memory, its header checked. Used inside :func:`careful`."""
    library = rasterio()
    with library.MemoryFile(raw) as memory:
        try:
            dataset = library.open(memory.name, driver="GTiff")
        except gdal_errors() as problem:
            raise ManyoneError(f"{name}: not a GeoTIFF ({_reason(problem)}); fetch it again") from None
        with dataset:
            _check_header(dataset, name)
            yield dataset


@contextlib.contextmanager
def sound_header(path: object) -> Iterator[None]:
    """Names the file when GDAL finds out, while a header is read, that it is damaged."""
    try:
        yield
    except gdal_errors() as problem:
        raise ManyoneError(f"{path}: damaged GeoTIFF ({_reason(problem)}); copy it anew") from None


def alpha_band(dataset: Any, path: str) -> int | None:
    """The number of the band that says which pixels are there, or None. Used inside :func:`careful`.

    GDAL marks the fourth band of any four of 8 bits as opacity, a near infrared too: only one that holds nothing but
    the least and the largest value, where it is looked at, is believed to be that.
    """
    with sound_header(path):
        kinds = dataset.colorinterp
    found = [i for i, kind in enumerate(kinds, 1) if kind == rasterio().enums.ColorInterp.alpha]
    if not found or len(kinds) == 1 or dataset.descriptions[found[0] - 1]:
        return None
    full = 0
    for window in spread_windows(dataset.shape, dataset.block_shapes[0], 5):
        values, _ = read_window(dataset, found, window, path)
        most = np.iinfo(values.dtype).max if values.dtype.kind in "iu" else 1
        full += int((values == most).sum())
        if not np.isin(values, (0, most)).all():
            return None
    return found[0] if full else None


def spread_windows(shape: tuple[int, int], block: tuple[int, int], rows: int, side: int = 256) -> list[Window]:
    """Windows of about ``side`` squared pixels that lie evenly over a raster, about ``rows`` squared of them.

    In a file of strips they are a few whole rows each: a square would decode strips for pixels that it does not use.
    """
    strips = block[1] >= shape[1]
    high, wide = min(side, shape[0]), min(side, shape[1])
    if strips and shape[1] > side:
        high, wide = max(1, min(side * side // shape[1], shape[0])), shape[1]
    starts = np.linspace(0, shape[0] - high, rows * rows if strips else rows)
    tops = sorted({round(x) for x in starts})
    lefts = sorted({round(x) for x in np.linspace(0, shape[1] - wide, rows)})
    return [Window(top, left, high, wide) for top in tops for left in lefts]


def read_geotiff(raw: bytes, name: str) -> tuple[np.ndarray, np.ndarray, Grid | None]:
    """All of a small GeoTIFF in memory: (values [C, H, W], valid bool [C, H, W], grid); what packages carry."""
    with careful(), open_geotiff_bytes(raw, name) as dataset:
        check_size(dataset.shape, dataset.count, dataset.dtypes[0], name)
        whole = Window(0, 0, *dataset.shape)
        values, valid = read_window(dataset, range(1, dataset.count + 1), whole, name)
        return values, valid, grid_of(dataset)


def check_size(shape: tuple[int, int], bands: int, dtype: str, name: str) -> None:
    """Raises where reading these pixels at once would take more than :data:`LARGEST_READ`."""
    size = shape[0] * shape[1] * bands * (np.dtype(dtype).itemsize + 4 + 1)
    if size > LARGEST_READ:
        raise ManyoneError(
            f"{name}: {bands} bands of {shape[0]:,}x{shape[1]:,} pixels at once take {size / 1e9:,.0f} GB; "
            f"read it by windows"
        )


def write_raster(
    path: str | os.PathLike[str],
    array: np.ndarray,
    grid: Grid | None = None,
    *,
    names: Sequence[str] = (),
    nodata: float | None = None,
    colours: Mapping[int, tuple[int, int, int]] | None = None,
    tags: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Path:
    """Writes ``array`` ([H, W] or [C, H, W]) as a tiled, compressed GeoTIFF; the file is there whole or not at all.

    ``names`` become the bands' descriptions; ``colours`` (class -> red, green, blue) make a uint8 array of one band a
    map that every viewer shows in these colours.
    """
    values = array[None] if array.ndim == 2 else array
    if values.ndim != 3:
        raise ManyoneError(f"array: of shape {array.shape}; must be [H, W] or [C, H, W]")
    words: dict[str, Any] = {"names": names, "nodata": nodata, "colours": colours, "tags": tags, "overwrite": overwrite}
    with raster_writer(path, values.shape, values.dtype.name, grid, **words) as write:
        write(Window(0, 0, *values.shape[1:]), values)
    return Path(os.fspath(path)).expanduser()


@contextlib.contextmanager
def raster_writer(
    path: str | os.PathLike[str],
    shape: tuple[int, ...],
    dtype: str,
    grid: Grid | None = None,
    *,
    names: Sequence[str] = (),
    nodata: float | None = None,
    colours: Mapping[int, tuple[int, int, int]] | None = None,
    tags: Mapping[str, str] | None = None,
    overwrite: bool = False,
) -> Iterator[Callable[[Window, np.ndarray], None]]:
    """Writes a raster of ``shape`` (C, H, W) piece by piece: gives a function of a window and its values [C, h, w].

    The file gets its name when the block ends without an error. See :func:`write_raster`.
    """
    place = Path(os.fspath(path)).expanduser()
    count, height, width = shape
    if 0 in shape or dtype not in _DTYPES:
        raise ManyoneError(f"array: {dtype} of shape {shape}; must hold real numbers and not be empty")
    if names and len(names) != count:
        raise ManyoneError(f"names: {len(names)} for {count} bands; give one a band")
    if colours is not None and (count != 1 or dtype != "uint8"):
        raise ManyoneError(f"colours: are for one band of uint8, not {count} of {dtype}")
    if place.exists() and not overwrite:
        raise ManyoneError(f"{place}: is there already; give another name or --overwrite")
    if not place.parent.is_dir():
        raise ManyoneError(f"{place.parent}: there is no such folder; make it first")
    library = rasterio()
    profile: dict[str, Any] = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": dtype}
    profile |= {"compress": "deflate", "bigtiff": "if_safer", "nodata": nodata}
    if min(height, width) >= 256:
        profile |= {"tiled": True, "blockxsize": 256, "blockysize": 256}
    if grid is not None:
        profile |= {"crs": grid.crs, "transform": library.Affine(*grid.transform)}
    try:
        with part_beside(place) as part:
            with careful(), library.open(str(part / place.name), "w", **profile) as dataset:
                for index, text in enumerate(names, 1):
                    dataset.set_band_description(index, text)
                if colours is not None:
                    dataset.write_colormap(1, {k: (*rgb, 255) for k, rgb in colours.items()})
                dataset.update_tags(**(tags or {}))

                def write(window: Window, values: np.ndarray) -> None:
                    at = library.windows.Window(window.column, window.row, window.width, window.height)
                    dataset.write(values, window=at)

                yield write
            (part / place.name).replace(place)
    except gdal_errors(OSError) as problem:
        raise ManyoneError(f"{place}: cannot be written ({_reason(problem)}); is the disk full?") from None


def _reason(problem: BaseException) -> str:
    """The first line of what GDAL says, without the path, which the message has already."""
    line = next(iter(str(problem).splitlines()), type(problem).__name__).strip()
    return line.rpartition(": ")[2].rstrip(".") or type(problem).__name__
