"""Lists of values on the command line: a run each, one table, the best by the validation split."""

from __future__ import annotations

import json
from pathlib import Path


def test_a_list_of_scales_is_a_run_each_and_the_best_by_val(manyone, tmp_path):
    words = ("run", "task-arithmetic", "--suite", "fixture", "--no-measure", "--scale", "0.05,0.3", "--out", "s")
    code, out, err = manyone(*words, "--select", "val")
    assert code == 0, err
    best = json.loads(Path("s/best.json").read_text())
    assert (best["metric"], best["split"]) == ("accuracy", "val")
    measured = {}
    for scale in ("0.05", "0.3"):
        from manyone.recipes.execution import reopen
        from manyone.recipes.table import runner

        folder, options = reopen(Path(f"s/scale-{scale}"))
        assert options.scale == float(scale)
        measured[scale] = runner("task-arithmetic").evaluate(options, None, folder, "val")["accuracy"]
    assert best["options"]["scale"] == max(measured, key=measured.get)
    assert best["value"] == max(measured.values())
    assert "best" in out
    assert "note" not in out
    code, out, err = manyone(*words, "--select", "test")
    assert code == 0, err
    assert "note: chosen on the test split: its figure is too good" in out


def test_lists_and_words_that_are_none(manyone):
    code, _, err = manyone("run", "ties", "--suite", "fixture", "--select", "val")
    assert code == 2
    assert "give an option a list" in err
    code, _, err = manyone("run", "ties", "--suite", "fixture", "--density", "0.1,,0.2")
    assert code == 2
    assert "--density 0.1,,0.2: a list has different values" in err
    code, _, err = manyone("run", "ties", "--suite", "fixture", "--density", "0.1,3")
    assert code == 2
    assert "--density 3" in err
    code, out, err = manyone("run", "ties", "--suite", "fixture", "--density", "0.1,0.2", "--merge", "sum,mean",
                             "--dry-run", "--out", "d")  # fmt: skip
    assert code == 0, err
    assert "4 combinations, below d: density-0.1_merge-sum, density-0.1_merge-mean, density-0.2_merge-sum" in out
    assert not Path("d").exists()
