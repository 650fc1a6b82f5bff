"""A class for every pixel of a scene: a probe on an encoder's dense features, applied piece by piece.

The map has the scene's grid and two bands: the class (0 is "no data", then the classes in order) and the probability of
that class in percent. A scene of any size is read by windows; what is in memory at a time is bounded.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from manyone.data.rasters.scenes import Scene, Window
from manyone.earth.embedding import How, context_of, preparing, sliding
from manyone.earth.encoders.dense import embed_area
from manyone.earth.protocols.knn import majority, neighbours
from manyone.earth.protocols.linear import LinearModel, fit_path
from manyone.earth.sensors.layer import Plan
from manyone.earth.spec import Encoder
from manyone.errors import ManyoneError

NEIGHBOURS = 5
_PIECE = 512  # pixels a side at most of what is mapped at a time
_ROWS = 65_536  # vectors that are classified at a time


@dataclass(frozen=True)
class PixelClassifier:
    """Vectors [N, D] to probabilities [N, K]: soft-max of a linear probe, or the votes of neighbours."""

    classes: tuple[str, ...]
    kind: Literal["linear", "knn5-l2"]
    tensors: dict[str, Tensor]
    """linear: mean, deviation, weight, bias, temperature; knn5-l2: bank float32 [n, D], numbers int64 [n]."""

    def probabilities(self, x: Tensor) -> Tensor:
        """float32 [N, K]."""
        if x.shape[1] != self.width:
            raise ManyoneError(f"vectors of {x.shape[1]} numbers, the classifier knows {self.width}: another encoder?")
        t = self.tensors
        if self.kind == "linear":
            model = LinearModel(t["mean"], t["deviation"], t["weight"], t["bias"])
            return torch.softmax(model.logits(x) / t["temperature"], 1).float()
        distance, at = neighbours(x, t["bank"], NEIGHBOURS)
        return majority(distance, t["numbers"][at], len(self.classes)).float()

    @property
    def width(self) -> int:
        """D."""
        return int(self.tensors["mean" if self.kind == "linear" else "bank"].shape[-1])


def linear_classifier(
    features: np.ndarray, numbers: np.ndarray, classes: Sequence[str], strength: float, temperature: float
) -> PixelClassifier:
    """A linear probe with C = ``strength`` on ``features`` [N, D]; ``numbers`` [N] are positions in ``classes``."""
    x = torch.from_numpy(np.asarray(features, np.float32))
    y = torch.nn.functional.one_hot(torch.from_numpy(numbers), len(classes)).double()
    model = fit_path(x, y, [strength])[0]
    tensors = {"mean": model.mean, "deviation": model.deviation, "weight": model.weight, "bias": model.bias,
               "temperature": torch.tensor(temperature, dtype=torch.float64)}  # fmt: skip
    return PixelClassifier(tuple(classes), "linear", tensors)


def neighbour_classifier(features: np.ndarray, numbers: np.ndarray, classes: Sequence[str]) -> PixelClassifier:
    """The votes of the five nearest of ``features`` [N, D]."""
    bank = torch.from_numpy(np.asarray(features, np.float32))
    return PixelClassifier(tuple(classes), "knn5-l2", {"bank": bank, "numbers": torch.from_numpy(numbers)})


def pieces(shape: tuple[int, int], width: int, memory_mb: float) -> list[Window]:
    """Rectangles that cover a scene once; features (``width`` numbers a pixel) of one take a third of the memory."""
    side = int(math.sqrt(memory_mb * 2**20 / 3 / (4 * max(width, 1))))
    if side < 8:
        raise ManyoneError(f"--memory {memory_mb:g}: too little for vectors of {width} numbers")
    side = min(_PIECE, side)
    return [
        Window(row, column, min(side, shape[0] - row), min(side, shape[1] - column))
        for row in range(0, shape[0], side)
        for column in range(0, shape[1], side)
    ]


def map_scene(
    encoder: Encoder,
    plan: Plan,
    scene: Scene,
    classifier: PixelClassifier,
    how: How,
    progress: Callable[[int, int], object] | None = None,
) -> Iterator[tuple[Window, np.ndarray]]:
    """(window, uint8 [2, h, w]: class + 1 and percent; both 0 where a band has no value) piece by piece."""
    if len(classifier.classes) > 254:
        raise ManyoneError(f"{len(classifier.classes)} classes: a map has at most 254")
    context, over = context_of(plan, scene.gsd_m), sliding(encoder.spec, how, scene.shape)
    parts = pieces(scene.shape, classifier.width, how.memory_mb)
    for done, area in enumerate(parts, 1):
        _, valid = scene.read(area)
        whole = valid.all(0)
        found = np.zeros((2, area.height, area.width), np.uint8)
        if whole.any():
            features = embed_area(
                encoder, scene, area, context, size=over.size, stride=over.stride, margin=over.margin,
                layer=encoder.spec.dense,
                prepare=preparing(plan), memory_mb=how.memory_mb, device=how.device,
            )  # fmt: skip
            # as the store keeps them: the classifier has learned from float16
            x = features.flatten(1).T[torch.from_numpy(whole.reshape(-1))].half().float()
            p = torch.cat([classifier.probabilities(some) for some in x.split(_ROWS)])
            best, at = p.max(1)
            found[0, whole] = (at + 1).numpy().astype(np.uint8)
            found[1, whole] = (100 * best).round().clamp(1, 100).numpy().astype(np.uint8)
        yield area, found
        if progress is not None:
            progress(done, len(parts))
