"""The behavior study on two small data sets of Hopper: rows, what they say, going on where it stopped."""

from __future__ import annotations

import shlex

import numpy as np
import pytest
import torch

from manyone.behavior.recipes.problem import problem_of
from manyone.behavior.study import study
from manyone.behavior.study.settings import PARTS, SETTINGS, TRANSFERS, Setting
from manyone.behavior.teachers.teacher import from_functions, label
from manyone.claims.file import load_claims
from manyone.claims.rows import load_rows
from manyone.cli.options import parse_options
from manyone.data.trajectories.trajectories import Trajectories
from manyone.recipes.arm import Arm
from manyone.recipes.table import options_class
from manyone.reproduce.reproduce import claims_file

QUALITIES = ("medium-replay", "medium")
OPTIONS = {"steps": 2, "size": 5, "width": 8, "inner_steps": 2, "batch_size": 16, "at_once": 2, "horizon": 4}
EVERY_SUITE = [(scale, suite) for scale, suites in SETTINGS.items() for suite in suites]


def made(seed: int) -> Trajectories:
    """Episodes of noise, of Hopper's widths."""
    draws = np.random.Generator(np.random.Philox(seed))
    episodes = [
        {
            "observations": draws.standard_normal((21, 11)),
            "actions": draws.uniform(-1, 1, (20, 3)),
            "rewards": draws.standard_normal(20),
            "terminated": True,
        }
        for _ in range(14)
    ]
    return Trajectories.from_episodes("gym:Hopper-v5", episodes)


def leaning(data):
    """Leans on the state; values are above 0."""
    return from_functions(lambda s: torch.tanh(s[:, :3]), lambda s, a: 2 + a.sum(1).tanh(), data)


@pytest.fixture
def tiny(monkeypatch):
    """A suite called tiny at scale smoke: Hopper with two qualities of data, which are noise."""
    setting = Setting(("hopper",), QUALITIES, students=2, eval_episodes=1, options=OPTIONS)
    monkeypatch.setitem(SETTINGS, "smoke", SETTINGS["smoke"] | {"tiny": setting})
    options = setting.arm("pbc", "hopper", "medium").options()
    problems = {q: problem_of(q, [made(k)], options) for k, q in enumerate(QUALITIES)}
    monkeypatch.setattr(study, "problem_of", lambda scale, suite, body, quality: problems[quality])
    monkeypatch.setattr(study, "teacher_of", lambda options, data: leaning(data))
    return setting


def variants(setting: Setting, part: str) -> set[str]:
    """The variants that the rows of ``part`` should have: students x (each quality, and the mean of all)."""
    own = {"", "ensemble", *(TRANSFERS if setting.transfers else ())} if PARTS[part].transfers else {""}
    qualities = [q for q in setting.qualities if PARTS[part].qualities is None or q in PARTS[part].qualities]
    fronts = [
        *(qualities if len(setting.qualities) > 1 else []),
        *([""] if tuple(qualities) == setting.qualities else []),
    ]
    return {"+".join(filter(None, (front, one))) for front in fronts for one in own}


def test_every_part_gives_its_rows_once_and_goes_on_where_it_stopped(tiny, tmp_path):
    jobs = study.jobs("smoke", ["tiny"], range(1))
    assert {job.part for job in jobs} == set(PARTS)
    for job in jobs:
        study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
        path = tmp_path / f"{job.file}.jsonl"
        rows, first = load_rows(path), path.read_bytes()
        assert len(rows) == study.count_rows("smoke", "tiny", job.part) == first.count(b"\n"), job.part
        assert {row.variant for row in rows} == variants(tiny, job.part), job.part
        assert {row.method for row in rows} == {PARTS[job.part].method}
        assert all(np.isfinite(list(row.metrics.values())).all() for row in rows)
        study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
        assert path.read_bytes() == first, "what is there is not measured again"
        if job.part in ("av-pbc", "bc"):
            path.write_bytes(b"".join(first.splitlines(keepends=True)[:-1]))
            study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
            again = load_rows(path)
            assert again[:-1] == rows[:-1]
            assert again[-1].key == rows[-1].key
            assert again[-1].metrics["normalised"] == rows[-1].metrics["normalised"]


