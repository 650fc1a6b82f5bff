"""Whole runs of obd, obd-es and bc on episodes of a user's own: scores, resume after kill -9, policies, bad input."""

import json

import numpy as np
import pytest
import torch
from examples.own_data import main
from tests.commands.run_files import assert_kill_9_changes_nothing, lines

from manyone.behavior import load_distilled, load_policy, students
from manyone.randomness import seed_for

TASK = "gym:Pendulum-v1"
SMALL = ("--width", 8, "--layers", 3, "--size", 6, "--inner-steps", 3, "--batch-size", 16, "--eval-episodes", 2,
         "--students", 2, "--horizon", 10, "--workers", 1)  # fmt: skip
TAUGHT = ("--teacher", "td3bc", "--teacher-steps", 20, "--weights", "q")  # rewards here are never above 0


@pytest.fixture(scope="session")
def pendulum(shared_cache):
    """The folder of a controller's episodes."""
    folder = shared_cache / "pendulum"
    if not folder.exists():
        main(str(folder))
    return folder


@pytest.fixture
def distilled(manyone, tmp_path, pendulum):
    """A folder with a distilled set."""
    code, _, err = manyone("run", "obd", "--data", f"{TASK}={pendulum}", *SMALL, "--objective", "dbc", "--steps", 4,
                           "--no-baselines", "--out", "set")  # fmt: skip
    assert code == 0, err
    return tmp_path / "set"


def test_a_run_trains_its_teacher_scores_and_draws(manyone, tmp_path, pendulum):
    words = ("obd", "--data", f"{TASK}={pendulum}", *SMALL, *TAUGHT, "--steps", 6, "--evaluate-every", 3)
    code, out, err = manyone("run", *words, "--out", "r")
    assert code == 0, err
    for row in ("av-pbc, 6 pairs", "its ensemble", "teacher", "everything cloned", "random pairs"):
        assert row in out, out
    records = lines(tmp_path / "r/metrics.jsonl")
    assert [r["step"] for r in records if r["kind"] == "eval"] == [0, 3]
    final = records[-1]
    assert {"return", "students_spread", "episodes_spread", "ensemble_return"} <= set(final)
    assert final["step"] == 6
    assert (tmp_path / f"r/stages/teacher-{TASK.replace(':', '-')}/model/config.json").is_file()
    assert manyone("report", "r")[0] == 0
    page = (tmp_path / "r/report.html").read_text()
    assert "everything cloned" in page
    found = load_distilled(tmp_path / "r/model")
    assert (len(found), found.info["teacher"], found.info["objective"]) == (6, "td3bc", "av-pbc")
    code, out, err = manyone("eval", "r")
    assert code == 0, err
    assert f"{final['return']:.6g}" in out


def test_kill_9_changes_nothing(manyone, tmp_path, pendulum):
    words = ("obd", "--data", f"{TASK}={pendulum}", *SMALL, *TAUGHT, "--no-simulator", "--steps", 400)
    words = [w for w in words if w not in ("--horizon", 10)]
    words += ["--checkpoint-every", 20, "--no-baselines"]
    assert_kill_9_changes_nothing(manyone, tmp_path, words, after=50)


def test_a_teacher_that_was_trained_before_serves_again(manyone, tmp_path, pendulum):
    code, _, err = manyone("run", "iql", "--data", f"{TASK}={pendulum}", "--width", 8, "--steps", 20, "--eval-episodes",
                           1, "--horizon", 10, "--workers", 1, "--out", "teacher")  # fmt: skip
    assert code == 0, err
    code, _, err = manyone("run", "obd", "--data", f"{TASK}={pendulum}", *SMALL, "--teacher", "teacher", "--weights",
                           "q", "--steps", 2, "--no-baselines", "--out", "r")  # fmt: skip
    assert code == 0, err
    assert load_distilled(tmp_path / "r/model").info["teacher"] == "iql"


def test_behaviour_cloning_is_a_teacher_without_values(manyone, tmp_path, pendulum):
    words = ("obd", "--data", f"{TASK}={pendulum}", *SMALL, "--teacher", "bc", "--teacher-steps", 20, "--steps", 2,
             "--no-baselines")  # fmt: skip
    code, _, err = manyone("run", *words, "--objective", "pbc", "--out", "r")
    assert code == 0, err
    assert load_distilled(tmp_path / "r/model").info["teacher"] == "bc"
    code, _, err = manyone("run", *words, "--out", "no")
    assert code == 2
    assert "--teacher bc: must be one with values (calql, iql, td3bc) for av-pbc" in err
    assert not (tmp_path / "no").exists()


