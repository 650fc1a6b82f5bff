"""Whole runs of prompt-diffuser on HalfCheetah's directions with tiny data: a policy as a stage, own shots, kill -9."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tests.commands.run_files import assert_kill_9_changes_nothing, lines

from manyone.data.trajectories.trajectories import Trajectories
from manyone.policies import load_policy

NET = ("--width", 16, "--layers", 1, "--heads", 2, "--context", 4, "--prompt", 3, "--pretrain-steps", 6)
SMALL = ("--horizon", 12, "--eval-episodes", 2, "--workers", 1, "--checkpoint-every", 3)
DIFFUSER = ("--batch-size", 4, "--guidance-batch", 2, "--diffusion-steps", 3, "--denoiser-width", 16, "--steps", 5,
            "--adapt-steps", 4)  # fmt: skip


@pytest.fixture(scope="session")
def episodes(shared_cache):
    """TASK=FOLDER of both directions: four short episodes of random actions each."""
    draws = np.random.Generator(np.random.Philox(9))
    words = []
    for task in ("cheetah-dir:0", "cheetah-dir:1"):
        folder = shared_cache / "prompt-tasks" / task.replace(":", "-")
        if not folder.exists():
            each = [
                {
                    "observations": draws.standard_normal((30, 20)) + int(task[-1]),
                    "actions": draws.uniform(-1, 1, (30, 6)),
                    "rewards": draws.standard_normal(30),
                }
                for _ in range(4)
            ]
            Trajectories.from_episodes(task, each).save(folder)
        words.append(f"{task}={folder}")
    return words


def test_a_run_trains_its_policy_first_and_a_later_one_adapts_it_to_the_users_task(manyone, tmp_path, episodes):
    words = ("--data", *episodes, "--shots", episodes[1], *NET, *SMALL, *DIFFUSER)
    code, out, err = manyone("run", "prompt-diffuser", *words, "--evaluate-every", 5, "--out", "r")
    assert code == 0, err
    assert "cheetah-dir:1" in out
    assert "before the adaptation" in out
    assert "states are standardised by its own of the training in cheetah-dir:1" in err
    records = lines(tmp_path / "r/metrics.jsonl")
    assert [record["stage"] for record in records if record["kind"] == "train"] == [1] * 5 + [2] * 4
    assert (tmp_path / "r/stages/policy/model/config.json").is_file()
    policy = load_policy(tmp_path / "r/model")
    assert policy.tasks == ("cheetah-dir:1",)
    policy.reset("cheetah-dir:1")
    assert policy.act(np.zeros(20)).shape == (6,)
    assert manyone("eval", "r", "--episodes", 1)[0] == 0
    assert manyone("report", "r")[0] == 0
    titles = {figure["title"] for figure in json.loads((tmp_path / "r/figures.json").read_text())}
    assert {"Cosine of the two gradients", "States and actions of prompts"} <= titles

    stage, model = tmp_path / "r/stages/policy/model", tmp_path / "r/model"
    for number, given in enumerate((stage, model)):  # a policy alone; one with the training tasks' diffuser
        own = ("--policy", given, "--shots", episodes[0], *SMALL, "--batch-size", 4, "--guidance-batch", 2)
        more = ("--adapt-steps", 3) + (() if number else ("--diffusion-steps", 3, "--denoiser-width", 16))
        code, out, err = manyone("run", "prompt-diffuser", *own, *more, "--out", f"a{number}")
        assert code == 0, err
        kinds = [record["stage"] for record in lines(tmp_path / f"a{number}/metrics.jsonl") if "stage" in record]
        assert kinds == [2] * 3
        assert load_policy(tmp_path / f"a{number}/model").tasks == ("cheetah-dir:0",)


@pytest.mark.parametrize(
    "words",
    [
        ("--zero-shot", "--layout", "per_step"),
        ("--no-stage1", "--projection", "subspace", "--subspace", "columns", "--subspace-history", 2),
        ("--losses", "imitation", "--guidance", "one-step", "--prediction", "data", "--no-reward"),
        ("--condition", "rtg_time_context", "--projection", "one-sided", "--granularity", "tensor", "--clip", 3),
    ],
)
def test_controls_and_readings_train_and_act(manyone, tmp_path, episodes, words):
    given = [w for w in DIFFUSER if not ("--zero-shot" in words and w in ("--adapt-steps", 4))]
    if "--zero-shot" in words:
        given = [*DIFFUSER[:-2]]
    words = ("--data", *episodes, "--shots", episodes[0], *NET, *SMALL, *given, *words, "--out", "r")
    code, _, err = manyone("run", "prompt-diffuser", *words)
    assert code == 0, err
    assert np.isfinite(lines(tmp_path / "r/metrics.jsonl")[-1]["return"])
    assert load_policy(tmp_path / "r/model").tasks == ("cheetah-dir:0",)


def test_without_a_simulator_actions_are_compared(manyone, tmp_path, episodes):
    pairs = [word.replace("cheetah-dir:", "task-") for word in episodes]
    words = ("--data", pairs[0], "--shots", pairs[1], "--no-simulator", *NET, *DIFFUSER)
    code, out, err = manyone("run", "prompt-diffuser", *words, "--checkpoint-every", 3, "--out", "r")
    assert code == 0, err
    assert "action error" in out
    assert "action_error" in lines(tmp_path / "r/metrics.jsonl")[-1]


@pytest.mark.parametrize(
    ("watched", "after"),
    [("stages/policy/metrics.jsonl", 5), pytest.param("metrics.jsonl", 40, marks=pytest.mark.long)],
)
def test_kill_9_in_the_first_or_last_stage_then_resume_is_bit_identical(manyone, tmp_path, episodes, watched, after):
    words = ("prompt-diffuser", "--data", *episodes, "--shots", *episodes, *NET, *SMALL, *DIFFUSER)
    words = (*words, "--pretrain-steps", 40, "--steps", 30, "--adapt-steps", 30)
    assert_kill_9_changes_nothing(manyone, tmp_path, words, after=after, records=["episodes.jsonl"], watched=watched)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--shots", "x=y"), "--shots alone: give --policy too"),
        (("--data", "x=y"), "--data are tasks to train on: give --shots"),
        (("--suite", "cheetah-dir", "--policy", "p", "--width", 8), "--width: does nothing with --policy"),
        (("--guidance-batch", 64), "--guidance-batch 64: must be at most --batch-size 48"),
        (("--embedding", 5), "--embedding 5: must be an even number"),
        (("--zero-shot", "--adapt-steps", 3), "--adapt-steps 3: must be 0 with --zero-shot"),
        (("--zero-shot", "--condition", "rtg_time_context"), "must be rtg_time with --zero-shot"),
        (("--no-stage1", "--stage1-tasks", 2), "--stage1-tasks: does nothing with --no-stage1"),
        (("--subspace-history", 3), "--subspace-history 3: does nothing without --projection subspace"),
        (("--prompts", "x=y"), "must be given with --shots"),
        (("--policy", "nowhere"), "nowhere"),
        (("--width", 10), "--width 10: must be a multiple of --heads 4"),
    ],
)
def test_wrong_options_end_with_one_line(manyone, words, message):
    code, _, err = manyone("run", "prompt-diffuser", *words)
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
