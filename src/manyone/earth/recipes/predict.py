"""``manyone predict`` for earth: the map of a scene, written as GeoTIFF, or the shares of its classes."""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from manyone.earth.artefact import load
from manyone.earth.recipes.run_map import write_map
from manyone.earth.suites import scene_of
from manyone.engine.devices import device_of
from manyone.errors import ManyoneError
from manyone.recipes.predictions import Predictions

_ENDINGS = (".tif", ".tiff")


def predict(folder: Path, parsed: argparse.Namespace) -> Predictions:
    """The map; a row for each class with its pixels and share."""
    if parsed.out is not None and parsed.out.suffix.lower() not in _ENDINGS:
        raise ManyoneError(f"--out {parsed.out}: a map is a GeoTIFF: name a file that ends with .tif")
    model = load(folder, str(device_of(parsed.device)))
    scene = scene_of(parsed.scene, parsed.sensor, parsed.unit)
    have, need = [_told(b) for b in scene.bands], [_told(b) for b in model.plan.source]
    if [b[0] for b in have] != [b[0] for b in need]:
        raise ManyoneError(f"{parsed.scene}: its bands are {_names(have)}, the model was made for {_names(need)}: "
                           "name the sensor with --sensor")  # fmt: skip
    if have != need:
        wrong = next(h for h, n in zip(have, need, strict=True) if h != n)
        raise ManyoneError(f"{parsed.scene}: band {wrong[0]} is in {wrong[1]}, the model was made for "
                           f"{dict(need)[wrong[0]]}: say what it is with --unit")  # fmt: skip
    with tempfile.TemporaryDirectory() as place:
        path = parsed.out if parsed.out is not None else Path(place) / "map.tif"
        counts = write_map(path, scene, model, overwrite=parsed.out is not None)
    total = int(counts[1:].sum())
    rows = [{"class": name, "pixels": int(n), "share": float(n) / total if total else 0.0}
            for name, n in zip(model.classifier.classes, counts[1:].tolist(), strict=True)]  # fmt: skip
    written = str(parsed.out) if parsed.out is not None else ""
    return Predictions(rows, written=written)


def _told(band: object) -> tuple[str, object]:
    return band.common, band.unit  # type: ignore[attr-defined]


def _names(bands: list[tuple[str, object]]) -> str:
    return ", ".join(name for name, _ in bands)
