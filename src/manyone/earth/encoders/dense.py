"""Features of single pixels of a scene of any size, without ever holding the features of all of them.

Windows of the encoder's size slide over the scene; each covers a pixel with one vector of its map, and the vectors of
all windows that cover it are averaged:

    f(r, c) = mean over windows W that contain (r, c) of map_W[cell of (r, c) in W]

Windows that no asked pixel lies in are neither read nor encoded. Public names: :func:`embed_pixels`,
:func:`window_starts`, :func:`cell_of`.
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
    layer: int = -1,
    prepare: Prepare | None = None,
    memory_mb: float = 1024,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], object] | None = None,
) -> np.ndarray:
    """Features float32 [N, D] of ``pixels`` int [N, 2] (row, column) of ``scene``.

    ``size``: side of a window in pixels (default: the encoder's, or 64); ``stride``: from window to window (default:
    half of it); both are cut to the scene. ``layer``: which of the encoder's maps. ``prepare`` brings pixels to the
    encoder's bands, unit and normalisation (default: 0 where they are not valid). ``memory_mb`` bounds result and
    batches together, without what the network itself needs. ``progress`` is called with (windows done, of how many).
    """
    at = _pixels(pixels, scene.shape)
    size = size or encoder.spec.size or _ANY
    stride = stride or max(1, size // 2)
    if not 1 <= stride <= size:
        raise ManyoneError(f"stride = {stride}: must be from 1 to the size of the window, {size}")
    if encoder.spec.size is not None and min(scene.shape) < encoder.spec.size:
        raise ManyoneError(
            f"{scene.name} has {scene.shape[0]} x {scene.shape[1]} pixels, {encoder.spec.id} reads "
            f"{encoder.spec.size}: enlarge the scene or take another encoder"
        )
    high, wide = min(size, scene.shape[0]), min(size, scene.shape[1])
    windows = _windows(at, scene.shape, (high, wide), stride)
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
                inside = ((rows >= top) & (rows < top + high) & (columns >= left) & (columns < left + wide)).nonzero()[
                    :, 0
                ]
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
    at: np.ndarray, shape: tuple[int, int], window: tuple[int, int], stride: int
) -> list[tuple[int, list[int]]]:
    """(top, lefts) of the windows that hold a pixel, strip by strip."""
    high, wide = window
    found = []
    lefts = np.array(window_starts(shape[1], wide, stride))
    order = np.argsort(at[:, 0], kind="stable")
    rows = at[order, 0]
    for top in window_starts(shape[0], high, stride):
        part = order[np.searchsorted(rows, top) : np.searchsorted(rows, top + high)]
        columns = np.unique(at[part, 1])
        used = np.searchsorted(columns, lefts) < np.searchsorted(columns, lefts + wide)
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
