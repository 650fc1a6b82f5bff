"""``manyone run RECIPE --seeds N``: runs side by side, one table with intervals, going on with what is missing."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import safetensors.torch
import torch

from manyone.engine.run import RunFolder
from manyone.evaluation.intervals import t_interval

TOY = [sys.executable, str(Path(__file__).with_name("toy_recipe.py"))]


def weights(run):
    return safetensors.torch.load_file(Path(run) / "model" / "model.safetensors")


def final(run):
    return next(r for r in RunFolder.open(run).metrics() if r["kind"] == "final")


def test_n_runs_equal_single_ones_and_make_one_table(manyone, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    code, out, err = manyone("run", "toy", "--seeds", "3", "--seed=4", "--workers=2", "--out", "many")
    assert code == 0, err
    assert "toy, 3 seeds" in out
    assert out.endswith("runs: many\nnext: manyone report many\n")
    data = json.loads(Path("many/seeds.json").read_text())
    assert (data["recipe"], data["seeds"]) == ("toy", [4, 5, 6])
    errors = [final(f"many/seed-{seed}")["error"] for seed in (4, 5, 6)]
    interval = t_interval(errors)
    assert data["metrics"]["error"] == {
        "mean": interval.value, "low": interval.low, "high": interval.high,
        "values": dict(zip("456", errors)),
    }  # fmt: skip
    assert len(set(errors)) == 3
    assert manyone("run", "toy", "--seed", "5", "--out", "one")[0] == 0
    assert all(torch.equal(a, b) for a, b in zip(weights("one").values(), weights("many/seed-5").values()))
    assert not list(Path("many").glob(".running*"))
    # each is an ordinary run
    code, _, err = manyone("eval", "many/seed-5")
    assert code == 0, err
    code, out, err = manyone("eval", "many")
    assert code == 0, err
    assert "many on test" in out
    assert "95 % interval" in out
    assert manyone("resume", "many/seed-5")[1].startswith("many/seed-5 is finished already")
    assert manyone("report", "many")[0] == 0
    page = Path("many/report.html").read_text()
    for part in ("Over the seeds of many", "seed-4", "seed-6", "95 % interval"):
        assert part in page


def test_the_same_command_goes_on_with_what_is_missing(manyone):
    assert manyone("run", "toy", "--seeds", "2", "--out", "many")[0] == 0
    kept = Path("many/seed-0/done").stat().st_mtime_ns
    assert manyone("run", "toy", "--seeds", "3", "--out", "many")[0] == 0, "more seeds than before"
    assert Path("many/seed-0/done").stat().st_mtime_ns == kept
    (Path("many/seed-1") / "done").unlink()
    assert manyone("resume", "many")[0] == 0
    assert Path("many/seed-1/done").is_file()
    code, _, err = manyone("run", "toy", "--seeds", "2", "--out", "many", "--rate", "0.1")
    assert code == 2
    assert err == (
        "manyone: many holds runs with other options (rate): choose another folder with --out, "
        "or replace them with --overwrite\n"
    )
    assert manyone("run", "toy", "--seeds", "2", "--out", "many", "--rate", "0.1", "--overwrite")[0] == 0
    assert RunFolder.open("many/seed-1").options["rate"] == 0.1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seeds", "0"], "--seeds 0: must be at least 1"),
        (["--seeds", "x"], "argument --seeds: invalid int value: 'x' (manyone run RECIPE --help)"),
        (["--seeds", "2", "--workers", "0"], "--workers 0: must be at least 1"),
        (["--seeds", "2", "--out", "full"], "full exists and holds no seeds.json: choose another folder with --out"),
        (["--seeds", "2", "--rate", "0"], "--rate 0.0: must be above 0"),
        (["--workers", "2"], "unknown option '--workers' of recipe 'toy'"),
    ],
)
def test_wrong_words(manyone, words, message):
    Path("full").mkdir()
    Path("full/file").touch()
    code, _, err = manyone("run", "toy", *words)
    assert code == 2
    assert err.startswith(f"manyone: {message}")
    assert err.count("\n") == 1


def test_a_plan_writes_nothing(manyone, tmp_path):
    code, out, _ = manyone("run", "toy", "--seeds", "3", "--out", "many", "--dry-run")
    assert code == 0
    assert out.startswith("plan: 60 steps, 0 inputs\n")
    assert out.endswith("nothing was written\nas many runs as seeds, 3: many/seed-0 to many/seed-2\n")
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_fails_is_named_with_its_log(manyone):
    code, _, err = manyone("run", "toy", "--seeds", "2", "--out", "many", "--nan-at", "15", "--workers", "1")
    assert code == 2
    log = Path("many/seed-0.log").absolute()
    line = err.splitlines()[-1]  # below the progress
    assert line.startswith("manyone: seed 0: the loss is nan at step 15: the last good checkpoint is step 10")
    assert line.endswith(f"(log: {log}; what is done is kept: manyone resume many goes on)")
    assert "the loss is nan" in log.read_text()
    assert manyone("report", "many")[0] == 0
    assert manyone("resume", "many", "--workers", "1")[0] == 2


@pytest.mark.long
def test_sigterm_saves_every_run_and_resume_gives_the_same_numbers(manyone, tmp_path):
    words = ["--seeds", "2", "--workers", "2", "--schedule.checkpoint-every", "0"]
    assert manyone("run", "toy", *words, "--out", "whole")[0] == 0
    source = str(Path(__file__).parents[2] / "src")
    process = subprocess.Popen(
        [*TOY, "run", "toy", *words, "--pause", "0.05", "--out", "many"],
        env={**os.environ, "PYTHONPATH": source}, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    lines = [tmp_path / f"many/seed-{seed}/metrics.jsonl" for seed in (0, 1)]
    deadline = time.monotonic() + 100
    while time.monotonic() < deadline and not all(f.exists() and f.read_bytes().count(b"\n") > 9 for f in lines):
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143
    assert err.splitlines()[-1] == "manyone: stopped by SIGTERM; what is done is kept: manyone resume many goes on"
    for seed in (0, 1):
        assert "the state is saved" in Path(f"many/seed-{seed}.log").read_text()
        assert list(Path(f"many/seed-{seed}/checkpoints").iterdir())
    assert manyone("resume", "many")[0] == 0
    before, after = (json.loads(Path(f"{name}/seeds.json").read_text())["metrics"] for name in ("whole", "many"))
    assert before == after
