"""The policies study on two MuJoCo tasks with tiny data: rows, figures, going on where it stopped."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
import torch

from manyone.claims.figure import load_figures
from manyone.claims.file import load_claims
from manyone.claims.rows import load_rows
from manyone.cli.options import parse_options
from manyone.data.trajectories.trajectories import Trajectories
from manyone.envs.single.make import suite_tasks
from manyone.policies.recipes.problem import PolicyProblem
from manyone.policies.study import study
from manyone.policies.study.settings import PARTS, SETTINGS, UNSEEN, Setting
from manyone.recipes.arm import Arm
from manyone.recipes.table import options_class
from manyone.reproduce.reproduce import claims_file

TINY = {
    "horizon": 10, "episodes": 4, "context": 4, "prompt": 2, "width": 16, "layers": 1, "heads": 2, "batch_size": 3,
    "steps": 12, "warmup": 2, "tasks_per_step": 2, "mask_every": 3, "eta_max": 9, "group_after": 4, "groups": "2",
    "full_episodes": True,
}  # fmt: skip

CLONING = {"width": 16, "tasks_per_step": 2, "batch_size": 11}


def made(task: str) -> Trajectories:
    """Four episodes of noise."""
    draws = np.random.Generator(np.random.Philox(len(task)))
    episodes = [
        {
            "observations": draws.standard_normal((20, 20)),
            "actions": draws.uniform(-1, 1, (20, 6)),
            "rewards": draws.standard_normal(20),
        }
        for _ in range(4)
    ]
    return Trajectories.from_episodes(task, episodes)


@pytest.fixture
def tiny(monkeypatch):
    """A suite called tiny at scale smoke: both directions of HalfCheetah, one velocity unseen."""
    settings = Setting("cheetah-dir", unseen=("cheetah-vel",), eval_episodes=1, options=TINY, cloning=CLONING)
    monkeypatch.setitem(SETTINGS, "smoke", SETTINGS["smoke"] | {"tiny": settings})
    data = {t: made(t) for t in ("cheetah-dir:0", "cheetah-dir:1", "cheetah-vel:7")}
    seen = PolicyProblem("tiny", (data["cheetah-dir:0"], data["cheetah-dir:1"]), 10)
    unseen = PolicyProblem("unseen", (data["cheetah-vel:7"],), 10)
    monkeypatch.setattr(study, "seen_problem", lambda scale, suite: seen)
    monkeypatch.setattr(study, "unseen_problem", lambda scale, suite: unseen)
    return settings


def test_every_part_gives_its_rows_once_and_goes_on_where_it_stopped(tiny, tmp_path):
    for job in study.jobs("smoke", ["tiny"], range(1)):
        study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
        path = tmp_path / f"{job.file}.jsonl"
        rows = load_rows(path)
        assert len(rows) == study.count_rows("smoke", "tiny", job.part) == path.read_text().count("\n")
        entry = PARTS[job.part]
        conditions = [entry.condition] * len(entry.variants) + ["unseen"] * (job.part in UNSEEN)
        assert [r.condition for r in rows] == conditions
        assert all("return" in r.metrics for r in rows)
        if job.part in ("g-harmodt", "harmodt"):
            path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
            study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
            again = load_rows(path)
            assert again[:-1] == rows[:-1]
            assert again[-1].metrics["return"] == rows[-1].metrics["return"]
        study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
        assert len(load_rows(path)) == len(rows)
    drawn = [f for path in sorted(tmp_path.glob("*.figures.json")) for f in load_figures(path)]
    assert {f.title for f in drawn} == {
        *("tiny: overlap of the masks", "tiny: agreement of the tasks"),
        *("tiny: the gate's choices", "tiny: groups of tasks"),
    }


def test_every_row_says_what_its_training_took_and_all_took_the_same(tiny, tmp_path):
    for job in study.jobs("smoke", ["tiny"], range(1)):
        study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
        for row in load_rows(tmp_path / f"{job.file}.jsonl"):
            assert row.metrics["updates"] == 12, row.key
            assert row.metrics["samples_per_task"] == pytest.approx(12 * 3 * 3.7, rel=0.01), row.key
    shown = load_claims(claims_file("policies")).metrics
    assert {"updates", "samples_per_task"} <= set(shown), "a page shows the metrics that the claims file lists"


def expected_effort(arm: Arm, episode: int) -> tuple[float, float, str, int]:
    """Steps, steps of data a task, hold-out and tasks a step of ``arm``, on four tasks of equal long episodes."""
    options = arm.options()
    draws = np.random.Generator(np.random.Philox(0))
    episodes = [{"observations": draws.standard_normal((episode, 3)), "actions": np.zeros((episode, 4)),
                 "rewards": draws.random(episode)} for _ in range(3)]  # fmt: skip
    data = tuple(Trajectories.from_episodes(task, episodes) for task in suite_tasks("metaworld-mt5")[:4])
    problem = PolicyProblem("", data, episode)
    learner = arm.build(arm.options(width=8, layers=1), problem)
    learner.step()
    one = learner.effort()
    return options.steps, options.steps * one["samples_per_task"], options.hold_out, options.tasks_per_step


@pytest.mark.parametrize(("scale", "suite"), [(scale, suite) for scale, suites in SETTINGS.items() for suite in suites])
def test_all_methods_of_a_suite_are_trained_alike(scale, suite):
    setting = SETTINGS[scale][suite]
    found = {part: expected_effort(setting.arm(part), setting.arm(part).options().horizon) for part in setting.parts}
    steps, samples, *rest = found[setting.parts[0]]
    for part, (own_steps, own_samples, *own_rest) in found.items():
        assert (own_steps, own_rest) == (steps, rest), part
        assert own_samples == pytest.approx(samples, rel=0.005), part


def test_every_row_that_a_claim_needs_is_measured_at_its_scale():
    claims = load_claims(claims_file("policies"))
    for claim in claims.claims:
        for scale, suites in claim.tests.items():
            for suite in suites:
                settings = SETTINGS[scale][suite]
                made = {(PARTS[p].method, v, PARTS[p].condition) for p in settings.parts for v in PARTS[p].variants}
                made |= {(PARTS[p].method, "", "unseen") for p in settings.parts if settings.unseen and p in UNSEEN}
                for side in (claim.left, *claim.right):
                    assert (side.method, side.variant, side.condition or claim.condition) in made, (claim.id, suite)


def test_every_setting_is_made_of_options_that_some_recipe_has():
    for scale, suites in SETTINGS.items():
        for suite, settings in suites.items():
            names = {name for arm in study.arms(scale, suite) for name in vars(arm.options())}
            assert set(settings.options) <= names, (scale, suite)


def as_typed(arm: Arm, **more):
    """The options that the printed command gives."""
    program, verb, recipe, *words = shlex.split(arm.command(**more))
    assert (program, verb, recipe) == ("manyone", "run", arm.recipe)
    return parse_options(options_class(recipe), recipe, words)


@pytest.mark.parametrize(("scale", "suite"), [(scale, suite) for scale, suites in SETTINGS.items() for suite in suites])
def test_the_command_of_every_arm_gives_the_options_of_the_study(scale, suite):
    for arm in study.arms(scale, suite):
        assert as_typed(arm, seed=3) == arm.options(seed=3), arm


def test_the_command_of_every_arm_makes_the_weights_of_the_study(tiny):
    for arm in study.arms("smoke", "tiny"):
        problem = study.seen_problem("smoke", "tiny")
        ours, theirs = (arm.build(options, problem) for options in (arm.options(seed=3), as_typed(arm, seed=3)))
        for _ in range(5):
            assert ours.step() == theirs.step(), arm
        assert digest(ours.state_dict()) == digest(theirs.state_dict()), arm


def digest(state) -> list:
    """What a state holds, comparable."""
    if isinstance(state, dict):
        return [(key, digest(value)) for key, value in state.items()]
    if isinstance(state, (list, tuple)):
        return [digest(value) for value in state]
    return state.tolist() if isinstance(state, torch.Tensor) else state
