"""Earth's recipes as commands, on an image that the test makes."""

from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest
from tests.earth.small_scenes import classes_of, write_files

from manyone.engine.run import RunFolder

rasterio = pytest.importorskip("rasterio")
pytest.importorskip("pyogrio")


@pytest.fixture
def place(tmp_path, manyone):
    """Where the command runs, with an image and labels."""
    write_files(tmp_path)
    return tmp_path


@pytest.fixture
def main(manyone):
    """The exit code of ``manyone WORDS``; what it said is in ``main.out`` and ``main.err``."""

    def run(words):
        code, run.out, run.err = manyone(*words)
        return code

    return run


MAP = ("run", "earth-map", "--data", "area=scene.tif", "--labels", "points.geojson", "--unit", "refl", "--block", "8")


def test_a_map_has_the_scene_s_grid_the_right_classes_and_a_model_that_maps_again(place, main):
    assert main([*MAP, "--model", "raw3x3", "--out", "land"]) == 0
    assert "accuracy on" in main.out
    with rasterio.open(place / "land/map.tif") as made, rasterio.open(place / "scene.tif") as scene:
        assert (made.shape, made.transform, made.crs) == (scene.shape, scene.transform, scene.crs)
        values, confidence = made.read()
        assert made.tags()["class_1"] == "field"
    assert (values == classes_of() + 1).mean() > 0.97
    assert confidence.min() >= 50
    assert confidence.max() <= 100
    assert RunFolder.open(place / "land").done
    assert (place / "land" / "report.html").stat().st_size > 5000

    assert main(["predict", "land", "scene.tif", "--unit", "refl", "--out", "again.tif"]) == 0
    with rasterio.open(place / "again.tif") as again:
        assert np.array_equal(again.read(1), values)
    assert main(["predict", "land", "scene.tif", "--unit", "refl", "--out", "map.csv"]) == 2
    assert "ends with .tif" in main.err
    assert main(["predict", "land", "scene.tif", "--unit", "refl_dn", "--out", "b.tif"]) == 2
    assert "--unit" in main.err
    assert main(["eval", "land"]) == 0


def test_embedding_writes_points_and_vectors_and_goes_on_without_a_pass(place, main):
    words = ["run", "earth-embed", "--data", "area=scene.tif", "--unit", "refl", "--model", "stats5x5", "--tile", "16"]
    assert main([*words, "--out", "first"]) == 0
    assert main([*words, "--out", "second"]) == 0
    counts = [
        json.loads((place / run / "embeddings.json").read_text())["encoder_passes"] for run in ("first", "second")
    ]
    assert counts == [1, 0]
    vectors = np.load(place / "first/area.npy")
    assert vectors.shape == (9, 12)
    assert np.array_equal(vectors, np.load(place / "second/area.npy"))
    pq = pytest.importorskip("pyarrow.parquet")
    table = pq.read_table(place / "first/area.parquet")
    assert len(table) == 9
    assert b"geo" in table.schema.metadata


def test_a_comparison_of_one_s_own_scene(place, main):
    words = ["run", "earth-bench", "--suite", "", "--data", "area=scene.tif", "--labels", "points.geojson", "--unit",
             "refl", "--models", "raw,raw3x3,lonlat,efficientnet-lite0", "--weights", "random", "--block", "8",
             "--protocols", "knn5-l2,linear,few-shot2", "--train", "200", "--test", "100",
             "--resamples", "50"]  # fmt: skip
    assert main([*words, "--out", "bench"]) == 0
    shown = main.out
    assert "left out: efficientnet-lite0 on area" in shown
    found = json.loads((place / "bench" / "bench.json").read_text())
    cells = [json.loads(line) for line in (place / "bench" / "cells.jsonl").read_text().splitlines()]
    assert {(c["model"], c["protocol"]) for c in cells} == {
        (m, p) for m in ("raw", "raw3x3") for p in ("knn5-l2", "linear", "few-shot2")
    }
    assert all(c["low"] <= c["value"] <= c["high"] for c in cells)
    assert min(c["value"] for c in cells if c["protocol"] == "linear") > 0.9
    assert found["encoder_passes"] == 2
    assert "critical difference" not in json.dumps(found["ranks"]).lower() or found["ranks"]["linear"]["notes"]
    page = (place / "bench" / "report.html").read_text()
    for words_ in ("Leaderboard: linear", "confusion of", "IoU by class", "Left out"):
        assert words_ in page, words_

    # a killed run goes on with the cells that it has
    lines = (place / "bench" / "cells.jsonl").read_text().splitlines(keepends=True)
    (place / "bench" / "cells.jsonl").write_text("".join(lines[:4]) + lines[4][:20])
    (place / "bench" / "bench.json").unlink()
    config = (place / "bench" / "config.yaml").read_text()
    assert "earth-bench" in config
    assert main(["eval", "bench"]) == 2
    (place / "bench" / "done").unlink()
    (place / "bench" / "cells.jsonl").write_text("[" * 100_000 + "\n")
    assert main(["resume", "bench"]) == 2
    assert "cells.jsonl: not figures of a comparison" in main.err


def test_bands_are_matched_and_the_pairing_is_drawn(place, main):
    assert main(["run", "earth-match", "--from", "landsat-7", "--to", "prithvi2", "--out", "match"]) == 0
    shown = main.out
    assert "B8A/B05" in shown
    assert "unused: B6 tir, B8 pan" in shown
    found = json.loads((place / "match" / "match.json").read_text())
    assert [row["band"].split()[0] for row in found["rows"]] == ["B1", "B2", "B3", "B4", "B5", "B7"]


def test_matching_bands_needs_no_pytorch():
    code = "import sys, manyone.earth.recipes.run_match; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["run", "earth-match", "--from", "landsat-77", "--to", "prithvi2"], "landsat-7"),
        (["run", "earth-match", "--to", "prithvi2"], "give --from SENSOR"),
        ([*MAP, "--model", "lonlat"], "encodes places"),
        ([*MAP, "--labels", "labels.gpkg", "--dry-run"], "--labels: there is no"),
        (["run", "earth-map", "--data", "area=scene.tif"], "give --labels"),
        (["run", "earth-bench", "--suite", ""], "give --data"),
        (["run", "earth-bench", "--protocols", "knn"], "--protocols knn"),
        (["run", "earth-embed", "--data", "area=none.tif"], "none.tif"),
        (["run", "earth-embed", "--data", "area=scene.tif", "--tile", "64", "--unit", "refl"], "--tile 64"),
    ],
)
def test_what_is_wrong_is_one_line(place, main, words, message):
    assert main(words) == 2
    shown = main.err.strip()
    assert message in shown
    assert "\n" not in shown
