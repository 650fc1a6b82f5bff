"""A set as samples: which pixels, chips or places are evaluated on, how they are split, and what is left out and why.

Of labelled scenes a sample is one labelled, valid pixel; there are mostly far more than are needed, so that after the
split at most ``train`` and ``test`` of them are drawn (validation gets a quarter of what ``train`` is).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, get_args

import numpy as np

from manyone.data.rasters.bands import Band
from manyone.data.rasters.scenes import IGNORE, Chips, LabelledScenes, Places, RasterSet, Window
from manyone.earth.splits import Splits, block_split, given_split, random_split, strip_split
from manyone.errors import ManyoneError
from manyone.randomness import seed_for

Split = Literal["block", "random", "strip", "given"]
_STRIP = 256  # rows that are read at once where labelled pixels are looked up
_BLOCK = 32  # pixels a side of a block where nobody says
_BLOCKS = 12  # a side of the ground, at least


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn."""

    split: Split = "block"
    block: float | None = None
    """Side of a block in pixels of the scene; None: 32, but at most a twelfth of the scene's shorter side."""
    buffer: float = 0
    """Pixels beside a block of another part that are left out."""
    train: int = 8000
    """Most training samples."""
    test: int = 8000
    seed: int = 0

    def __post_init__(self) -> None:
        if self.split not in get_args(Split):
            raise ManyoneError(f"split {self.split!r}: must be one of {', '.join(get_args(Split))}")
        for name in ("train", "test"):
            if getattr(self, name) < 1:
                raise ManyoneError(f"{name} {getattr(self, name)}: must be at least 1")


