"""Whole runs of the policy recipes on two MuJoCo tasks with tiny data: artefacts, fresh processes, kill -9, resume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from examples.policies import main
from tests.commands.run_files import assert_kill_9_changes_nothing, lines

from manyone.data.trajectories.trajectories import Trajectories
from manyone.policies import load_policy
from manyone.policies.recipes.options import CloningOptions, GroupedOptions, HarmoDTOptions
from manyone.recipes.options import with_preset

SMALL = (
    *("--horizon", 12, "--eval-episodes", 2, "--batch-size", 3, "--steps", 8),
    *("--checkpoint-every", 3),
)
NET = ("--width", 16, "--layers", 1, "--heads", 2, "--context", 4, "--warmup", 2)
RECIPES = {
    "harmodt": (*NET, "--mask-every", 3, "--eta-max", 9),
    "harmodt-r": (*NET, "--tasks-per-step", 2),
    "harmodt-m": (*NET, "--mask-every", 3),
    "g-harmodt": (*NET, "--groups", 2, "--group-after", 4, "--mask-every", 3, "--gate-width", 16),
    "prompt-dt": (*NET, "--surgery", "pcgrad", "--tasks-per-step", 2),
    "mt-dt": (*NET, "--no-id"),
    "id-token-dt": NET,
    "mtbc": ("--width", 16),
    "task-dt": NET,
}


@pytest.fixture(scope="session")
def two_tasks(shared_cache):
    """Options that name data of both directions of HalfCheetah: four short episodes of random actions each."""
    draws = np.random.Generator(np.random.Philox(5))
    words = ["--data"]
    for task in ("cheetah-dir:0", "cheetah-dir:1"):
        folder = shared_cache / "two-tasks" / task.replace(":", "-")
        if not folder.exists():
            episodes = [
                {
                    "observations": draws.standard_normal((30, 20)) + int(task[-1]),
                    "actions": draws.uniform(-1, 1, (30, 6)),
                    "rewards": draws.standard_normal(30),
                }
                for _ in range(4)
            ]
            Trajectories.from_episodes(task, episodes).save(folder)
        words.append(f"{task}={folder}")
    return words


ACT = """
import sys, torch
from manyone.policies import load_policy
states = torch.load('states.pt', weights_only=True).numpy()
def actions(folder, task):
    policy = load_policy(folder)
    policy.reset(task or None)
    return torch.stack([torch.from_numpy(policy.act(s, 0.1 * k)) for k, s in enumerate(states)])
if __name__ == "__main__":
    found = {f: actions(f, t) for f, t in (word.split('=') for word in sys.argv[1:])}
    torch.save(found, 'actions.pt')
