"""The teams study: its claims name rows that exist, its counts are right, and small jobs run whole."""

import dataclasses
import json

import pytest
import torch

from manyone.claims.claims import SCALES
from manyone.claims.figure import load_figures
from manyone.claims.file import load_claims
from manyone.claims.rows import load_rows
from manyone.cli.options import parse_options
from manyone.errors import ManyoneError
from manyone.recipes.table import options_class
from manyone.reproduce.reproduce import STUDIES, claims_file, plan
from manyone.teams.artefact import load_team
from manyone.teams.recipes.build import team
from manyone.teams.study import figures as teams_study_figures
from manyone.teams.study import study as teams_study
from manyone.teams.study.settings import ARMS, LEFT_OUT, SETTINGS, Setting

TINY = {"iterations": 3, "lr": 1e-3, "width": 8, "device": "cpu", "workers": 0}
GRID = "predator-prey-blind:size=3,predators=3,blind=1,vision=0,limit=4"


@pytest.fixture
def tiny(monkeypatch):
    """A scale that takes a second: a Relay with and without a gate, and a grid from which an agent is taken."""
    given = {**TINY, "env": "relay:agents=3,symbols=2", "envs": 8}
    relay = Setting(given, ("commformer", "random", "s0.8", "frozen", "mat"), episodes=16, bounds=(0.0, 1.0))
    given = {**TINY, "env": "relay-gate:agents=3,symbols=2", "envs": 8, "gate_open": 0.3}
    gated = dataclasses.replace(relay, given=given, arms=("gate",))
    given = {**TINY, "env": GRID, "envs": 4, "length": 5, "minibatches": 1}
    grid = Setting(given, ("commformer", "no-comm", "mappo"), episodes=8, greedy=False,
                   fewer=GRID.replace("predators=3", "predators=2"), film=True)  # fmt: skip
    monkeypatch.setitem(SETTINGS, "tiny", {"t-relay": relay, "t-gate": gated, "t-grid": grid})
    return SETTINGS["tiny"]


def test_every_claim_compares_rows_that_its_scales_make():
    claims = load_claims(claims_file("teams"))
    assert STUDIES["teams"] == "manyone.teams.study.study"
    tested = {scale: {s for c in claims.claims for s in c.tests.get(scale, ())} for scale in SCALES}
    assert tested["smoke"] == set(SETTINGS["smoke"])
    assert tested["laptop"] == set(SETTINGS["laptop"])
    for claim in claims.claims:
        assert len(claim.short) <= 25, claim.id
        for scale, suites in claim.tests.items():
            for suite in suites:
                setting = teams_study.setting_of(scale, suite)
                made = {(ARMS[p].method, ARMS[p].variant, "clean") for p in setting.arms}
                if setting.fewer:
                    left = [ARMS[p] for p in setting.arms if p in LEFT_OUT]
                    made |= {(arm.method, arm.variant, "one-left-out") for arm in left}
                for side in (claim.left, *claim.right):
                    row = (side.method, side.variant, side.condition or claim.condition)
                    assert row in made, (claim.id, scale, suite, row)


@pytest.mark.parametrize("scale", SCALES)
def test_jobs_and_settings_of_every_scale(scale):
    suites = list(SETTINGS[scale])
    jobs = teams_study.jobs(scale, suites, range(2))
    assert len(jobs) == len(set(jobs)) == 2 * sum(len(s.arms) for s in SETTINGS[scale].values())
    for job in jobs:
        assert teams_study.count_rows(scale, job.suite, job.part) in (1, 2)
    for suite in suites:
        shown = teams_study.settings(scale, suite)
        json.dumps(shown)
        assert set(shown["commands"]) == set(shown["arms"])
    with pytest.raises(ManyoneError, match="no suite"):
        teams_study.setting_of(scale, "none")


def test_published_settings_take_the_published_steps():
    def options(suite, part="commformer"):
        return SETTINGS["paper"][suite].arm(part).options()

    # 157 whole iterations of 32 x 100 hold 5e5 steps
    assert teams_study.env_steps(options("smac-3m")) == teams_study.env_steps(options("smac-3m", "mappo")) == 502_400
    assert options("smac-6h_vs_8z").commit == 0.7
    assert options("smac-MMM2", "released").warmup == 100
    assert options("smac-1o_10b_vs_1r", "no-comm").edge_types is False
    assert options("smax-3m").env == "smax:3m"


@pytest.mark.parametrize("scale", SCALES)
def test_every_arm_is_a_command_with_the_same_options(scale):
    for suite in SETTINGS[scale]:
        for arm in teams_study.arms(scale, suite):
            words = arm.words(seed=3)
            assert words[:2] == ["run", arm.recipe]
            assert parse_options(options_class(arm.recipe), arm.recipe, words[2:]) == arm.options(seed=3)


