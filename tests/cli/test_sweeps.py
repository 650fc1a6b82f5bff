"""Lists of values and several seeds together, on a toy recipe."""

import json
import statistics
from pathlib import Path

from manyone.engine.run import RunFolder


def test_each_combination_has_its_seeds_and_their_mean_decides(manyone):
    words = ("run", "toy", "--rate", "0.01,0.05", "--seeds", "2", "--workers=2", "--out", "many", "--select", "error")
    code, out, err = manyone(*words)
    assert code == 0, err
    means = {}
    for rate in ("0.01", "0.05"):
        folder = Path(f"many/rate-{rate}")
        assert json.loads((folder / "seeds.json").read_text())["seeds"] == [0, 1]
        finals = [RunFolder.open(folder / f"seed-{seed}").metrics()[-1] for seed in (0, 1)]
        means[rate] = statistics.fmean(final["error"] for final in finals)
    best = json.loads(Path("many/best.json").read_text())
    assert best["value"] in means.values()
    assert best["value"] == means[best["options"]["rate"]]
    assert "note: chosen by error of the last lines" in out
    kept = Path("many/rate-0.01/seed-0/done").stat().st_mtime_ns
    assert manyone(*words)[0] == 0
    assert Path("many/rate-0.01/seed-0/done").stat().st_mtime_ns == kept


def test_a_run_with_other_options_is_not_replaced(manyone):
    assert manyone("run", "toy", "--rate", "0.01,0.05", "--out", "many")[0] == 0
    code, _, err = manyone("run", "toy", "--rate", "0.01,0.05", "--steps", "5", "--out", "many")
    assert code == 2
    assert "holds a run with other options (steps)" in err
