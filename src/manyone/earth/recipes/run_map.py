"""How ``earth-map`` runs: labels on a scene, a probe on an encoder's features, its score, and the map of everything.

The run folder gets ``map.tif`` (two bands in the scene's grid: class, 0 where there is no data, and the class's
probability in percent), ``classes.csv``, ``model/`` (what ``manyone predict`` maps other scenes of the sensor with) and
``report.html``.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from manyone.claims.figure import Figure, save_figures
from manyone.data.rasters.geotiff import raster_writer
from manyone.data.rasters.scenes import LabelledScenes, Scene
from manyone.earth.artefact import MapModel, save
from manyone.earth.benching import Cell, blind, measure
from manyone.earth.embedding import How, Ready, embed, pooling_of, ready
from manyone.earth.mapping import PixelClassifier, linear_classifier, map_scene, neighbour_classifier
from manyone.earth.names import PLACES
from manyone.earth.recipes import bench_figures, pictures
from manyone.earth.recipes.common import how_of, store_of
from manyone.earth.recipes.maps import Area, draw_map
from manyone.earth.recipes.options import MapOptions
from manyone.earth.recipes.results import results_of
from manyone.earth.samples import Samples, Sampling, draw
from manyone.earth.suites import labelled, named, scene_of
from manyone.engine.files import write_atomic
from manyone.engine.inputs import check_inputs
from manyone.engine.progress import Progress
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.options import Split
from manyone.recipes.references import Reference, keep_references
from manyone.recipes.running import percent
from manyone.report.html import run_report

MAP, CLASSES, RESULT = "map.tif", "classes.csv", "map.json"
NODATA = 0


def run(options: MapOptions, build: None, folder: RunFolder) -> None:
    """Trains, scores, maps and writes."""
    name, place = _named(options)
    scene = scene_of(place, options.sensor, options.unit)
    for note in getattr(scene, "notes", ()):
        print(f"{name}: {note}")
    source = labelled(name, scene, options.labels, options.column)
    samples = draw(source, Sampling(options.split, options.block, 0, options.train, options.test, options.seed))
    folder.ensure()
    check_inputs(folder, {"--data": samples.fingerprint()})
    how = how_of(options, options.model)
    one = ready(options.model, samples, how, options.weights)
    assert one.plan is not None
    for line in [*one.plan.report(), *one.notes, *samples.notes]:
        print(f"  {line}")
    with Progress("encoding labelled pixels", len(samples), unit="pixels") as bar:
        entry = embed(one, samples, how, store_of(options), bar.update)
    features = entry.array(pooling_of(one.encoder.spec, entry))
    cell, _ = measure(features, samples, options.model, options.protocol, seed=options.seed)
    classifier = _classifier(options, cell, samples, features)
    legend = write_map(folder.path / MAP, scene, MapModel(one.encoder, one.plan, classifier, how, options.model,
                                                          options.weights), overwrite=True)  # fmt: skip
    write_atomic(folder.path / CLASSES, _csv(classifier, legend))
    card = (f"# A map model: {options.model}, {options.protocol}\n\nClasses: {', '.join(classifier.classes)}. Overall "
            f"accuracy on {cell.n} held-out pixels ({samples.splits.kind} split): {percent(cell.value)} %.\n\n"
            f"```\nmanyone predict THIS_FOLDER scene.tif --out map.tif\n```\n")  # fmt: skip
    save(MapModel(one.encoder, one.plan, classifier, how, options.model, options.weights), folder.path / "model", card)
    _report(options, folder, samples, one, how, features, cell, legend)


def plan(options: MapOptions, build: None, folder: RunFolder) -> list[str]:
    """Scene, labels and encoder; nothing is read."""
    _, place = _named(options)
    return [f"a map of {place} from {options.labels} with {options.model} and {options.protocol}"]


def _named(options: MapOptions) -> tuple[str, str]:
    """(NAME, PLACE) of the scene, once the encoder is one of images."""
    if options.model in PLACES:
        raise ManyoneError(
            f"--model {options.model}: encodes places, not images: take raw5x5, mae-small, timm:NAME, ..."
        )
    return named(options.data[0])


def evaluate(options: MapOptions, build: None, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """The score on held-out pixels and the share of every class in the map."""
    found = results_of(folder, RESULT, split)
    return {"accuracy": found["value"], "low": found["low"], "high": found["high"], "test pixels": found["n"],
            **{f"share/{name}": share for name, share in found["shares"].items()}}  # fmt: skip


def write_map(path: Path, scene: Scene, model: MapModel, overwrite: bool = False) -> np.ndarray:
    """Writes the map of ``scene`` piece by piece; pixels of each value 0..K (0: no data)."""
    classes = model.classifier.classes
    counts = np.zeros(len(classes) + 1, np.int64)
    tags = {f"class_{k + 1}": name for k, name in enumerate(classes)}
    with (
        Progress("mapping", 1, unit="pieces") as bar,
        raster_writer(path, (2, *scene.shape), "uint8", scene.grid, names=("class", "confidence, %"), nodata=NODATA,
                      tags=tags, overwrite=overwrite) as write,
    ):  # fmt: skip
        told = lambda done, total: bar.update(done, total)  # noqa: E731
        for window, values in map_scene(model.encoder, model.plan, scene, model.classifier, model.how, told):
            write(window, values)
            counts += np.bincount(values[0].ravel(), minlength=len(counts))
    return counts


def _classifier(options: MapOptions, cell: Cell, samples: Samples, features: np.ndarray) -> PixelClassifier:
    """On all labelled samples: the score is that of one that has not seen the test part."""
    if options.protocol == "knn5-l2":
        return neighbour_classifier(features, samples.targets, samples.classes)
    strength, scale = float(cell.chosen["C"]), float(cell.chosen["temperature"])
    return linear_classifier(features, samples.targets, samples.classes, strength, scale)


def _report(
    options: MapOptions, folder: RunFolder, samples: Samples, one: Ready, how: How, features: np.ndarray, cell: Cell,
    counts: np.ndarray,
) -> None:  # fmt: skip
    total = int(counts[1:].sum())
    shares = {name: float(n / total) if total else 0.0 for name, n in zip(samples.classes, counts[1:].tolist())}
    plain: dict[str, Any] = {**cell.to_json(), "shares": shares, "no_data": int(counts[0])}
    write_atomic(folder.path / RESULT, (json.dumps(plain, allow_nan=False, ensure_ascii=False) + "\n").encode())
    sets = {samples.name: {"classes": list(samples.classes), "samples": [len(samples.splits.train),
            len(samples.splits.val), len(samples.splits.test)], "bands": [b.name for b in samples.bands],
            "sensor": "", "split": samples.splits.kind, "licence": "the owner's",
            "notes": list(samples.notes)}}  # fmt: skip
    figures = bench_figures.figures_of([cell], {}, sets, {}, {})
    assert isinstance(samples.source, LabelledScenes)
    if options.protocol == "linear":
        drawn = draw_map(one, how, samples, features, cell.chosen, Area.middle(samples))
        data = {"data": pictures.side_by_side(list(drawn.pictures)), "width": 960}
        caption = f"Image, labels and map, the middle of the scene. Colours: {drawn.legend}."
        figures.insert(0, Figure("image", "The map", data, caption, bench_figures.SECTION))
    bars = {"names": list(shares), "values": list(shares.values()), "unit": "%"}
    said = f"{total:,} pixels, {int(counts[0]):,} without data."
    figures.append(Figure("bars", "Share of each class in the map", bars, said, bench_figures.SECTION))
    save_figures(folder.path / "figures.json", figures)
    keep_references(folder, [Reference("always the largest class", {"accuracy": blind(samples)}, "from")])
    folder.log(0, "final", {"accuracy": cell.value, "test_pixels": float(cell.n)})
    folder.finish()
    run_report([folder.path], folder.path / "report.html")
    ends = "" if cell.low is None or cell.high is None else f" [{percent(cell.low)}, {percent(cell.high)}]"
    print(f"accuracy on {cell.n} held-out pixels ({samples.splits.kind} split): {percent(cell.value)} %{ends}")
    for name, share in shares.items():
        print(f"  {name}: {percent(share)} % of the map")
    print(f"map: {folder.path / MAP}")


def _csv(classifier: PixelClassifier, counts: np.ndarray) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["value", "class", "colour", "pixels"])
    table = pictures.colours(len(classifier.classes))
    for value, name in enumerate(("no data", *classifier.classes)):
        writer.writerow([value, name, "#{:02x}{:02x}{:02x}".format(*table[value]), int(counts[value])])
    return text.getvalue().encode()
