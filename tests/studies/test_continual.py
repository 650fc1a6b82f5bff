"""The study of continual planning on two small bodies with tiny data: rows, figures, going on where it stopped."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
import torch

from manyone.claims.figure import load_figures
from manyone.claims.file import load_claims
from manyone.claims.rows import load_rows
from manyone.cli.options import parse_options
from manyone.data.trajectories.offline import parse_offline
from manyone.data.trajectories.trajectories import Trajectories
from manyone.envs.single.make import suite_tasks
from manyone.policies.recipes.problem import PolicyProblem
from manyone.policies.recipes.run_planner import in_order
from manyone.policies.study.continual import study
from manyone.policies.study.continual.settings import PARTS, SETTINGS, Setting
from manyone.recipes.arm import Arm
from manyone.recipes.table import options_class
from manyone.reproduce.reproduce import claims_file

TRIED = ("masks", "joint", "separate", "finetune", "mas", "packnet", "rehearsal", "lora", "replay", "diffuser",
         "il-rehearsal", "padding", "order-2")  # fmt: skip
FORGETFUL = {"finetune", "mas", "rehearsal", "replay", "diffuser", "il-rehearsal"}
TINY = {
    "horizon": 6, "episodes": 3, "reference": ("halfcheetah=-5,5", "hopper=0,10"), "align_steps": 3,
    "align_batch_size": 8, "align_hidden": 8, "codes": 8, "width": 12, "layers": 1, "inverse_width": 8,
    "plan_length": 3, "batch_size": 4, "steps": 6, "diffusion_steps": 6, "sampling_steps": 2, "plan_every": 2,
    "lr": 0.01, "checkpoint_every": 0,
}  # fmt: skip
TUNED = {
    "ewc": {"importance_windows": 3}, "mas": {"importance_windows": 3}, "lora": {"rank": 2},
    "replay": {"replay_windows": 8, "replay_width": 8}, "rehearsal": {"rehearse_every": 2},
}  # fmt: skip


def made(task: str, states: int, actions: int) -> Trajectories:
    """Three episodes of noise."""
    draws = np.random.Generator(np.random.Philox(states))
    episodes = [
        {
            "observations": draws.standard_normal((12, states)),
            "actions": draws.uniform(-1, 1, (12, actions)),
            "rewards": draws.standard_normal(12),
        }
        for _ in range(3)
    ]
    return Trajectories.from_episodes(task, episodes)


@pytest.fixture
def tiny(monkeypatch):
    """A suite called tiny at scale smoke: HalfCheetah and Hopper in three orders."""
    orders = (("halfcheetah", "hopper"), ("hopper", "halfcheetah"), ("halfcheetah", "hopper"))
    setting = Setting("mujoco3", orders, TRIED, released=(0.5,), eval_episodes=1, options=TINY, tuned=TUNED,
                      cloning={"width": 8, "layers": 1, "batch_size": 4, "memory_size": 3})  # fmt: skip
    monkeypatch.setitem(SETTINGS, "smoke", SETTINGS["smoke"] | {"tiny": setting})
    problem = PolicyProblem("tiny", (made("gym:HalfCheetah-v5", 17, 6), made("gym:Hopper-v5", 11, 3)), 6)
    monkeypatch.setattr(study, "problem_of", lambda scale, suite: problem)
    study._scores.cache_clear()
    yield setting
    study._scores.cache_clear()


def test_every_part_gives_its_rows_once_and_says_what_has_changed(tiny, tmp_path):
    for job in study.jobs("smoke", ["tiny"], range(1)):
        study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
        path = tmp_path / f"{job.file}.jsonl"
        rows = load_rows(path)
        assert len(rows) == study.count_rows("smoke", "tiny", job.part) == path.read_text().count("\n")
        first, part = rows[0], PARTS[job.part]
        assert (first.method, first.variant) == (part.method, part.variant)
        assert first.metrics["changed"] == (1 if part.method in FORGETFUL else 0), job.part
        if part.method not in FORGETFUL:
            assert first.metrics["forgetting"] == 0
        learned, end = (first.details["score"][key] for key in ("learned", "end"))
        assert first.metrics["average"] == pytest.approx(sum(end.values()) / 2)
        assert first.metrics["plasticity"] == pytest.approx(sum(learned.values()) / 2)
        if job.part == "masks":
            assert [r.variant for r in rows] == ["", "released-50"]
            path.write_text(path.read_text().splitlines(keepends=True)[0])
            study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
            assert [r.metrics["average"] for r in load_rows(path)] == [r.metrics["average"] for r in rows]
        study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
        assert len(load_rows(path)) == len(rows)
    drawn = [f for path in sorted(tmp_path.glob("*.figures.json")) for f in load_figures(path)]
    assert len(drawn) == len(TRIED)
    over = study.overview("smoke", ["tiny"], range(1), tmp_path)
    assert [f.title for f in over] == ["tiny: forgetting", "tiny: average"]
    assert len(over[0].data["names"]) == len({PARTS[name].method for name in TRIED})


def test_every_row_says_what_its_training_took_and_planners_took_the_same(tiny, tmp_path):
    for part in ("masks", "joint", "separate", "rehearsal", "order-2"):
        study.run_job("smoke", "tiny", 0, part, tmp_path)
        (row,) = (r for r in load_rows(tmp_path / f"tiny-0-{part}.jsonl") if not r.variant.startswith("released"))
        assert (row.metrics["updates"], row.metrics["samples_per_task"]) == (12, 6 * 4 * 3), part
    shown = load_claims(claims_file("policies-continual")).metrics
    assert {"updates", "samples_per_task", "bytes_per_task", "plasticity", "forgetting", "changed"} <= set(shown)


def test_every_row_that_a_claim_needs_is_measured_at_its_scale():
    claims = load_claims(claims_file("policies-continual"))
    for claim in claims.claims:
        for scale, suites in claim.tests.items():
            for suite in suites:
                setting = SETTINGS[scale][suite]
                made = {(PARTS[p].method, PARTS[p].variant) for p in setting.parts}
                made |= {("vq-cd", f"released-{round(100 * share)}") for share in setting.released}
                for side in (claim.left, *claim.right):
                    assert (side.method, side.variant) in made, (claim.id, suite)
    assert set(SETTINGS["laptop"]) <= {s for c in claims.claims for s in c.tests.get("laptop", ())}


@pytest.mark.parametrize(("scale", "suite"), [(scale, suite) for scale, suites in SETTINGS.items() for suite in suites])
def test_every_order_has_tasks_of_its_suite_and_data_that_can_be_made(scale, suite):
    setting = SETTINGS[scale][suite]
    for order in setting.orders:
        assert len(set(in_order(suite_tasks(setting.suite), order))) == len(order)
    assert str(parse_offline(setting.arm("masks").options().data_name())).startswith(setting.suite)


def as_typed(arm: Arm, **more):
    """The options that the printed command gives."""
    program, verb, recipe, *words = shlex.split(arm.command(**more))
    assert (program, verb, recipe) == ("manyone", "run", arm.recipe)
    return parse_options(options_class(recipe), recipe, words)


@pytest.mark.parametrize(("scale", "suite"), [(scale, suite) for scale, suites in SETTINGS.items() for suite in suites])
def test_the_command_of_every_arm_gives_the_options_of_the_study(scale, suite):
    for arm in study.arms(scale, suite):
        assert as_typed(arm, seed=3) == arm.options(seed=3), arm
    assert study.settings(scale, suite)["vq-cd"]["strategy"] == "masks"


@pytest.mark.parametrize(("scale", "suite"), [(scale, suite) for scale, suites in SETTINGS.items() for suite in suites])
def test_all_planners_of_a_suite_are_trained_alike(scale, suite):
    kept = ("steps", "batch_size", "lr", "schedule", "width", "layers", "denoiser", "plan_length", "quality",
            "episodes", "transitions", "horizon", "inverse", "ema_decay")  # fmt: skip
    setting = SETTINGS[scale][suite]
    found = {}
    for part in setting.parts:
        options = vars(setting.arm(part).options())
        if PARTS[part].recipe != "il-rehearsal":
            found[part] = {name: options[name] for name in kept}
        assert options["steps"] == setting.arm("masks").options().steps
    assert all(one == found["masks"] for one in found.values())


def test_the_command_of_an_arm_makes_the_weights_of_the_study(tiny):
    problem = study.problem_of("smoke", "tiny")
    for part in ("masks", "replay", "diffuser", "il-rehearsal"):
        arm = tiny.arm(part)
        ours, theirs = (arm.build(options, problem) for options in (arm.options(seed=3), as_typed(arm, seed=3)))
        for _ in range(5):
            assert ours.step() == theirs.step(), part
        assert digest(ours.state_dict()) == digest(theirs.state_dict()), part


def digest(state) -> list:
    """What a state holds, comparable."""
    if isinstance(state, dict):
        return [(key, digest(value)) for key, value in state.items()]
    if isinstance(state, (list, tuple)):
        return [digest(value) for value in state]
    return state.tolist() if isinstance(state, torch.Tensor) else state
