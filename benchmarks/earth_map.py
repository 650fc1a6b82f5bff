"""Class maps: pixels a second beside a loop over pixels, and what a raster of many gigabytes takes.

    python benchmarks/earth_map.py [--part loop,large] [--side 512] [--loop-side 64] [--gigabytes 10] [--json F]

``loop``: a map of nc-landsat's scene by a linear probe on 5x5 windows, as earth-map makes it (reading, preparing,
features, classes, probabilities, compressed GeoTIFF), and the loop that people write over the same scene: for each
pixel cut its window, normalise it, ask the classifier (a matrix product; scikit-learn's ``predict_proba`` as well).
CPU seconds; one thread; same classes required of all.
``large``: ``manyone run earth-map`` on a sparse four-band GeoTIFF of uint16 that would be this large if it were full:
pixels with values and labels lie in one corner, the rest is no data, and every window is read. Seconds and the largest
resident memory of the whole command.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch

from manyone.data.rasters.geotiff import raster_writer
from manyone.data.rasters.scenes import ArrayScene, Window
from manyone.earth.artefact import MapModel
from manyone.earth.embedding import How, embed, pooling_of, ready
from manyone.earth.mapping import linear_classifier
from manyone.earth.recipes.run_map import write_map
from manyone.earth.samples import Sampling, draw
from manyone.earth.store import Store
from manyone.earth.suites import load

MODEL = "raw5x5"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", default="loop,large")
    parser.add_argument("--side", type=int, default=443, help="pixels a side that are mapped")
    parser.add_argument("--loop-side", type=int, default=64, help="pixels a side that the loop goes over")
    parser.add_argument("--gigabytes", type=float, default=10)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for part in asked.part.split(","):
        rows += loop(asked.side, asked.loop_side) if part == "loop" else [large(asked.gigabytes)]
    if asked.json:
        asked.json.write_text("".join(json.dumps({"benchmark": "earth-map", **row}) + "\n" for row in rows))


def loop(side: int, loop_side: int) -> list[dict[str, Any]]:
    """Three programs that make the same map."""
    samples = draw(load("nc-landsat"), Sampling(train=2000, test=500))
    how = How()
    with tempfile.TemporaryDirectory() as folder:
        one = ready(MODEL, samples, how)
        found = embed(one, samples, how, Store(Path(folder) / "store"))
        features = found.array(pooling_of(one.encoder.spec, found))
        classifier = linear_classifier(features, samples.targets, samples.classes, 1e-2, 1.0)
        model = MapModel(one.encoder, one.plan, classifier, how, MODEL, "default")
        pixels, valid = samples.source.scenes[0].read(Window(0, 0, side, side))  # type: ignore[union-attr]
        scene = ArrayScene("part", samples.bands, pixels, valid, None, 30.0)
        write_map(
            Path(folder) / "warm.tif", ArrayScene("w", samples.bands, pixels[:, :64, :64], None, None, 30.0), model
        )
        began = time.process_time()
        write_map(Path(folder) / "map.tif", scene, model)
        ours = time.process_time() - began
        import rasterio

        with rasterio.open(Path(folder) / "map.tif") as made:
            drawn = made.read(1)
    rows = [{"part": "loop", "program": "earth-map", "pixels_s": pixels[0].size / ours, "times": 1.0}]
    statistics = one.plan.statistics
    assert statistics is not None
    t = classifier.tensors
    mean, deviation, weight, bias = (t[k].numpy() for k in ("mean", "deviation", "weight", "bias"))
    centre, spread = (np.asarray(getattr(statistics, k), np.float32)[:, None, None] for k in ("mean", "std"))

    from sklearn.linear_model import LogisticRegression

    peer = LogisticRegression()
    peer.classes_, peer.coef_, peer.intercept_ = np.arange(len(classifier.classes)), weight, bias
    for name in ("loop, a product a pixel", "loop, scikit-learn a pixel"):
        padded = np.pad(np.where(valid, pixels, np.nan), ((0, 0), (2, 2), (2, 2)), mode="reflect")
        classes = np.zeros((loop_side, loop_side), np.uint8)
        began = time.process_time()
        for row in range(loop_side):
            for column in range(loop_side):
                window = (padded[:, row : row + 5, column : column + 5] - centre) / spread
                x = np.where(np.isnan(window), 0, window).reshape(1, -1)
                z = (x.astype(np.float16).astype(np.float64) - mean) / deviation
                p = peer.predict_proba(z)[0] if "scikit" in name else softmax(z[0] @ weight.T + bias)
                classes[row, column] = p.argmax() + 1
        spent = time.process_time() - began
        inside = valid[:, :loop_side, :loop_side].all(0)
        same = float((classes == drawn[:loop_side, :loop_side])[inside].mean())
        speed = loop_side**2 / spent
        rows.append({"part": "loop", "program": name, "pixels_s": speed, "times": rows[0]["pixels_s"] / speed,
                     "same_class": same})  # fmt: skip
    print(f"{'program':28} {'pixels/CPU s':>12} {'earth-map is':>12} {'same class':>10}")
    for row in rows:
        same = f"{row['same_class']:10.2%}" if "same_class" in row else ""
        print(f"{row['program']:28} {row['pixels_s']:12,.0f} {row['times']:11.1f}x {same}", flush=True)
    return rows


def softmax(x: np.ndarray) -> np.ndarray:
    """Of a vector."""
    e = np.exp(x - x.max())
    return e / e.sum()


def large(gigabytes: float) -> dict[str, Any]:
    """The whole command on a sparse raster."""
    from manyone.data.rasters.scenes import Grid

    samples = draw(load("nc-landsat"), Sampling(train=10, test=10))
    source = samples.source
    pixels, _ = source.scenes[0].read()  # type: ignore[union-attr]
    labels = source.labels[0]  # type: ignore[union-attr]
    side = round((gigabytes * 1e9 / 2 / 4) ** 0.5)
    grid = Grid("EPSG:32617", (30.0, 0.0, 3e5, 0.0, -30.0, 4e6))
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        shape = (4, side, side)
        values = np.clip(pixels[:4], 1, 255).astype(np.uint16)
        names = ("blue", "green", "red", "nir")
        with raster_writer(place / "scene.tif", shape, "uint16", grid, names=names, nodata=0) as write:
            write(Window(0, 0, *values.shape[1:]), values)
        with raster_writer(place / "labels.tif", (1, side, side), "uint8", grid, names=("class",), nodata=255) as write:
            write(Window(0, 0, *labels.shape), labels[None])
        words = [sys.executable, "-m", "manyone", "run", "earth-map", "--data", f"area={place / 'scene.tif'}",
                 "--labels", str(place / "labels.tif"), "--unit", "dn8", "--model", MODEL, "--train", "2000",
                 "--test", "1000", "--out", str(place / "out"), "--store", str(place / "store")]  # fmt: skip
        began = time.perf_counter()
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        spent = time.perf_counter() - began
        if done.returncode:
            raise SystemExit(done.stderr)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    row = {"part": "large", "gigabytes": side * side * 8 / 1e9, "seconds": spent, "mib": peak}
    print(f"{row['gigabytes']:.1f} GB, {side} x {side} pixels: {spent:.0f} s, at most {peak:.0f} MiB")
    return row


if __name__ == "__main__":
    main()