def test_a_policy_is_cloned_from_the_set_alone(manyone, tmp_path, distilled):
    code, out, err = manyone("run", "bc", "--data", "set", "--eval-episodes", 2, "--workers", 1, "--out", "bc")
    assert code == 0, err
    assert "policy: " in out
    policy = load_policy(tmp_path / "bc/model")
    policy.reset()
    actions = policy.act(np.zeros((3, 3)))
    assert actions.shape == (3, 1)
    assert np.abs(actions).max() <= 2
    code, out, err = manyone("eval", "bc", "--episodes", 1)
    assert code == 0, err


def test_the_command_s_students_are_the_library_s(manyone, tmp_path, distilled):
    words = ("bc", "--data", "set", "--students", 2, "--eval-episodes", 1, "--workers", 1)
    assert manyone("run", *words, "--out", "bc")[0] == 0
    found, policy = load_distilled(distilled / "model"), load_policy(tmp_path / "bc/model")
    seeds = [seed_for(0, "student of a set", k) for k in range(2)]
    trained = students.train(found, seeds=seeds)
    for name, value in trained.weights.items():
        torch.testing.assert_close(policy.policies.weights[name], value, atol=1e-5, rtol=1e-4)


def test_everything_is_cloned_in_steps(manyone, tmp_path, pendulum):
    words = ("bc", "--data", f"{TASK}={pendulum}", "--width", 8, "--steps", 5, "--fraction", 0.5, "--students", 2,
             "--eval-episodes", 1, "--horizon", 10, "--workers", 1)  # fmt: skip
    code, out, err = manyone("run", *words, "--out", "r")
    assert code == 0, err
    assert "ensemble of 2" in out
    assert len(load_policy(tmp_path / "r/model").policies) == 2


def test_evolution_runs_and_goes_on(manyone, tmp_path, pendulum):
    words = ("obd-es", "--data", f"{TASK}={pendulum}", *[w for w in SMALL if w not in ("--batch-size", 16)],
             "--population", 4, "--steps", 2)  # fmt: skip
    code, out, err = manyone("run", *words, "--out", "r")
    assert code == 0, err
    assert "evolved, 6 pairs" in out
    assert len(load_distilled(tmp_path / "r/model")) == 6


def test_without_a_simulator_the_losses_are_known(manyone, tmp_path, pendulum):
    words = [w for w in SMALL if w not in ("--horizon", 10)]
    code, _, err = manyone("run", "obd", "--data", f"mine={pendulum}", *words, *TAUGHT, "--no-simulator", "--steps", 2,
                           "--out", "r")  # fmt: skip
    assert code == 0, err
    assert load_distilled(tmp_path / "r/model").frame.environment is None


def test_a_plan_writes_nothing(manyone, tmp_path):
    code, out, _ = manyone("run", "obd", "--dry-run")
    assert code == 0
    assert "mujoco-hopper-medium-replay" in out
    assert "256 pairs" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("obd", "--teacher", "nobody"), "--teacher nobody: no such file or folder, and none of auto, expert"),
        (("obd", "--teacher", "expert"), "teacher expert: gym:Pendulum-v1 has none"),
        (("obd", "--size", "0"), "--size 0: must be 1 or more"),
        (("obd", "--weights", "q", "--objective", "pbc"), "--weights q: does nothing without --objective av-pbc"),
        (("obd", "--student", "residual", "--layers", "3"), "--layers 3: must be 4 with --student residual"),
        (("obd", "--size", "100000"), "--size 100000: must be at most the "),
        (("obd-es", "--size", "100000"), "--size 100000: must be at most the "),
        (("obd-es", "--no-simulator"), "--no-simulator: evolution plays in the environment"),
        (("obd", "--keys", "a,b", "--objective", "dbc"), "--keys a,b: none of the data has observations with entries"),
        (("bc", "--set", "x"), "--set x: is for a folder of distilled sets"),
        (("obd-es", "--population", "3"), "--population 3: must be an even number"),
    ],
)
def test_wrong_options_are_named(manyone, tmp_path, pendulum, words, message):
    code, _, err = manyone("run", *words, "--data", f"{TASK}={pendulum}", "--workers", 1, "--out", "r")
    assert code == 2
    assert message in err
    assert len([line for line in err.strip().splitlines() if "data of" not in line]) == 1
    assert not (tmp_path / "r").exists()


