"""Features of single pixels of a scene of any size, without ever holding the features of all of them.

Windows of the encoder's size slide over the scene; each covers a pixel with one vector of its map, and the vectors of
all windows that cover it are averaged:

    f(r, c) = mean over windows W that contain (r, c) of map_W[cell of (r, c) in W]

Windows that no asked pixel lies in are neither read nor encoded. With a margin, what lies nearer than that to the edge
of a window (not of the scene) is not used: features of a small neighbourhood are then those of the scene itself. Of a
whole rectangle ``embed_area`` gives the same vectors quicker.
Public names: :func:`embed_pixels`, :func:`embed_area`, :func:`window_starts`, :func:`cell_of`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from manyone.data.rasters.scenes import Scene, Window
from manyone.earth.spec import Context, Encoder, ModelSpec
from manyone.errors import ManyoneError

Prepare = Callable[[np.ndarray, np.ndarray], Tensor]
"""(pixels float32 [B, C, h, w] in the bands' units, valid bool of the same shape) -> what the encoder reads."""
_ANY = 64  # pixels a side of windows where the encoder takes any size
_SMALLEST_BATCH, _LARGEST_BATCH = 1, 64


def embed_pixels(
    encoder: Encoder,
    scene: Scene,
    pixels: ArrayLike,
    context: Context,
    *,
    size: int | None = None,
    stride: int | None = None,
    margin: int = 0,
    layer: int = -1,
    prepare: Prepare | None = None,
    memory_mb: float = 1024,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], object] | None = None,
) -> np.ndarray:
    """Features float32 [N, D] of ``pixels`` int [N, 2] (row, column) of ``scene``.

    ``size``: side of a window in pixels (default: the encoder's, or 64); ``stride``: from window to window (default:
    half of it, or all of it but the margins); both are cut to the scene. ``margin``: pixels at the edges of a window
    that are read and not used. ``layer``: which of the encoder's maps. ``prepare`` brings pixels to the
    encoder's bands, unit and normalisation (default: 0 where they are not valid). ``memory_mb`` bounds result and
    batches together, without what the network itself needs. ``progress`` is called with (windows done, of how many).
    """
    at = _pixels(pixels, scene.shape)
    size = size or encoder.spec.size or _ANY
    stride = stride or (size - 2 * margin if margin else max(1, size // 2))
    _check_stride(stride, size, margin)
    if prepare is None and encoder.spec.size is not None and min(scene.shape) < encoder.spec.size:
        raise ManyoneError(
            f"{scene.name} has {scene.shape[0]} x {scene.shape[1]} pixels, {encoder.spec.id} reads "
            f"{encoder.spec.size}: enlarge the scene or take another encoder"
        )
    high, wide = min(size, scene.shape[0]), min(size, scene.shape[1])
    windows = _windows(at, scene.shape, (high, wide), stride, margin)
    total = sum(len(columns) for _, columns in windows)
    sums: Tensor | None = None
    counts = torch.zeros(len(at))
    rows, columns = torch.from_numpy(at[:, 0]), torch.from_numpy(at[:, 1])
    done, batch = 0, _SMALLEST_BATCH  # the first batch tells how long a vector is
    for top, lefts in windows:
        position = 0
        while position < len(lefts):
            some = lefts[position : position + batch]
            values = _read(scene, top, some, high, wide, prepare).to(device)
            with torch.inference_mode():
                maps = encoder.maps(values, context)[layer].float().cpu()
            if sums is None:
                batch = _batch(values, maps, len(at), memory_mb)
                sums = torch.zeros(len(at), maps.shape[1])
            for left, one in zip(some, maps, strict=True):
                first, last = _used(top, high, scene.shape[0], margin)
                left_, right_ = _used(left, wide, scene.shape[1], margin)
                near = (rows >= first) & (rows < last) & (columns >= left_) & (columns < right_)
                inside = near.nonzero()[:, 0]
                r = cell_of(rows[inside] - top, high, one.shape[1], encoder.spec)
                c = cell_of(columns[inside] - left, wide, one.shape[2], encoder.spec)
                sums[inside] += one[:, r, c].T
                counts[inside] += 1
            position += len(some)
            done += len(some)
            if progress is not None:
                progress(done, total)
    assert sums is not None
    return sums.div_(counts[:, None]).numpy()


def embed_area(
    encoder: Encoder,
    scene: Scene,
    area: Window,
    context: Context,
    *,
    size: int,
    stride: int,
    margin: int = 0,
    layer: int = -1,
    prepare: Prepare | None = None,
    memory_mb: float = 1024,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Features float32 [D, h, w] of every pixel of ``area``: those that :func:`embed_pixels` gives."""
    _check_stride(stride, size, margin)
    high, wide = min(size, scene.shape[0]), min(size, scene.shape[1])
    bottom, right = area.row + area.height, area.column + area.width
    rows_of = {t: _overlap(_used(t, high, scene.shape[0], margin), (area.row, bottom))
               for t in window_starts(scene.shape[0], high, stride)}  # fmt: skip
    columns_of = {x: _overlap(_used(x, wide, scene.shape[1], margin), (area.column, right))
                  for x in window_starts(scene.shape[1], wide, stride)}  # fmt: skip
    lefts = [x for x, (low, end) in columns_of.items() if low < end]
    sums: Tensor | None = None
    counts = torch.zeros(area.height, area.width)
    batch = _SMALLEST_BATCH
    for top, (first, last) in rows_of.items():
        position = 0
        while position < len(lefts) and first < last:
            some = lefts[position : position + batch]
            values = _read(scene, top, some, high, wide, prepare).to(device)
            with torch.inference_mode():
                maps = encoder.maps(values, context)[layer].float().cpu()
            if sums is None:
                batch = _batch(values, maps, area.height * area.width, memory_mb)
                sums = torch.zeros(maps.shape[1], area.height, area.width)
            down = cell_of(torch.arange(first - top, last - top), high, maps.shape[2], encoder.spec)
            for left, one in zip(some, maps, strict=True):
                low, end = columns_of[left]
                across = cell_of(torch.arange(low - left, end - left), wide, maps.shape[3], encoder.spec)
                part = np.s_[first - area.row : last - area.row, low - area.column : end - area.column]
                sums[(slice(None), *part)] += one[:, down][:, :, across]
                counts[part] += 1
            position += len(some)
    assert sums is not None
    return sums.div_(counts)


def _used(start: int, size: int, length: int, margin: int) -> tuple[int, int]:
    """First and last + 1 of the pixels of a window that are used, along one side of the scene."""
    return start + (margin if start else 0), start + size - (margin if start + size < length else 0)


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> tuple[int, int]:
    return max(one[0], other[0]), min(one[1], other[1])


def _check_stride(stride: int, size: int, margin: int) -> None:
    if not 1 <= stride <= size - 2 * margin:
        raise ManyoneError(f"stride = {stride}: must be from 1 to {size - 2 * margin}, what is used of a window")


def window_starts(length: int, size: int, stride: int) -> list[int]:
    """Where windows begin along a side: every ``stride`` pixels, and one that ends with the side."""
    last = max(0, length - size)
    starts = list(range(0, last + 1, stride))
    return starts if starts[-1] == last else [*starts, last]


def cell_of(offset: Tensor, side: int, cells: int, spec: ModelSpec) -> Tensor:
    """The cell of a map with ``cells`` cells along a side that the pixel ``offset`` of ``side`` lies in.

    Cells are patches of ``spec.patch`` pixels, the last perhaps cut short; where that is not so (an encoder whose
    strides are its own), the side is divided evenly.
    """
    if cells == math.ceil(side / spec.patch):
        return offset // spec.patch
    return offset * cells // side


def _pixels(pixels: ArrayLike, shape: tuple[int, int]) -> np.ndarray:
    at = np.asarray(pixels)
    if at.ndim != 2 or at.shape[1] != 2 or len(at) == 0 or not np.issubdtype(at.dtype, np.integer):
        raise ManyoneError(
            f"pixels of shape {list(at.shape)}, {at.dtype}: must be whole numbers [N, 2], row and column"
        )
    if (at < 0).any() or (at >= shape).any():
        row, column = at[((at < 0) | (at >= shape)).any(1)][0]
        raise ManyoneError(f"pixel ({row}, {column}) is outside a scene of {shape[0]} x {shape[1]} pixels")
    return at.astype(np.int64)


def _windows(
    at: np.ndarray, shape: tuple[int, int], window: tuple[int, int], stride: int, margin: int
) -> list[tuple[int, list[int]]]:
    """(top, lefts) of the windows that a pixel is taken from, strip by strip."""
    high, wide = window
    found = []
    lefts = np.array(window_starts(shape[1], wide, stride))
    low, end = np.array([_used(left, wide, shape[1], margin) for left in lefts.tolist()]).T
    order = np.argsort(at[:, 0], kind="stable")
    rows = at[order, 0]
    for top in window_starts(shape[0], high, stride):
        first, last = _used(top, high, shape[0], margin)
        part = order[np.searchsorted(rows, first) : np.searchsorted(rows, last)]
        columns = np.unique(at[part, 1])
        used = np.searchsorted(columns, low) < np.searchsorted(columns, end)
        if used.any():
            found.append((top, lefts[used].tolist()))
    return found


def _read(scene: Scene, top: int, lefts: list[int], high: int, wide: int, prepare: Prepare | None) -> Tensor:
    """Windows [B, C, high, wide] of one strip, neighbours from one read."""
    values, valid = [], []
    for run in _runs(lefts, wide):
        pixels, good = scene.read(Window(top, run[0], high, run[-1] - run[0] + wide))
        for left in run:
            values.append(pixels[:, :, left - run[0] : left - run[0] + wide])
            valid.append(good[:, :, left - run[0] : left - run[0] + wide])
    if prepare is not None:
        return prepare(np.stack(values), np.stack(valid))
    return torch.from_numpy(np.where(np.stack(valid), np.stack(values), np.float32(0)))


def _runs(lefts: list[int], wide: int) -> Iterator[list[int]]:
    """Splits where two windows do not touch: what lies between is not read."""
    run = [lefts[0]]
    for left in lefts[1:]:
        if left > run[-1] + wide:
            yield run
            run = []
        run.append(left)
    yield run


def _batch(values: Tensor, maps: Tensor, count: int, memory_mb: float) -> int:
    """How many windows fit beside the result; all as float32, the input three times (read, stacked, prepared)."""
    result = 4 * count * maps.shape[1]
    each = 4 * (3 * values[0].numel() + 2 * maps[0].numel())
    free = memory_mb * 2**20 - result
    if free < each:
        raise ManyoneError(
            f"memory_mb = {memory_mb:g}: {count} vectors of {maps.shape[1]} numbers and one window need "
            f"{(result + each) / 2**20:.0f}: ask for fewer pixels at a time or raise it"
        )
    return int(min(_LARGEST_BATCH, free // each))