def test_rows_are_means_over_qualities_and_say_what_claims_ask(tiny, tmp_path):
    study.run_job("smoke", "tiny", 0, "pbc", tmp_path)
    rows = {row.variant: row.metrics for row in load_rows(tmp_path / "tiny-0-pbc.jsonl")}
    for name, value in rows[""].items():
        assert value == pytest.approx(np.mean([rows[quality][name] for quality in QUALITIES])), name
    known = set(load_claims(claims_file("behavior")).metrics)
    assert {"normalised", "half", "return", "cpu_s", "clipped", "beyond"} <= set(rows[""]) <= known


def test_a_row_is_what_the_command_makes_and_its_students_do(tiny, tmp_path):
    study.run_job("smoke", "tiny", 3, "av-pbc", tmp_path)
    rows = {row.variant: row.metrics for row in load_rows(tmp_path / "tiny-3-av-pbc.jsonl")}
    problem = study.problem_of("smoke", "tiny", "hopper", "medium")
    (data,) = problem.data
    options = as_typed(tiny.arm("av-pbc", "hopper", "medium"), seed=3)
    arm = Arm("", "obd", {})
    learner = arm.build(options, problem, [label(leaning(data), data)])
    for _ in range(options.steps):
        learner.step()
    (distilled,) = learner.distilled().values()
    policies = study.train_students(distilled, study.student_seeds(options))
    with study.Evaluator(distilled.frame, episodes=1, students=2, workers=0) as evaluator:
        assert evaluator(policies).metrics()["return"] == rows["medium"]["return"]
        assert evaluator.ensemble(policies).metrics()["return"] == rows["medium+ensemble"]["return"]


def test_every_row_that_a_claim_needs_is_measured_at_its_scale():
    claims = load_claims(claims_file("behavior"))
    for claim in claims.claims:
        for scale, suites in claim.tests.items():
            for suite in suites:
                setting = SETTINGS[scale][suite]
                there = {(PARTS[part].method, v) for part in setting.parts for v in variants(setting, part)}
                for side in (claim.left, *claim.right):
                    assert (side.method, side.variant) in there, (claim.id, suite)
    assert set(claims.methods) == {part.method for part in PARTS.values()}


@pytest.mark.parametrize(("scale", "suite"), EVERY_SUITE)
def test_all_distilled_sets_take_the_same_steps_in_halves(scale, suite):
    setting = SETTINGS[scale][suite]
    arms = {part: setting.arm(part, setting.bodies[0], setting.qualities_of(part)[0]) for part in setting.parts}
    shared = ("inner_steps", "inner_lr", "width", "layers", "at_once", "batch_size", "outer", "lr", "beta", "init")
    reference = arms["av-pbc"].options()
    assert reference.steps % 2 == 0, "`half` is measured after half of the steps"
    for part, arm in arms.items():
        options = arm.options()
        if PARTS[part].recipe == "obd" and options.steps:
            assert options.steps == reference.steps, part
            assert all(getattr(options, name) == getattr(reference, name) for name in shared), part


def test_every_setting_is_made_of_options_that_some_recipe_has():
    for scale, suite in EVERY_SUITE:
        names = {name for arm in study.arms(scale, suite) for name in vars(arm.options())}
        assert set(SETTINGS[scale][suite].options) <= names, (scale, suite)


def as_typed(arm: Arm, **more):
    """The options that the printed command gives."""
    program, verb, recipe, *words = shlex.split(arm.command(**more))
    assert (program, verb, recipe) == ("manyone", "run", arm.recipe)
    return parse_options(options_class(recipe), recipe, words)


@pytest.mark.parametrize(("scale", "suite"), EVERY_SUITE)
def test_the_command_of_every_arm_gives_the_options_of_the_study(scale, suite):
    for arm in study.arms(scale, suite):
        assert as_typed(arm, seed=3) == arm.options(seed=3), arm
