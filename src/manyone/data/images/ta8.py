"""The ``ta8`` suite: the papers' eight tasks for CLIP, read from the data hub. The configuration is ``ta8.toml``.

Images become uint8 [n, 3, 224, 224] (shorter side to 224, bicubic; centre crop); CLIP's mean and standard deviation
are in the configuration and belong to the encoder's input. Test sizes and the number of classes are checked.
"""

from __future__ import annotations

import importlib.resources
import importlib.util
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from manyone.data.splits import split_order, stratified_order
from manyone.data.tasks import Split, Suite, Task
from manyone.engine.extras import need
from manyone.errors import ManyoneError

TRAIN, VAL = 2000, 200
"""Training and validation images that are decoded per task; the published experts need none."""


@dataclass(frozen=True)
class Ta8Task:
    """One task's entry. ``classes`` is None when the data set's own label names are to be taken."""

    name: str
    dataset: str
    configuration: str | None
    expert: str
    count: int
    test: tuple[int, ...]
    classes: tuple[str, ...] | None
    templates: tuple[str, ...]

    def prompts(self, class_name: str) -> tuple[str, ...]:
        """All templates filled with one class name; a zero-shot head row is the normalised mean of their embeddings."""
        return tuple(template.replace("{}", class_name) for template in self.templates)


@dataclass(frozen=True)
class ClipModel:
    """Hub ids of a CLIP backbone and of its fine-tuned vision encoders, and its sizes."""

    name: str
    base: str
    experts: str
    width: int
    layers: int
    features: int

    def expert(self, task: Ta8Task) -> str:
        """Hub id of the vision encoder fine-tuned on ``task``."""
        return self.experts.replace("{}", task.expert)


@dataclass(frozen=True)
class Preprocessing:
    """What CLIP expects of an image."""

    size: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]


@lru_cache(maxsize=1)
def _file() -> dict[str, Any]:
    return tomllib.loads(importlib.resources.files("manyone.data.images").joinpath("ta8.toml").read_text())


def tasks() -> tuple[Ta8Task, ...]:
    """The eight tasks in the papers' order."""
    result = []
    for name, entry in _file()["tasks"].items():
        classes = None if entry["classes"] == "labels" else tuple(entry["classes"])
        result.append(
            Ta8Task(
                name=name,
                dataset=entry["dataset"],
                configuration=entry.get("configuration"),
                expert=entry["expert"],
                count=entry["count"],
                test=tuple(entry["test"]),
                classes=classes,
                templates=tuple(entry["templates"]),
            )
        )
    return tuple(result)


def models() -> dict[str, ClipModel]:
    """The three backbones by name."""
    return {name: ClipModel(name, **entry) for name, entry in _file()["models"].items()}


def preprocessing() -> Preprocessing:
    """CLIP's image preprocessing."""
    entry = _file()["preprocessing"]
    return Preprocessing(entry["size"], entry["interpolation"], tuple(entry["mean"]), tuple(entry["std"]))


def image_array(picture: Any, size: int = 224) -> np.ndarray:
    """A PIL image as uint8 [3, size, size]: RGB, shorter side to ``size`` (bicubic), centre crop."""
    picture = picture.convert("RGB")
    scale = size / min(picture.size)
    shape = (max(round(picture.width * scale), size), max(round(picture.height * scale), size))
    picture = picture.resize(shape, Image.Resampling.BICUBIC)
    left, top = (shape[0] - size) // 2, (shape[1] - size) // 2
    return np.asarray(picture.crop((left, top, left + size, top + size))).transpose(2, 0, 1)


def class_names(task: Ta8Task, labels: Sequence[str] | None) -> tuple[str, ...]:
    """The names that go into the prompts, in the order of the label numbers; ``labels`` are the data set's own."""
    if task.classes is not None:
        names = task.classes
    elif labels:
        names = tuple(" ".join(label.replace("_", " ").replace("/", " ").split()) for label in labels)
    else:
        raise ManyoneError(f"{task.dataset}: the data set names no labels, so {task.name} has no prompts")
    if len(names) != task.count or (labels and len(labels) != task.count):
        raise ManyoneError(
            f"{task.dataset}: {len(labels or names)} classes instead of {task.count}; is it the right data set?"
        )
    return names


def load_ta8(seed: int = 0, limit: int | None = None) -> Suite:
    """The eight tasks, decoded. ``limit`` bounds the images decoded per split (all test images are 150 kB each)."""
    require_hub()
    return Suite("ta8", "image", tuple(_load(task, seed, limit) for task in tasks()))


def require_hub() -> None:
    """Raises one clear line when the hub cannot be used from here."""
    if importlib.util.find_spec("datasets") is None:
        raise ManyoneError("suite ta8 comes from the data hub and needs the extra hub: pip install 'manyone[hub]'")
    if os.environ.get("MANYONE_OFFLINE", "0") not in ("", "0"):
        raise ManyoneError("suite ta8 comes from the data hub, but MANYONE_OFFLINE is set: unset it")


def _load(task: Ta8Task, seed: int, limit: int | None) -> Task:
    datasets = need("datasets", f"suite ta8 ({task.dataset})", "hub")
    arguments = (task.dataset,) if task.configuration is None else (task.dataset, task.configuration)
    try:
        train, test = datasets.load_dataset(*arguments, split="train"), datasets.load_dataset(*arguments, split="test")
    except Exception as problem:
        # The library raises many unrelated types when the hub cannot be reached or the id is unknown.
        raise ManyoneError(f"{task.dataset}: cannot be loaded from the hub ({str(problem).splitlines()[0]})") from None
    return assemble(task, train, test, seed, limit)


def assemble(task: Ta8Task, train: Any, test: Any, seed: int, limit: int | None) -> Task:
    """A :class:`Task` of two hub splits (columns ``image`` and ``label``)."""
    if len(test) not in task.test:
        raise ManyoneError(f"{task.dataset}: {len(test)} test images, published are {' or '.join(map(str, task.test))}")
    names = class_names(task, getattr(train.features["label"], "names", None))
    labels = torch.tensor(train["label"], dtype=torch.int64)
    amount = min(TRAIN + VAL, len(labels)) if limit is None else min(2 * limit, len(labels))
    val = min(VAL, amount // 10) if limit is None else amount // 2
    order = stratified_order(labels, seed, "ta8", task.name)
    train_index, val_index, _, _ = split_order(order, test=0, val=val, train=amount - val)
    test_labels = torch.tensor(test["label"], dtype=torch.int64)
    test_index = stratified_order(test_labels, seed, "ta8", task.name, "test")[:limit]
    return Task(
        task.name,
        names,
        _decode(train, labels, train_index),
        _decode(train, labels, val_index),
        _decode(test, test_labels, test_index),
        f"hub data set {task.dataset}",
        "see the data set's card",
    )


def _decode(data: Any, labels: Tensor, index: Tensor) -> Split:
    size = preprocessing().size
    images = np.empty((len(index), 3, size, size), np.uint8)
    for row, number in enumerate(index.tolist()):
        images[row] = image_array(data[number]["image"], size)
    return Split(torch.from_numpy(images), labels[index])