"""


def test_a_fresh_process_loads_every_artefact_with_equal_actions(manyone, process, tmp_path, two_tasks):
    wanted = {}
    for recipe, words in RECIPES.items():
        code, out, err = manyone("run", recipe, *two_tasks, *SMALL, *words, "--workers", 1, "--out", recipe)
        assert code == 0, err
        assert "cheetah-dir:1" in out
        assert "return" in lines(tmp_path / recipe / "metrics.jsonl")[-1]
        model = f"{recipe}/model/cheetah-dir-1" if recipe == "task-dt" else f"{recipe}/model"
        wanted[model] = "" if recipe in ("g-harmodt", "mt-dt") else "cheetah-dir:1"  # those two need no task
    torch.save(torch.randn(6, 20, generator=torch.Generator().manual_seed(1)), tmp_path / "states.pt")
    (tmp_path / "act.py").write_text(ACT)
    assert process("act.py", *(f"{m}={t}" for m, t in wanted.items())).wait() == 0
    theirs = torch.load(tmp_path / "actions.pt", weights_only=True)
    space = {"__name__": "here"}
    exec(ACT, space)
    for model, task in wanted.items():
        assert torch.equal(space["actions"](model, task), theirs[model]), model
    assert len({tuple(a.flatten().tolist()) for a in theirs.values()}) == len(theirs)


def test_eval_and_report_read_a_run(manyone, tmp_path, two_tasks):
    words = (*two_tasks, *SMALL, *RECIPES["g-harmodt"], "--workers", 1)
    assert manyone("run", "g-harmodt", *words, "--evaluate-every", 4, "--out", "r")[0] == 0
    final = lines(tmp_path / "r/metrics.jsonl")[-1]
    assert {"groups", "gate_accuracy"} <= set(final)
    episodes = lines(tmp_path / "r/episodes.jsonl")
    assert len(episodes) == 4
    assert all({"task", "goal", "return", "group", "true_group"} <= set(e) for e in episodes)
    evaluations = [record for record in lines(tmp_path / "r/metrics.jsonl") if record["kind"] in ("eval", "final")]
    best = max(evaluations, key=lambda record: (record["return"], record["step"]))  # what is exported
    code, out, err = manyone("eval", "r")
    assert code == 0, err
    best = max(line["return"] for line in lines(tmp_path / "r/metrics.jsonl") if "return" in line)
    assert f"{best:.6g}" in out  # the best weights by return are kept
    assert manyone("eval", "r", "--split", "val")[0] == 2
    assert manyone("report", "r")[0] == 0
    assert "cheetah-dir:0" in (tmp_path / "r/report.html").read_text()


def test_kill_9_in_the_middle_of_training_then_resume_is_bit_identical(manyone, tmp_path, two_tasks):
    words = ("g-harmodt", *two_tasks, *SMALL, *RECIPES["g-harmodt"], "--workers", 1)
    words = (*words, "--steps", 160, "--group-after", 9, "--checkpoint-every", 7)
    assert_kill_9_changes_nothing(manyone, tmp_path, words, after=30, records=["episodes.jsonl"])


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("harmodt", ("--update", "official", "--legacy-prompt", "--freeze-unmasked", "--mask-scope", "blocks")),
        ("harmodt", ("--fisher-samples", "--mask-scope", "all", "--tasks-per-step", 2)),
        ("g-harmodt", ("--gate-states-only", "--gate-returns", "--selection", "soft")),
        ("g-harmodt", ("--no-gate",)),
    ],
)
def test_what_the_published_program_does_and_other_controls_train_and_act(manyone, tmp_path, two_tasks, recipe, words):
    words = (*two_tasks, *SMALL, *RECIPES[recipe], *words, "--workers", 1, "--out", "r")
    code, _, err = manyone("run", recipe, *words)
    assert code == 0, err
    final = lines(tmp_path / "r/metrics.jsonl")[-1]
    assert np.isfinite(final["return"])
    assert ("gate_accuracy" in final) == (recipe == "g-harmodt" and "--no-gate" not in words)


def test_tasks_of_different_widths_are_one_policy_where_it_is_told_its_task(manyone, tmp_path):
    draws = np.random.Generator(np.random.Philox(6))
    words = ["--data"]
    for task, states, actions in (("gym:Pendulum-v1", 3, 1), ("cheetah-dir:0", 20, 6)):
        episodes = [
            {
                "observations": draws.standard_normal((20, states)),
                "actions": draws.uniform(-1, 1, (20, actions)),
                "rewards": draws.standard_normal(20),
            }
            for _ in range(4)
        ]
        Trajectories.from_episodes(task, episodes).save(tmp_path / str(states))
        words.append(f"{task}={tmp_path / str(states)}")
    for recipe in ("harmodt", "mtbc", "task-dt"):
        code, _, err = manyone("run", recipe, *words, *SMALL, *RECIPES[recipe], "--workers", 1, "--out", recipe)
        assert code == 0, err
        final = lines(tmp_path / recipe / "metrics.jsonl")[-1]
        assert {"return/gym:Pendulum-v1", "return/cheetah-dir:0"} <= set(final)
        assert final["updates"] == (4 if recipe == "task-dt" else 8)
    policy = load_policy("harmodt/model")
    for task, states, actions in (("gym:Pendulum-v1", 3, 1), ("cheetah-dir:0", 20, 6)):
        policy.reset(task)
        assert policy.act(np.zeros(states)).shape == (actions,)
    code, out, err = manyone("run", "g-harmodt", *words, *SMALL, *RECIPES["g-harmodt"], "--out", "g")
    assert (code, out) == (2, "")
    assert "told no task needs equal ones" in err.splitlines()[-1]
    assert not (tmp_path / "g").exists()


def test_the_number_of_workers_changes_nothing(manyone, tmp_path, two_tasks):
    for workers in (1, 2):
        words = (*two_tasks, *SMALL, *RECIPES["harmodt"], "--workers", workers, "--out", f"w{workers}")
        assert manyone("run", "harmodt", *words)[0] == 0
    assert lines(tmp_path / "w1/metrics.jsonl") == lines(tmp_path / "w2/metrics.jsonl")


def test_a_suite_makes_its_data_once(manyone, tmp_path):
    words = ("--suite", "metaworld-mt1:drawer-close", "--episodes", 3, *SMALL, *NET, "--workers", 1)
    assert "would be made" in manyone("run", "mt-dt", *words, "--dry-run")[1]
    assert list(tmp_path.iterdir()) == []
    code, _, err = manyone("run", "mt-dt", *words, "--out", "r")
    assert code == 0, err
    assert "success" in lines(tmp_path / "r/metrics.jsonl")[-1]
    assert "in the cache" in manyone("run", "mt-dt", *words, "--dry-run")[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "give --suite NAME"),
        (("--suite", "metaworld-mt11"), "metaworld-mt1"),
        (("--suite", "metaworld-mt10", "--data", "door-open-v3=x"), "brings its own data"),
        (("--data", "door-open-v3"), "give TASK=PLACE"),
        (("--suite", "metaworld-mt10", "--width", 30, "--heads", 4), "a multiple of --heads 4"),
        (("--suite", "metaworld-mt10", "--sparsity", 1.0), "from 0 to below 1"),
        (("--suite", "metaworld-mt10", "--eta-min", 9, "--eta-max", 3), "from 0 to --eta-max 3"),
        (("--suite", "metaworld-mt10", "--horizon", 501), "500"),
        (("--suite", "metaworld-mt10", "--steps", 0), "--steps 0: must be 1 or more"),
        (("--suite", "metaworld-mt10", "--importance", "none", "--fisher-samples"), "unless --importance is fisher"),
    ],
)
def test_wrong_options_give_one_line_with_the_fix(manyone, words, message):
    code, _, err = manyone("run", "harmodt", *words, "--out", "r")
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_the_example_acts_in_gymnasium_with_an_artefact(manyone, tmp_path, two_tasks):
    assert manyone("run", "harmodt", *two_tasks, *SMALL, *RECIPES["harmodt"], "--workers", 1, "--out", "r")[0] == 0
    total = main("r/model", "cheetah-dir:0", horizon=12)
    episode = lines(tmp_path / "r/episodes.jsonl")[0]
    assert episode["task"] == "cheetah-dir:0"
    assert np.isfinite(total)


def test_presets_fill_in_only_what_was_left_open():
    paper = with_preset(HarmoDTOptions, {"suite": "metaworld-mt50", "preset": "paper", "width": 128})
    assert (paper.width, paper.layers, paper.heads, paper.steps, paper.mask_every) == (128, 6, 8, 1_000_000, 500)
    assert (paper.lr, paper.warmup, paper.schedule, paper.batch_size) == (1e-4, 10_000, "constant", 8)
    assert (paper.context, paper.tasks_per_step) == (20, 1)
    cloning = with_preset(CloningOptions, {"suite": "metaworld-mt50", "preset": "paper"})
    assert (cloning.width, cloning.layers, cloning.warmup, cloning.steps) == (256, 3, 0, 1_000_000)
    for given, expected in (({}, (300, 10)), ({"steps": 50, "context": 4}, (5, 4)), ({"preset": "paper"}, (10**5, 10))):
        grouped = with_preset(GroupedOptions, {"suite": "metaworld-mt10", **given})
        assert (grouped.group_after, grouped.gate_context) == expected
    assert with_preset(GroupedOptions, {"suite": "metaworld-mt10", "group_after": 7}).group_after == 7


def test_experts_that_start_from_a_base_are_merged_into_one_policy(manyone, tmp_path):
    small = (
        "--suite",
        "point-robot",
        "--quality",
        "expert",
        "--episodes",
        3,
        "--eval-episodes",
        1,
        "--batch-size",
        3,
        "--workers",
        1,
        *NET,
    )
    assert manyone("run", "mt-dt", *small, "--horizon", 12, "--steps", 8, "--out", "dt")[0] == 0
    code, _, err = manyone(
        "run", "task-dt", *small, "--horizon", 12, "--steps", 16, "--lr", 1e-9, "--init", "dt", "--out", "own"
    )
    assert code == 0, err
    base, expert = load_policy(tmp_path / "dt/model"), load_policy(tmp_path / "own/model/point-robot-1")
    assert expert.tasks == ("point-robot:1",)
    for name, value in base.model.state_dict().items():  # a step of 1e-9 leaves what it starts from
        torch.testing.assert_close(expert.model.state_dict()[name], value, rtol=0, atol=1e-7)
    experts = ("own/model/point-robot-0", "own/model/point-robot-1")
    code, _, err = manyone("run", "ties", "--base", "dt/model", "--experts", *experts, "--out", "merged")
    assert code == 0, err  # made data give a task the same rows in every run
    merged = load_policy(tmp_path / "merged/model")
    assert merged.tasks == base.tasks
    merged.reset("point-robot:1")
    assert np.isfinite(merged.act(np.zeros(2))).all()
    for words, says in (
        (("--width", 24), "network has width 16, this run's 24: give a policy of the same sizes"),
        (("--horizon", 14), "network has max_timestep 12, this run's 14"),
    ):
        code, _, err = manyone("run", "mt-dt", *small, "--horizon", 12, *words, "--init", "dt", "--out", "no")
        assert (code, says in err) == (2, True), err
        assert not (tmp_path / "no").exists()
