"""Whole runs of what planners are compared with: cloning with rehearsal, Diffuser, Decision Diffuser."""

from __future__ import annotations

import numpy as np
import pytest
from tests.commands.run_files import lines

from manyone.data.trajectories.trajectories import Trajectories
from manyone.policies import load_policy

CLONING = (
    *("--steps", 6, "--width", 8, "--layers", 1, "--batch-size", 4, "--memory-size", 5, "--horizon", 8),
    *("--eval-episodes", 2, "--checkpoint-every", 1, "--workers", 1),
)
PLANNER = (
    *("--steps", 4, "--width", 12, "--layers", 1, "--plan-length", 4, "--diffusion-steps", 6, "--sampling-steps", 2),
    *("--batch-size", 4, "--horizon", 6, "--eval-episodes", 1, "--workers", 1),
)
BODIES = {"gym:InvertedPendulum-v5": (4, 1), "gym:Swimmer-v5": (8, 2)}


@pytest.fixture
def bodies(tmp_path):
    """``--data`` of two bodies with four short episodes of random actions each."""
    draws = np.random.Generator(np.random.Philox(7))
    found = ["--data"]
    for task, (states, actions) in BODIES.items():
        episodes = [
            {
                "observations": draws.standard_normal((15, states)),
                "actions": draws.uniform(-1, 1, (15, actions)),
                "rewards": draws.standard_normal(15),
            }
            for _ in range(4)
        ]
        folder = tmp_path / "bodies" / task.partition(":")[2]
        Trajectories.from_episodes(task, episodes).save(folder)
        found.append(f"{task}={folder}")
    return found


def test_cloning_is_scored_after_each_task_and_acts(manyone, tmp_path, bodies):
    code, out, err = manyone("run", "il-rehearsal", *bodies, *CLONING, "--out", "run")
    assert code == 0, err
    assert "after gym:Swimmer-v5" in out
    records = lines(tmp_path / "run/metrics.jsonl")
    evaluations = [r for r in records if r["kind"] == "eval"]
    assert [r["tasks_learned"] for r in evaluations] == [0, 1]
    assert "return/gym:InvertedPendulum-v5" in evaluations[1]
    assert "return/gym:Swimmer-v5" not in evaluations[1]
    assert {"average", "forgetting", "plasticity"} <= set(records[-1])
    policy = load_policy(tmp_path / "run/model")
    policy.reset("gym:Swimmer-v5")
    assert policy.act(np.zeros(8, np.float32)).shape == (2,)
    code, out, err = manyone("eval", "run", "--episodes", 1)
    assert code == 0, err


def test_a_distilled_set_is_the_memory_of_its_task(manyone, tmp_path, bodies):
    np.savez(tmp_path / "distilled.npz", observations=np.ones((3, 4)), actions=np.full((3, 1), 0.5))
    memory = f"gym:InvertedPendulum-v5={tmp_path / 'distilled.npz'}"
    code, _, err = manyone("run", "il-rehearsal", *bodies, *CLONING, "--memory", memory, "--out", "run")
    assert code == 0, err
    for given, message in (
        ("gym:Hopper-v5=x.npz", "--memory gym:Hopper-v5=x.npz: must be of one of gym:InvertedPendulum-v5"),
        ("x.npz", "--memory x.npz: give TASK=PLACE"),
        (f"gym:Swimmer-v5={tmp_path / 'distilled.npz'}", "gym:Swimmer-v5 has (8, 2)"),
    ):
        code, _, err = manyone("run", "il-rehearsal", *bodies, *CLONING, "--memory", given, "--out", "bad")
        assert code == 2
        assert message in err
        assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize("recipe", ["dd", "diffuser"])
def test_diffusers_without_rehearsal_are_presets_of_the_planner(manyone, tmp_path, bodies, recipe):
    code, out, err = manyone("run", recipe, *bodies, *PLANNER, "--out", "run")
    assert code == 0, err
    assert "after gym:Swimmer-v5" in out
    text = (tmp_path / "run/config.yaml").read_text()
    assert "strategy: finetune" in text
    assert "alignment: padding" in text
    assert f"plan: {'states' if recipe == 'dd' else 'state-actions'}" in text


def test_a_dry_run_writes_nothing(manyone, tmp_path, bodies):
    code, out, _ = manyone("run", "il-rehearsal", *bodies, "--dry-run", "--out", "run")
    assert code == 0
    assert "nothing was written" in out
    assert not (tmp_path / "run").exists()


def test_an_evaluation_that_does_not_fit_the_steps_is_refused(manyone, bodies):
    code, _, err = manyone("run", "il-rehearsal", *bodies, *CLONING, "--evaluate-every", 4, "--out", "run")
    assert code == 2
    assert "--evaluate-every 4: must be a divisor of --steps 6" in err