@pytest.mark.parametrize(
    ("suite", "part"),
    [("t-relay", "commformer"), ("t-relay", "frozen"), ("t-relay", "mat"), ("t-gate", "gate"), ("t-grid", "no-comm"),
     ("t-grid", "mappo")],
)  # fmt: skip
def test_the_command_of_an_arm_trains_the_team_that_the_study_judges(tiny, manyone, tmp_path, suite, part):
    arm = tiny[suite].arm(part)
    code, _, err = manyone(*arm.words(seed=1, eval_episodes=2, film=False, out="r"))
    assert code == 0, err
    made = team(arm.options(seed=1), arm.build)
    teams_study.train(made, tiny[suite])
    saved = load_team(tmp_path / "r/model")
    assert torch.equal(saved.graph, made.learner.exact_graph())
    for name, value in made.policy.state_dict().items():
        assert torch.equal(saved.policy.state_dict()[name], value), name


def test_jobs_write_the_rows_they_count_and_are_not_repeated(tiny, tmp_path):
    for job in teams_study.jobs("tiny", list(tiny), range(2)):
        teams_study.run_job("tiny", job.suite, job.seed, job.part, tmp_path)
        path = tmp_path / f"{job.file}.jsonl"
        rows = load_rows(path)
        assert len(rows) == teams_study.count_rows("tiny", job.suite, job.part) == path.read_text().count("\n")
        before = path.stat().st_mtime_ns
        teams_study.run_job("tiny", job.suite, job.seed, job.part, tmp_path)
        assert path.stat().st_mtime_ns == before
        assert all(0 <= row.task[job.suite] <= 1 for row in rows)
        setting = tiny[job.suite]
        for row in (r for r in rows if r.condition == "clean"):
            assert row.metrics["env_steps"] == teams_study.env_steps(setting.arm(job.part).options())
            assert row.metrics["return"] == pytest.approx(row.task[job.suite]) or setting.bounds is None
    by_key = {(r.suite, r.method, r.variant, r.condition): r.metrics for p in tmp_path.glob("*.jsonl")
              for r in load_rows(p)}  # fmt: skip
    assert by_key["t-relay", "commformer", "", "clean"]["ratio_error"] < 1e-5
    assert by_key["t-relay", "commformer", "", "clean"]["links"] in (4, 5)  # one link an agent, and an action on some
    assert by_key["t-relay", "commformer", "s0.8", "clean"]["links"] == 9
    assert "edges_found" in by_key["t-relay", "random", "", "clean"]
    assert "edges_found" not in by_key["t-relay", "mat", "", "clean"]
    assert {"receive_needed", "receive_idle"} <= set(by_key["t-gate", "commformer-gate", "", "clean"])
    assert by_key["t-grid", "no-comm", "", "one-left-out"]["links"] == 0
    assert by_key["t-grid", "mappo", "", "clean"]["links"] == 0
    (film,) = load_figures(tmp_path / "t-grid-0-commformer.figures.json")
    assert film.kind == "image"
    assert (tmp_path / "t-grid-0-commformer.gif").read_bytes().startswith(b"GIF8")

    figures = teams_study.overview("tiny", list(tiny), range(2), tmp_path)
    titles = [f.title for f in figures]
    assert len(titles) == len(set(titles))
    assert {"Scores by task and method", "t-relay: score in training", "t-relay: score against links",
            "t-gate: receive rate in training", "t-grid: who learned to listen to whom"} <= set(titles)  # fmt: skip
    curve = next(f for f in figures if f.title == "t-relay: score in training").data["series"]
    assert set(curve) == {"CommFormer", "random fixed graph", "MAT"}
    assert all(len(c["y"]) == 3 for c in curve.values())


def test_a_job_is_a_function_of_its_seed(tiny):
    def graph_and_return(seed):
        arm = tiny["t-relay"].arm("commformer")
        record = teams_study.train(team(arm.options(seed=seed), arm.build), tiny["t-relay"])
        return record["graph"], record["curves"]["return"]

    assert graph_and_return(3) == graph_and_return(3)
    assert graph_and_return(3) != graph_and_return(4)


def test_scores_are_successes_or_returns_on_a_scale():
    success = Setting(TINY, ())
    scaled = dataclasses.replace(success, bounds=(-10.0, 0.0))
    assert teams_study.score_of(success, -3.0, 0.25) == 0.25
    assert teams_study.score_of(scaled, -2.5, None) == 0.75
    assert teams_study.score_of(scaled, -12.0, None) == 0.0
    assert teams_study.score_of(scaled, None, None) is None


def test_nothing_measured_draws_nothing(tmp_path):
    assert teams_study_figures.overview("laptop", ["relay"], range(3), tmp_path) == []


def test_reproduce_plans_the_field():
    (found,) = plan([], ["teams"], "smoke", None)
    assert found.field == "teams"
    assert {j.suite for j in found.jobs} == set(SETTINGS["smoke"])
