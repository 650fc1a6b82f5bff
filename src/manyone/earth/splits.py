"""Spatial splits: which samples train, choose and test, and which block of ground each sample lies in.

Neighbouring pixels are nearly copies of each other: a random split of one scene's pixels tests on what it has trained
on (it lifts nearest neighbours by ten points and reverses rankings), so ``block`` is the default and ``random`` warns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from manyone.errors import ManyoneError
from manyone.randomness import seed_for

Kind = Literal["random", "block", "strip", "given"]
SHARES = (0.60, 0.15, 0.25)
"""Of train, val and test."""
_NAMES = ("train", "val", "test")


@dataclass(frozen=True)
class Splits:
    """Positions of samples (int64, sorted); what a buffer removed is in none of the three."""

    train: np.ndarray
    val: np.ndarray
    test: np.ndarray
    kind: Kind
    blocks: np.ndarray | None = None
    """int64 [N]: the block that each sample lies in, for intervals over blocks; None: samples have no places."""
    warnings: tuple[str, ...] = ()

    @property
    def test_blocks(self) -> np.ndarray | None:
        """Blocks of the test samples."""
        return None if self.blocks is None else self.blocks[self.test]


def random_split(
    n: int,
    *,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    labels: np.ndarray | None = None,
    places: np.ndarray | None = None,
    block: float = 32,
    scenes: np.ndarray | None = None,
) -> Splits:
    """Every sample for itself. With ``places`` it warns of leakage (and knows the blocks for intervals)."""
    order = np.random.default_rng(seed_for(seed, "random split")).permutation(n)
    ends = np.round(np.cumsum(_checked(shares)) * n).astype(int)
    part = np.empty(n, dtype=np.int8)
    part[order] = np.searchsorted(ends, np.arange(n), side="right").clip(max=2)
    if places is None:
        return _made(part, "random", None, (), labels)
    warning = "random split of places: train and test are neighbours, scores are too high; use block splits"
    return _made(part, "random", _blocks(places, block, scenes)[0], (warning,), labels)


def block_split(
    places: np.ndarray,
    *,
    block: float = 32,
    buffer: float = 0,
    shares: Sequence[float] = SHARES,
    seed: int = 0,
    labels: np.ndarray | None = None,
    scenes: np.ndarray | None = None,
) -> Splits:
    """Square blocks with sides of ``block`` (in the unit of ``places``), dealt out by a seeded permutation.

    ``places`` [N, 2]: integer arrays are rows and columns of pixels, whose centres lie half a pixel further; floats are
    metres or degrees. ``scenes`` int [N]: the scene of each place, where there are several. ``buffer``: samples nearer
    than that to a block of another part are left out; with the radius of the samples' windows, none of train shares a
    pixel with one of test.
    """
    ids, cells, inside = _blocks(places, block, scenes)
    if not 0 <= buffer < block / 2:
        raise ManyoneError(f"buffer: {buffer:g} leaves nothing of blocks of {block:g}; choose 0 to below {block / 2:g}")
    count = len(cells)
    if count < 3:
        raise ManyoneError(
            f"block: {block:g} makes {count} block(s), three parts need at least 3; choose a smaller one"
        )
    order = np.random.default_rng(seed_for(seed, "block split")).permutation(count)
    ends = np.round(np.cumsum(_checked(shares)) * count).astype(int)
    ends[0] = min(max(ends[0], 1), count - 2)
    ends[1] = min(max(ends[1], ends[0] + 1), count - 1)  # none of the three is empty
    part_of = np.empty(count, dtype=np.int8)
    part_of[order] = np.searchsorted(ends, np.arange(count), side="right").clip(max=2)
    part = part_of[ids].copy()
    warnings = []
    if buffer:
        near = _near_others(ids, cells, inside, part_of, block, buffer)
        part[near] = -1
        warnings.append(f"buffer of {buffer:g}: {int(near.sum())} of {len(part)} samples left out")
    return _made(part, "block", ids, tuple(warnings), labels)


def strip_split(
    places: np.ndarray,
    *,
    axis: int = 0,
    block: float = 32,
    shares: Sequence[float] = SHARES,
    labels: np.ndarray | None = None,
    scenes: np.ndarray | None = None,
) -> Splits:
    """Three strips across ``axis`` of the places (0: rows or x): the hardest split, classes shift along it."""
    ids = _blocks(places, block, scenes)[0]
    along = np.asarray(places)[:, axis]
    ends = np.quantile(along, np.cumsum(_checked(shares))[:2], method="lower")
    return _made(np.searchsorted(ends, along, side="left").astype(np.int8), "strip", ids, (), labels)


def given_split(
    given: Mapping[str, np.ndarray],
    n: int,
    *,
    labels: np.ndarray | None = None,
    blocks: np.ndarray | None = None,
    seed: int = 0,
) -> Splits:
    """An official split; without ``val`` a fifth of its train is drawn for that (and said)."""
    if not {"train", "test"} <= set(given):
        raise ManyoneError(f"given: has {', '.join(given) or 'nothing'}; a split needs train and test")
    part, warnings = np.full(n, -1, dtype=np.int8), []
    for number, name in enumerate(_NAMES):
        at = np.asarray(given.get(name, ()), dtype=np.int64)
        if at.size and not (at.min() >= 0 and at.max() < n):
            raise ManyoneError(f"given[{name!r}]: positions must be 0 to {n - 1}, got {at.min()} to {at.max()}")
        if (part[at] >= 0).any() or len(np.unique(at)) != len(at):
            raise ManyoneError(f"given[{name!r}]: a sample stands in it twice or in another part too; list it once")
        part[at] = number
    if "val" not in given:
        train = np.flatnonzero(part == 0)
        drawn = np.random.default_rng(seed_for(seed, "val of given")).permutation(train)[: len(train) // 5]
        part[drawn] = 1
        warnings.append(f"the given split has no val: {len(drawn)} of its {len(train)} training samples became it")
    return _made(part, "given", blocks, tuple(warnings), labels)


def _checked(shares: Sequence[float]) -> Sequence[float]:
    if len(shares) != 3 or min(shares) <= 0 or abs(sum(shares) - 1) > 1e-9:
        raise ManyoneError(f"shares: {tuple(shares)} must be three positive numbers that add up to 1")
    return shares


def _blocks(places: np.ndarray, block: float, scenes: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(block of each sample [N], (scene, row, column) of each block [B, 3], place inside the block [N, 2])."""
    places = np.asarray(places)
    if places.ndim != 2 or places.shape[1] != 2 or not len(places):
        raise ManyoneError(f"places: shape {places.shape}; give one row of two coordinates for each sample")
    if not block > 0:
        raise ManyoneError(f"block: {block:g} is no side of a square; give a positive length in the unit of the places")
    x = places + 0.5 if places.dtype.kind in "iu" else places.astype(np.float64)
    if not np.isfinite(x).all():
        raise ManyoneError("places: some are NaN or infinite; leave these samples out or use a random split")
    cell = np.floor(x / block)
    scene = np.zeros(len(x)) if scenes is None else np.asarray(scenes)
    corners = np.column_stack([scene, cell]).astype(np.int64)
    low = corners.min(0)
    sides = corners.max(0) - low + 1
    # as one number each: sorting rows of three takes seconds for the millions of pixels of an aerial image
    numbers, ids = np.unique(np.ravel_multi_index(tuple((corners - low).T), sides), return_inverse=True)
    cells = np.column_stack(np.unravel_index(numbers, sides)) + low
    return ids.reshape(-1), cells, x - cell * block


