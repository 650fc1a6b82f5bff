"""Whole runs of the planner recipe on small bodies of different spaces: scores, kill -9, learning on, other words."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest
from tests.commands.run_files import assert_kill_9_changes_nothing, lines

from manyone.claims.figure import load_figures
from manyone.data.trajectories.trajectories import Trajectories
from manyone.policies import load_policy

SMALL = (
    *("--steps", 6, "--align-steps", 4, "--align-hidden", 8, "--codes", 8, "--width", 16, "--layers", 1),
    *("--inverse-width", 8, "--plan-length", 4, "--diffusion-steps", 8, "--sampling-steps", 2, "--batch-size", 4),
    *("--horizon", 12, "--eval-episodes", 2, "--checkpoint-every", 1, "--workers", 1),
)
BODIES = {"cheetah-dir:0": (20, 6), "gym:InvertedPendulum-v5": (4, 1), "gym:Swimmer-v5": (8, 2)}


@pytest.fixture(scope="session")
def bodies(shared_cache):
    """TASK=PLACE of each of ``BODIES``: four short episodes of random actions."""
    draws = np.random.Generator(np.random.Philox(6))
    found = {}
    for task, (states, actions) in BODIES.items():
        folder = shared_cache / "bodies" / task.replace(":", "-")
        if not folder.exists():
            episodes = [
                {
                    "observations": draws.standard_normal((20, states)).cumsum(0) / 4,
                    "actions": draws.uniform(-1, 1, (20, actions)),
                    "rewards": draws.standard_normal(20),
                }
                for _ in range(4)
            ]
            Trajectories.from_episodes(task, episodes).save(folder)
        found[task] = f"{task}={folder}"
    return found


@pytest.fixture
def two(bodies):
    return ["--data", *list(bodies.values())[:2]]


def test_a_run_is_scored_exported_and_drawn(manyone, tmp_path, two):
    code, out, err = manyone("run", "vq-cd", *two, *SMALL, "--out", "run")
    assert code == 0, err
    assert "spaces differ: states are aligned to 20 entries and actions to 10 (vq)" in err
    assert "after cheetah-dir:0" in out
    assert "after gym:InvertedPendulum-v5" in out
    records = lines(tmp_path / "run/metrics.jsonl")
    evaluations = [r for r in records if r["kind"] == "eval"]
    assert [r["tasks_learned"] for r in evaluations] == [0, 1]
    assert "return/gym:InvertedPendulum-v5" not in evaluations[1]
    final = records[-1]
    assert final["kind"] == "final"
    assert final["forgetting"] == 0
    assert {"average", "plasticity", "backward_transfer", "plan_loss/cheetah-dir:0"} <= set(final)
    phases = [r["phase"] for r in records if r["kind"] == "train"]
    assert list(dict.fromkeys(phases)) == [
        f"{kind} of {task} ({n}/2)" for n, task in enumerate(list(BODIES)[:2], 1) for kind in ("spaces", "plans")
    ]
    titles = {figure.title for figure in load_figures(tmp_path / "run/figures.json")}
    assert {"task by time", "forgetting", "planner's loss by time", "alignments", "codebook use",
            "plans against what came of them", "planned and executed: cheetah-dir:0"} <= titles  # fmt: skip
    policy = load_policy(tmp_path / "run/model")
    policy.reset("gym:InvertedPendulum-v5")
    assert policy.act(np.zeros(4, np.float32)).shape == (1,)
    code, out, err = manyone("eval", "run", "--episodes", 1)
    assert code == 0, err
    assert "return" in out
    assert manyone("report", "run")[0] == 0


def test_kill_9_changes_nothing(manyone, tmp_path, two):
    """While the second task is learned; tests/policies/vqcd/test_learner.py cuts at every other place."""
    words = ("vq-cd", *two, *SMALL, "--steps", 6, "--align-steps", 40)
    assert_kill_9_changes_nothing(manyone, tmp_path, words, after=50, records=("episodes.jsonl",))


@pytest.mark.parametrize("grow", ["release", "widen"])
def test_a_finished_model_learns_on(manyone, tmp_path, two, bodies, grow):
    assert manyone("run", "vq-cd", *two, *SMALL, "--out", "first")[0] == 0
    third = ("--data", bodies["gym:Swimmer-v5"])
    code, out, err = manyone("run", "vq-cd", "--policy", "first/model", *third, *SMALL, "--grow", grow, "--out", "on")
    assert code == 0, err
    assert out.count("after ") == 3
    before, after = (load_policy(tmp_path / name / "model") for name in ("first", "on"))
    assert after.tasks == tuple(BODIES)
    seen = np.linspace(-1, 1, 4).astype(np.float32)
    for policy in (before, after):
        policy.reset("gym:InvertedPendulum-v5")
    same = np.array_equal(before.act(seen), after.act(seen))
    assert same == (grow == "widen")  # released weights are missed, a wider network costs nothing
    after.reset("gym:Swimmer-v5")
    assert after.act(np.zeros(8, np.float32)).shape == (2,)
    info = json.loads((tmp_path / "on/model/config.json").read_text())["info"]
    assert [set(row) for row in info["scores"]] == [set(list(BODIES)[: n + 1]) for n in range(3)]


def test_room_may_be_kept_for_later_tasks(manyone, tmp_path, two, bodies):
    assert manyone("run", "vq-cd", *two, *SMALL, "--capacity", 3, "--out", "first")[0] == 0
    words = ("--policy", "first/model", "--data", bodies["gym:Swimmer-v5"], *SMALL)
    code, _, err = manyone("run", "vq-cd", *words, "--out", "on")
    assert code == 0, err
    before, after = (load_policy(tmp_path / name / "model") for name in ("first", "on"))
    seen = np.linspace(-1, 1, 4).astype(np.float32)
    for policy in (before, after):
        policy.reset("gym:InvertedPendulum-v5")
    np.testing.assert_array_equal(before.act(seen), after.act(seen))
    config = tmp_path / "first/model/config.json"
    for value in ('"soon"', "0", "2.5"):
        config.write_text(
            re.sub(r'("horizon": )[^,}]+(,\s+"reference")', rf"\g<1>{value}\2", config.read_text(), count=1)
        )
        code, _, err = manyone("run", "vq-cd", *words, "--out", "again")
        assert code == 2
        assert "config.json: damaged (episodes of cheetah-dir:0: " in err
        assert not (tmp_path / "again").exists()


def test_without_a_simulator_actions_are_compared(manyone, tmp_path, two):
    words = [word for word in SMALL if word not in ("--horizon", 12)]
    code, out, err = manyone("run", "vq-cd", *two, *words, "--no-simulator", "--out", "run")
    assert code == 0, err
    assert "action_error of" in out
    assert lines(tmp_path / "run/metrics.jsonl")[-1]["forgetting"] == 0


def test_tasks_is_another_word_for_data_and_films_are_made(manyone, tmp_path, bodies):
    words = ("--tasks", bodies["gym:InvertedPendulum-v5"], *SMALL, "--video", "--plan-every", 2)
    code, _, err = manyone("run", "vq-cd", *words, "--out", "run")
    assert code == 0, err
    assert "their own states are planned" in err
    assert (tmp_path / "run/videos/gym-InvertedPendulum-v5.gif").stat().st_size > 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--suite", "mujoco3", "--quality", "medium", "--order", "ant"), "--order ant: must be one of"),
        (("--suite", "mujoco3", "--transitions", 10, "--horizon", 10), "left out with --horizon"),
        (("--suite", "cheetah-dir", "--quality", "near", "--transitions", 10), "of a --suite mujoco... alone"),
        (("--plan-length", 4, "--plan-every", 4), "--plan-every 4: must be from 1 to 3"),
        (("--sampling-steps", 300), "--sampling-steps 300: must be at most --diffusion-steps 200"),
        (("--policy", "x"), "--policy goes on with tasks of --data"),
        (("--rank", 3), "--rank 3: does nothing without --strategy lora"),
    ],
)
def test_wrong_words_are_answered_in_one_line(manyone, words, message):
    code, _, err = manyone("run", "vq-cd", *words, "--dry-run")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_wrong_evaluations_and_strangers_are_refused(manyone, two):
    code, _, err = manyone("run", "vq-cd", *two, *SMALL, "--evaluate-every", 7)
    assert code == 2
    assert "--evaluate-every 7: must be a divisor of the 10 steps of a task, alignments included" in err
    code, _, err = manyone("run", "vq-cd", "--policy", "nowhere", *two, *SMALL)
    assert code == 2
    assert "nowhere" in err


def test_the_plan_says_what_would_be_done(manyone):
    code, out, err = manyone("run", "vq-cd", "--dry-run")
    assert code == 0, err
    assert (
        "vq-cd on mujoco3-medium-expert@100000, in this order: gym:Hopper-v5, gym:Walker2d-v5, gym:HalfCheetah-v5"
        in out
    )
    code, out, _ = manyone("run", "vq-cd", "--dry-run", "--preset", "paper")
    assert "500000 steps of 32 windows" in out