@dataclass(frozen=True)
class Samples:
    """What is embedded (``ids`` in order) and what is made of it."""

    name: str
    source: RasterSet
    ids: tuple[str, ...]
    targets: np.ndarray
    """int64 [N] classes, bool [N, K] labels or float64 [N] values."""
    classes: tuple[str, ...]
    splits: Splits
    pixels: np.ndarray | None = None
    """int64 [N, 3], scene, row and column, of labelled scenes."""
    chips: np.ndarray | None = None
    """int64 [N], positions of chips or places."""
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def bands(self) -> tuple[Band, ...]:
        """Those of the images; none of places."""
        return () if isinstance(self.source, Places) else self.source.bands

    @property
    def names(self) -> dict[int, str]:
        """Class number -> name."""
        return dict(enumerate(self.classes))

    def fingerprint(self) -> str:
        """SHA-256 of the identity of every sample and of the values of the images: part of the store's key."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        # once: every encoder asks for it, and it reads all values
        digest = hashlib.sha256(self.name.encode())
        digest.update("\n".join(self.ids).encode())
        for part in _values(self.source):
            digest.update(np.ascontiguousarray(part).view(np.uint8).reshape(-1).data)
        return digest.hexdigest()


def draw(source: RasterSet, sampling: Sampling) -> Samples:
    """Splits ``source`` and draws its samples. ``ManyoneError`` where a part would be empty."""
    if isinstance(source, LabelledScenes):
        return _pixels(source, sampling)
    if isinstance(source, Chips):
        return _chips(source, sampling)
    return _places(source, sampling)


def _pixels(source: LabelledScenes, sampling: Sampling) -> Samples:
    found, notes = [], []
    for number, (scene, labels) in enumerate(zip(source.scenes, source.labels, strict=True)):
        if labels.shape != scene.shape:
            raise ManyoneError(f"{source.name}: labels of {labels.shape} for a scene of {scene.shape}")
        usable = _labelled(scene, labels, source.target == "value")
        found.append(np.column_stack([np.full(len(usable), number), usable]).astype(np.int64))
    at = np.concatenate(found)
    if not len(at):
        raise ManyoneError(f"{source.name}: no pixel has both a label and values: do labels lie over the image?")
    targets = np.concatenate([labels[tuple(own[:, 1:].T)] for labels, own in zip(source.labels, found, strict=True)])
    targets = targets.astype(np.float64 if source.target == "value" else np.int64)
    if sampling.split == "given":
        raise ManyoneError(f"split given: {source.name} has no official split; use block, strip or random")
    side = min(min(scene.shape) for scene in source.scenes)
    block = sampling.block or float(min(_BLOCK, max(side // _BLOCKS, 1)))
    notes.append(f"blocks of {block:g} pixels")
    splits = _split(at[:, 1:], at[:, 0], targets, replace(sampling, block=block))
    splits, kept, more = _thinned(splits, targets, sampling)
    notes += more
    at, targets = at[kept], targets[kept]
    ids = tuple(f"{s}:{r}:{c}" for s, r, c in at.tolist())
    return Samples(source.name, source, ids, targets, source.classes, splits, pixels=at, notes=tuple(notes))


def _labelled(scene: object, labels: np.ndarray, numbers: bool) -> np.ndarray:
    """int64 [M, 2] of the pixels with a label whose every band is valid, row by row."""
    has = np.isfinite(labels) if numbers else labels != IGNORE
    found = []
    for top in range(0, len(labels), _STRIP):
        part = has[top : top + _STRIP]
        if part.any():
            columns = np.flatnonzero(part.any(0))
            left, right = int(columns[0]), int(columns[-1]) + 1
            _, valid = scene.read(Window(top, left, len(part), right - left))  # type: ignore[attr-defined]
            rows, inside = np.nonzero(part[:, left:right] & valid.all(0))
            found.append(np.column_stack([rows + top, inside + left]))
    return np.concatenate(found) if found else np.empty((0, 2), np.int64)


def _split(places: np.ndarray, scenes: np.ndarray | None, targets: np.ndarray, sampling: Sampling) -> Splits:
    assert sampling.block is not None
    # classes that training lacks are told and left out below, so no labels are given here
    if sampling.split == "random":
        return random_split(len(targets), seed=sampling.seed, places=places, block=sampling.block, scenes=scenes)
    if sampling.split == "strip":
        return strip_split(places, block=sampling.block, scenes=scenes)
    return block_split(
        places, block=sampling.block, buffer=sampling.buffer, seed=sampling.seed, scenes=scenes
    )  # fmt: skip


def _chips(source: Chips, sampling: Sampling) -> Samples:
    if source.target not in ("class", "labels", "value"):
        raise ManyoneError(f"{source.name}: its target is a {source.target}, the bench takes one class, label or value "
                           "a chip")  # fmt: skip
    n = len(source)
    notes = []
    targets = np.asarray(source.targets)
    if source.given and sampling.split != "random":
        splits = given_split(source.given, n, seed=sampling.seed)
        notes.append("the official split" + (f", not {sampling.split}" if sampling.split != "given" else ""))
    elif source.places is not None and sampling.split in ("block", "strip"):
        side = float(np.ptp(source.places, axis=0).max()) / _BLOCKS or 1.0
        splits = _split(source.places, None, targets, replace(sampling, block=side, buffer=0))
        notes.append(f"blocks of {side:.4g} {source.place_unit}s")
    else:
        if sampling.split != "random":
            notes.append(f"no places are known, so that chips are split at random, not by {sampling.split}")
        splits = random_split(n, seed=sampling.seed)
    splits, kept, more = _thinned(splits, targets, sampling)
    ids = source.ids or tuple(map(str, range(n)))
    return Samples(source.name, source, tuple(ids[i] for i in kept.tolist()), targets[kept], source.classes, splits,
                   chips=kept, notes=tuple(notes + more))  # fmt: skip


def _places(source: Places, sampling: Sampling) -> Samples:
    targets = np.asarray(source.targets)
    if sampling.split == "random":
        splits = random_split(len(source), seed=sampling.seed, places=source.lonlat, block=10)
    else:
        splits = _split(source.lonlat, None, targets, replace(sampling, block=10.0, buffer=0))
    splits, kept, more = _thinned(splits, targets, sampling)
    ids = tuple(map(str, kept.tolist()))
    notes = ("blocks of 10 degrees", *more)
    return Samples(source.name, source, ids, targets[kept], source.classes, splits, chips=kept, notes=notes)


def _thinned(splits: Splits, targets: np.ndarray, sampling: Sampling) -> tuple[Splits, np.ndarray, list[str]]:
    """(split in new positions, the samples that are kept, sorted; what was left out).

    Samples of classes that training does not have cannot be told apart by what learns: they go, and it is said.
    """
    sizes = (sampling.train, max(1, sampling.train // 4), sampling.test)
    parts, notes = [], list(splits.warnings)
    for name, at, most in zip(("train", "val", "test"), (splits.train, splits.val, splits.test), sizes, strict=True):
        order = np.random.default_rng(seed_for(sampling.seed, "samples", name)).permutation(len(at))
        parts.append(np.sort(at[order[:most]]))
    if targets.ndim == 1 and targets.dtype.kind in "iu":
        known = np.unique(targets[parts[0]])
        for position, name in ((1, "val"), (2, "test")):
            at = parts[position]
            fits = np.isin(targets[at], known)
            if not fits.all():
                notes.append(f"{int((~fits).sum())} of {len(at)} {name} samples left out: training has none of their "
                             "class")  # fmt: skip
                parts[position] = at[fits]
        if len(known) < 2:
            raise ManyoneError(f"split {sampling.split}: training has one class alone; use another seed or split")
    if any(len(part) == 0 for part in parts):
        raise ManyoneError(f"split {sampling.split}: a part is empty after sampling: use smaller blocks")
    kept = np.sort(np.concatenate(parts))
    train, val, test = (np.searchsorted(kept, part) for part in parts)
    blocks = None if splits.blocks is None else splits.blocks[kept]
    return replace(splits, train=train, val=val, test=test, blocks=blocks, warnings=()), kept, notes


def _values(source: RasterSet) -> Sequence[np.ndarray]:
    """The arrays that a set is made of; of a scene on the disk what tells one file from another."""
    if isinstance(source, Places):
        return [source.lonlat]
    if isinstance(source, Chips):
        return [np.ascontiguousarray(source.pixels)]
    found: list[np.ndarray] = []
    for scene in source.scenes:
        pixels = getattr(scene, "pixels", None)
        if pixels is not None:
            found.append(np.ascontiguousarray(pixels))
        else:
            facts = [(str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns) for p in scene.paths]  # type: ignore[attr-defined]
            found.append(np.frombuffer(repr(facts).encode(), np.uint8))
    return found
