"""Whole runs that adapt a frozen policy to new tasks: every method, a policy trained on the way, kill -9, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tests.commands.run_files import assert_kill_9_changes_nothing, lines

from manyone.data.trajectories.trajectories import Trajectories
from manyone.policies import load_policy
from manyone.policies.prompt_tuning.methods import METHODS

NEW = ("point-robot:2", "point-robot:7")
NET = ("--width", 16, "--layers", 1, "--heads", 2, "--context", 4, "--prompt", 3, "--pretrain-steps", 6)
SMALL = ("--horizon", 8, "--eval-episodes", 2, "--batch-size", 4, "--device", "cpu", "--workers", 1)


@pytest.fixture(scope="session")
def few(shared_cache):
    """Words that name data of two tasks to train on, and of two new ones: six short episodes of random actions each."""
    draws, words = np.random.Generator(np.random.Philox(5)), {"--data": [], "--shots": []}
    for option, tasks in (("--data", ("point-robot:0", "point-robot:1")), ("--shots", NEW)):
        for task in tasks:
            folder = shared_cache / "few" / task.replace(":", "-")
            if not folder.exists():
                episodes = [
                    {
                        "observations": draws.standard_normal((12, 2)),
                        "actions": draws.uniform(-1, 1, (12, 2)),
                        "rewards": -draws.random(12),
                    }
                    for _ in range(6)
                ]
                Trajectories.from_episodes(task, episodes).save(folder)
            words[option].append(f"{task}={folder}")
    return words


def test_every_method_adapts_one_policy_and_exports_what_acts(manyone, process, tmp_path, few):
    words = ("--data", *few["--data"], *NET[:-4], "--prompt", 3, "--steps", 6, *SMALL)
    assert manyone("run", "prompt-dt", *words, "--out", "base")[0] == 0
    base = {n: v for n, v in load_file(tmp_path / "base/model/model.safetensors").items() if n.startswith("model.")}
    for method in METHODS:
        more = ("--candidates", 3, "--rollouts", 1) if method == "ranking-online" else ()
        own = ("--policy", "base", "--shots", *few["--shots"], "--method", method, "--prompt-count", 2, *more)
        steps = 1 if method == "none" else 3
        code, out, err = manyone("run", "prompt-tuning", *own, "--steps", steps, *SMALL, "--out", method)
        assert code == 0, err
        assert "before the adaptation" in out
        assert "point-robot:7" in out
        assert {"return", "return/point-robot:2"} <= set(lines(tmp_path / method / "metrics.jsonl")[-1])
        held = load_file(tmp_path / method / "model/model.safetensors")
        assert all(torch.equal(held[n], value) for n, value in base.items()), method
        policy = load_policy(tmp_path / method / "model")
        assert policy.tasks == NEW
        policy.reset([NEW[0], NEW[1], NEW[0]])
        assert policy.act(np.zeros((3, 2))).shape == (3, 2)
    code, out, err = manyone("eval", "lora", "--episodes", 3, "--seed", 4)
    assert code == 0, err
    assert "return/point-robot:2" in out


def test_a_policy_trained_on_the_way_and_kill_9_change_nothing(manyone, tmp_path, few):
    words = ("prompt-tuning", "--data", *few["--data"], "--shots", *few["--shots"], *NET, *SMALL, "--method", "adaptor",
             "--steps", 120, "--checkpoint-every", 11)  # fmt: skip
    policy = "stages/policy/model/model.safetensors"
    files = ("model/model.safetensors", "model/config.json", policy)
    assert_kill_9_changes_nothing(manyone, tmp_path, words, after=15, records=["episodes.jsonl"], files=files)
    code, out, err = manyone("eval", "cut")
    assert code == 0, err
    assert "return" in out


def test_without_a_simulator_actions_are_compared(manyone, tmp_path, few):
    words = ("--data", *few["--data"], "--shots", *few["--shots"], *NET, *SMALL[2:], "--no-simulator")
    code, out, err = manyone("run", "prompt-tuning", *words, "--steps", 3, "--out", "r")
    assert code == 0, err
    for point in ("before the adaptation", "mean action of the data"):
        assert point in out
    assert lines(tmp_path / "r/metrics.jsonl")[-1]["action_error"] > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--method", "prefix"), "prefix"),
        (("--method", "soft", "--rank", 3), "does nothing without --method lora"),
        (("--shots", "point-robot:2=nowhere"), "give --policy too"),
        (("--policy", "nowhere"), "nowhere"),
    ],
)
def test_wrong_options_give_one_line_with_the_fix(manyone, tmp_path, words, message):
    code, _, err = manyone("run", "prompt-tuning", *words, "--out", "r")
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
    assert not (tmp_path / "r").exists()


def test_a_dry_run_says_what_would_be_made(manyone, tmp_path):
    code, out, err = manyone("run", "prompt-tuning", "--suite", "point-robot", "--shot-quality", "expert", "--dry-run",
                             "--quality", "expert", "--horizon", 20)  # fmt: skip
    assert code == 0, err
    assert "prompt-dt is trained first" in out
    assert "150 steps; 10 evaluation episodes a task" in out
    assert list(tmp_path.iterdir()) == []
