"""Whole runs of calql, iql and td3bc on episodes of a user's own: training, resume after kill -9, scores, bad input."""

import json

import numpy as np
import pytest
from examples.own_data import main
from tests.commands.run_files import assert_kill_9_changes_nothing, lines

from manyone.behavior.teachers.artefact import read_teacher

TASK = "gym:Pendulum-v1"
SMALL = ("--width", 8, "--steps", 30, "--eval-episodes", 2, "--horizon", 20, "--workers", 1)


@pytest.fixture(scope="session")
def pendulum(shared_cache):
    """The folder of a controller's episodes."""
    folder = shared_cache / "pendulum"
    if not folder.exists():
        main(str(folder))
    return folder


@pytest.mark.parametrize("recipe", ["calql", "iql", "td3bc"])
def test_a_run_trains_scores_and_exports_a_teacher(manyone, tmp_path, pendulum, recipe):
    code, out, err = manyone("run", recipe, "--data", f"{TASK}={pendulum}", *SMALL, "--out", "r")
    assert code == 0, err
    assert "teacher: " in out
    final = lines(tmp_path / "r/metrics.jsonl")[-1]
    assert final["kind"] == "final"
    saved = read_teacher(tmp_path / "r/model")
    assert saved.teacher.name == recipe
    assert saved.info["return"] == final["return"]
    assert saved.frame.high.tolist() == [2]
    code, out, err = manyone("eval", "r")
    assert code == 0, err
    assert f"{final['return']:.6g}" in out


@pytest.mark.long
def test_kill_9_changes_nothing(manyone, tmp_path, pendulum):
    words = ("calql", "--data", f"{TASK}={pendulum}", "--no-simulator", "--width", 16, "--steps", 400)
    words += ("--checkpoint-every", 40)
    assert_kill_9_changes_nothing(manyone, tmp_path, words, after=60)


def test_the_paper_s_settings_are_the_published_ones(manyone, tmp_path, pendulum):
    code, out, err = manyone("run", "calql", "--preset", "paper", "--data", f"{TASK}={pendulum}", "--dry-run")
    assert code == 0, err
    assert "1000000 updates of 256 transitions, networks of width 256" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--tau", "0"), "--tau 0.0: must be above 0"),
        (("--expectile", "1"), "--expectile 1.0: must be"),
        (("--alpha", "1"), "--alpha"),
    ],
)
def test_what_cannot_be_meant_is_refused(manyone, tmp_path, pendulum, words, message):
    code, _, err = manyone("run", "iql", "--data", f"{TASK}={pendulum}", *words)
    assert code == 2
    assert message in err
    assert not (tmp_path / "runs").exists()


def test_data_without_rewards_are_refused_before_anything_is_written(manyone, tmp_path, pendulum):
    folder = tmp_path / "zero"
    folder.mkdir()
    for number in range(2):
        with np.load(pendulum / f"{number}.npz") as one:
            np.savez(folder / f"{number}.npz", **{k: 0 * one[k] if k == "rewards" else one[k] for k in one.files})
    code, _, err = manyone("run", "iql", "--data", f"{TASK}={folder}", *SMALL, "--out", "r")
    assert code == 2
    assert f"{TASK}: all rewards are 0, and iql learns from rewards" in err
    assert not (tmp_path / "r").exists()


def test_two_data_sets_are_two_runs(manyone, pendulum):
    pair = [f"{name}={pendulum}" for name in ("one", "two")]
    code, _, err = manyone("run", "td3bc", "--no-simulator", "--data", *pair)
    assert code == 2
    assert "td3bc trains on one data set, here are one, two: run it once for each" in err


def test_a_run_s_teacher_teaches_a_distillation(manyone, tmp_path, pendulum):
    data = ("--data", f"{TASK}={pendulum}")
    assert manyone("run", "iql", *data, *SMALL, "--out", "t")[0] == 0
    words = ("--teacher", "t", "--size", 4, "--steps", 2, "--width", 8, "--inner-steps", 2, "--no-baselines")
    words += ("--objective", "pbc")  # of rewards that are never above 0 no value is
    code, _, err = manyone(
        "run", "obd", *data, *words, "--students", 1, "--eval-episodes", 1, "--horizon", 5, "--out", "d"
    )
    assert code == 0, err
    config = json.loads((tmp_path / "d/model/config.json").read_text())
    assert config["sets"][0]["info"]["teacher"] == "iql"