def test_a_teacher_that_does_not_serve_leaves_no_folder(manyone, tmp_path, pendulum):
    data = ("--data", f"{TASK}={pendulum}", *SMALL)
    assert manyone("run", "iql", *data[:2], "--width", 8, "--steps", 2, "--no-simulator", "--out", "teacher")[0] == 0
    wide, zero = tmp_path / "wide", tmp_path / "zero"
    for folder, key, change in ((wide, "observations", lambda a: np.tile(a, 2)), (zero, "rewards", lambda a: 0 * a)):
        folder.mkdir()
        with np.load(pendulum / "0.npz") as one:
            np.savez(folder / "0.npz", **{k: change(one[k]) if k == key else one[k] for k in one.files})
    words = [w for w in SMALL if w not in ("--horizon", 10)]
    for place, teacher, message in ((wide, "teacher", "states of width 3 and 1 actions; x has states of width 6"),
                                    (zero, "td3bc", "x: all rewards are 0, and td3bc learns")):  # fmt: skip
        code, _, err = manyone("run", "obd", "--data", f"x={place}", *words, "--no-simulator", "--teacher", teacher,
                               "--out", "r")  # fmt: skip
        assert code == 2
        assert message in err
        assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("obd", "--suite", "mujoco-hoper"), "--suite mujoco-hoper: did you mean 'mujoco-hopper'?"),
        (("bc", "--suite", "mujoco-hopper-medium"), "did you mean 'mujoco-hopper'? (its quality is --quality)"),
        (("iql", "--suite", "metaworld-mt10", "--dry-run"), "--suite metaworld-mt10: "),
    ],
)
def test_suites_are_those_of_behavior(manyone, tmp_path, words, message):
    code, _, err = manyone("run", *words, "--out", "r")
    assert code == 2
    assert message in err
    assert not (tmp_path / "r").exists()


def test_a_set_is_no_data_and_no_teacher(manyone, tmp_path, pendulum, distilled):
    for words, message in (
        (("bc", "--data", f"{TASK}=set"), "a distilled set knows its environment: give --data /"),
        (("bc", "--data", "set", "--set", "x"), f"--set x: one of {TASK}"),
        (("bc", "--data", "set", "--keys", "x"), "--keys: does nothing on a distilled set"),
        (
            ("obd", "--data", f"{TASK}={pendulum}", "--teacher", "set"),
            "distilled set, not a teacher: give the folder of",
        ),
    ):
        code, _, err = manyone("run", *words, "--out", "r")
        assert code == 2, words
        assert message in err
        assert not (tmp_path / "r").exists()


def test_a_run_that_is_not_finished_has_nothing_to_evaluate(manyone, tmp_path, distilled):
    (distilled / "model").rename(tmp_path / "elsewhere")
    code, _, err = manyone("eval", "set")
    assert code == 2
    assert "set: not finished, nothing to evaluate yet: manyone resume" in err


def test_data_without_a_positive_reward_are_named(manyone, tmp_path, pendulum):
    words = [w for w in SMALL if w not in ("--horizon", 10)]
    code, _, err = manyone("run", "obd", "--data", f"x={pendulum}", *words, *TAUGHT[:4], "--no-simulator", "--steps",
                           1, "--out", "r")  # fmt: skip
    assert code == 0, err
    assert "x: no reward is above 0, so that no state has a value to be weighed by: --objective pbc" in err


def test_the_evaluation_of_a_set_s_policy_is_as_asked(manyone, tmp_path, distilled):
    code, _, err = manyone("run", "bc", "--data", "set", "--eval-episodes", 1, "--workers", 1, "--horizon", 4,
                             "--reference", f"{TASK}=-100,0", "--out", "bc")  # fmt: skip
    assert code == 0, err
    found = lines(tmp_path / "bc/metrics.jsonl")[-1]
    assert found["episode_length"] == 4
    assert found["normalised"] == pytest.approx((found["return"] + 100) / 100)
    code, _, err = manyone("run", "bc", "--data", "set", "--reference", "x=0,1", "--out", "no")
    assert code == 2
    assert f"--reference x=0,1: needs one of the tasks {TASK}" in err
    assert not (tmp_path / "no").exists()


def test_a_set_of_other_widths_is_no_policy(manyone, distilled):
    code, _, err = manyone("run", "bc", "--data", "set", "--fraction", "0.5", "--out", "r")
    assert code == 2
    assert "--fraction 0.5: a distilled set has no episodes" in err
    config = json.loads((distilled / "model/config.json").read_text())
    config["sets"][0]["pairs"] = 7
    (distilled / "model/config.json").write_text(json.dumps(config))
    code, _, err = manyone("run", "bc", "--data", "set", "--out", "r")
    assert code == 2
    assert "model.safetensors: pairs of [6, 3] and [6, 1]" in err
