"""Ready-made sets for a comparison, and a user's own images and labels as sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from manyone.data.rasters.chips_folder import read_chips
from manyone.data.rasters.hyperspectral import indian_pines
from manyone.data.rasters.names import VIEWS
from manyone.data.rasters.own import open_scene
from manyone.data.rasters.scenes import IGNORE, ArrayScene, LabelledScenes, RasterSet, Scene, Window
from manyone.data.rasters.sensors import find_sensor
from manyone.data.rasters.sources import load_set
from manyone.data.rasters.vectors import read_labels
from manyone.earth.encoders.dense import window_starts
from manyone.earth.sensors.layer import plan
from manyone.earth.sensors.options import LayerOptions
from manyone.earth.spec import ModelSpec
from manyone.errors import ManyoneError

_SIDES = {"deepforest": 256, "sn-atlanta": 400}
"""Pixels a side that are used of a large image. A comparison needs no more of them."""


def load(name: str) -> RasterSet:
    """The set called ``name``; ``indian-pines-s2|l8|rgb`` is Indian Pines as that sensor would have seen it."""
    head, _, view = name.rpartition("-")
    if head == "indian-pines" and view in VIEWS:
        return seen_as(indian_pines(), view)
    found = load_set(name)
    if name in _SIDES and isinstance(found, LabelledScenes):
        return fullest(found, _SIDES[name])
    return found


def fullest(source: LabelledScenes, side: int) -> LabelledScenes:
    """Of every scene the square of ``side`` pixels (at most) whose classes are most even."""
    scenes: list[Scene] = []
    labels = []
    for scene, marks in zip(source.scenes, source.labels, strict=True):
        high, wide = min(side, scene.shape[0]), min(side, scene.shape[1])
        at = max(
            (Window(r, c, high, wide) for r in window_starts(scene.shape[0], high, max(1, high // 4))
             for c in window_starts(scene.shape[1], wide, max(1, wide // 4))),
            key=lambda w: _evenness(marks[w.row : w.row + w.height, w.column : w.column + w.width]),
        )  # fmt: skip
        pixels, valid = scene.read(at)
        scenes.append(ArrayScene(scene.name, scene.bands, pixels, valid, None, scene.gsd_m, scene.time))
        labels.append(marks[at.row : at.row + high, at.column : at.column + wide])
    about = replace(
        source.about,
        notes=(*source.about.notes, f"of each image the {side} x {side} pixels whose classes are most even"),
    )
    return replace(source, scenes=tuple(scenes), labels=tuple(labels), about=about)


def _evenness(labels: np.ndarray) -> float:
    """Entropy of the classes that are there."""
    counts = np.bincount(labels[labels != IGNORE].ravel())
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(-(shares * np.log(shares)).sum())


def seen_as(source: LabelledScenes, view: str) -> LabelledScenes:
    """A hyperspectral set as another sensor: Gaussian sums of its bands (the sensor layer's step 4)."""
    bands = [b for b in find_sensor(VIEWS[view]).bands if b.kind == "optical"]
    bands = [b for b in bands if b.common != "cirrus"]  # between two windows of the atmosphere: nothing to see
    if view == "rgb":
        bands = [b for b in bands if b.common in ("red", "green", "blue")]
    unit = source.bands[0].unit
    slots = tuple(replace(b, unit=unit) for b in bands)
    made = plan(source.bands, ModelSpec(f"view {view}", slots, 0, unit=unit), LayerOptions(normalise="none"))
    scenes: list[Scene] = []
    for scene in source.scenes:
        pixels, valid = scene.read()
        x, ok = made.select(torch.from_numpy(pixels)[None], torch.from_numpy(valid)[None])
        values, valid_ = x[0].numpy(), ok[0].numpy()
        scenes.append(ArrayScene(scene.name, made.slots, values, valid_, scene.grid, scene.gsd_m, scene.time))
    note = f"{len(source.bands)} bands as {VIEWS[view]} would see them, {len(slots)} bands"
    about = replace(source.about, notes=(*source.about.notes, note))
    return replace(source, name=f"{source.name}-{view}", scenes=tuple(scenes), about=about)


def own(
    data: Sequence[str], *, labels: str = "", column: str = "", sensor: str = "", unit: str | None = None
) -> list[RasterSet]:
    """NAME=PLACE of ``--data``: a folder of chips by class, or a GeoTIFF with ``labels``."""
    found: list[RasterSet] = []
    for word in data:
        name, place = named(word)
        if Path(place).is_dir():
            chips = read_chips(place, sensor or None, unit)  # type: ignore[arg-type]
            found.append(replace(chips, name=name))
            continue
        if not labels:
            raise ManyoneError(f"--data {word}: a scene is evaluated on with --labels FILE (points, polygons or a "
                               "GeoTIFF of classes)")  # fmt: skip
        found.append(labelled(name, scene_of(place, sensor, unit), labels, column))
    return found


def scene_of(place: str, sensor: str = "", unit: str | None = None) -> Scene:
    """The GeoTIFF (or files of a band each, with commas) at ``place``."""
    return open_scene(place, sensor or None, unit)  # type: ignore[arg-type]


def labelled(name: str, scene: Scene, labels: str, column: str = "") -> LabelledScenes:
    """``scene`` with the classes of a file of points, polygons or pixels."""
    marks = read_labels(labels, scene, column or None)
    if len(marks.classes) < 2:
        raise ManyoneError(f"--labels {labels}: {len(marks.classes)} class: two are needed to tell apart")
    return LabelledScenes(name, (scene,), (marks.pixels,), marks.classes)


def named(word: str) -> tuple[str, str]:
    """(NAME, PLACE) of NAME=PLACE; a bare place is called by its file."""
    name, equals, place = word.partition("=")
    if not equals:
        name, place = Path(word.split(",")[0]).stem, word
    if not name or not place:
        raise ManyoneError(f"--data {word}: give NAME=PLACE")
    return name, place