def _near_others(
    ids: np.ndarray, cells: np.ndarray, inside: np.ndarray, part_of: np.ndarray, block: float, buffer: float
) -> np.ndarray:
    """bool [N]: nearer than ``buffer`` (in rows or columns: windows are squares) to a block of another part."""
    number = {tuple(cell): i for i, cell in enumerate(cells.tolist())}
    near = np.zeros(len(ids), dtype=bool)
    low, high = inside < buffer, inside > block - buffer
    for down, right in [(a, b) for a in (-1, 0, 1) for b in (-1, 0, 1) if a or b]:
        beside = [number.get((s, r + down, c + right), -1) for s, r, c in cells.tolist()]
        other = np.array([b >= 0 and part_of[b] != part_of[i] for i, b in enumerate(beside)])
        at = other[ids]
        for axis, way in enumerate((down, right)):
            if way:
                at = at & (low if way < 0 else high)[:, axis]
        near |= at
    return near


def _made(
    part: np.ndarray, kind: Kind, blocks: np.ndarray | None, warnings: tuple[str, ...], labels: np.ndarray | None
) -> Splits:
    """Checks that no part is empty and that train has every class (int labels [N] alone have classes)."""
    train, val, test = (np.flatnonzero(part == i) for i in range(3))
    for name, at in zip(_NAMES, (train, val, test)):
        if not len(at):
            raise ManyoneError(f"{kind} split: {name} is empty; use smaller blocks, another seed or other shares")
    if labels is not None and np.ndim(labels) == 1 and np.asarray(labels).dtype.kind in "iub":
        labels = np.asarray(labels)
        known = np.unique(labels[train])
        for name, at in (("val", val), ("test", test)):
            missing = np.setdiff1d(labels[at], known)
            if len(missing):
                raise ManyoneError(
                    f"{kind} split: class {missing[0]} is in {name}, not in train; use smaller blocks or another seed"
                )
        absent = np.setdiff1d(known, labels[test])
        if len(absent):
            warnings = (*warnings, f"no test sample of class {', '.join(map(str, absent))}: it counts in no mean")
    return Splits(train, val, test, kind, blocks, warnings)
