"""Maps for a report: an area of a scene, its labels, and what a probe on an encoder's features makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from manyone.data.rasters.scenes import IGNORE, ArrayScene, LabelledScenes, Window
from manyone.earth.embedding import How, Ready
from manyone.earth.mapping import linear_classifier, map_scene
from manyone.earth.recipes import pictures
from manyone.earth.samples import Samples

_SIDE = 400  # pixels of a scene that are mapped for a picture


@dataclass(frozen=True)
class Area:
    """A rectangle of one of a set's scenes."""

    scene: int
    window: Window

    @staticmethod
    def middle(samples: Samples) -> Area:
        """The middle of the first scene, at most 400 pixels a side."""
        assert isinstance(samples.source, LabelledScenes)
        height, width = samples.source.scenes[0].shape
        high, wide = min(_SIDE, height), min(_SIDE, width)
        return Area(0, Window((height - high) // 2, (width - wide) // 2, high, wide))


@dataclass(frozen=True)
class Drawn:
    """Image, labels and map, uint8 [H, W, 3] each."""

    pictures: tuple[np.ndarray, np.ndarray, np.ndarray]
    legend: str


def draw_map(
    one: Ready, how: How, samples: Samples, features: np.ndarray, chosen: Mapping[str, Any], area: Area
) -> Drawn:
    """The map of a linear probe with the chosen C on training and validation samples."""
    assert isinstance(samples.source, LabelledScenes)
    assert one.plan is not None
    both = np.concatenate([samples.splits.train, samples.splits.val])
    strength, scale = float(chosen["C"]), float(chosen["temperature"])
    classifier = linear_classifier(features[both], samples.targets[both], samples.classes, strength, scale)
    scene = samples.source.scenes[area.scene]
    pixels, valid = scene.read(area.window)
    part = ArrayScene(scene.name, scene.bands, pixels, valid, gsd_m=scene.gsd_m)
    found = np.zeros(pixels.shape[1:], np.uint8)
    for window, values in map_scene(one.encoder, one.plan, part, classifier, replace(how, stride=None)):
        at = np.s_[window.row : window.row + window.height, window.column : window.column + window.width]
        found[at] = values[0]
    labels = samples.source.labels[area.scene]
    w = area.window
    truth = labels[w.row : w.row + w.height, w.column : w.column + w.width]
    truth = np.where(truth == IGNORE, 0, truth.astype(np.int64) + 1).astype(np.uint8)
    count = len(samples.classes)
    names = ", ".join(f"{name} {_hex(pictures.PALETTE[k % len(pictures.PALETTE)])}"
                      for k, name in enumerate(samples.classes))  # fmt: skip
    images = (pictures.composite(pixels, valid, scene.bands), pictures.label_picture(truth, count),
              pictures.label_picture(found, count))  # fmt: skip
    return Drawn(images, names)


def _hex(colour: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)
