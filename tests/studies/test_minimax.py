"""The minimax study: its claims name rows that exist, its counts are right, and a small job runs whole."""

import dataclasses
import json

import pytest

from manyone.claims.claims import SCALES
from manyone.claims.figure import load_figures
from manyone.claims.file import load_claims
from manyone.claims.rows import load_rows
from manyone.cli.options import parse_options
from manyone.errors import ManyoneError
from manyone.minimax.recipes.build import sweeps
from manyone.minimax.recipes.options import StabilityOptions
from manyone.minimax.stability.results import ALGORITHMS, DERIVED, TRENDS, rows_of
from manyone.minimax.study import settings as minimax_settings
from manyone.minimax.study import study as minimax_study
from manyone.minimax.study.trends import NAMES
from manyone.reproduce.reproduce import claims_file

TINY = {
    "given": {"problem": "auc-linear", "data": "breast-cancer", "test": 100, "replicas": 2, "clients": 4, "samples": 10,
              "local_steps": 2, "rounds": 4},
    "local_steps": (1, 2), "clients": (2, 4, 8), "samples": (5, 10, 20), "etas": (0.1, 0.3),
    "topologies": ("complete", "ring"), "topology_rounds": 4, "budget": (1, 4), "budget_steps": 8, "trade_off": (1, 4),
    "trade_off_point": {"clients": 2, "samples": 10, "rounds": 4, "eta": 0.1},
}  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """A scale that takes a second."""
    setting = dataclasses.replace(minimax_settings.SETTINGS["smoke"]["auc-linear"], **TINY)
    monkeypatch.setitem(minimax_settings.SETTINGS, "tiny", {"auc-linear": setting})
    return setting


def test_every_claim_compares_rows_that_its_scales_make():
    claims = load_claims(claims_file("minimax"))
    assert {s for c in claims.claims for s in c.tests.get("smoke", ())} == {
        *("auc-linear", "auc-mlp", "gan"), *("c-sc", "sc-sc", "pl-sc-auc", "pl-sc-wave")
    }  # fmt: skip
    for claim in claims.claims:
        assert len(claim.short) <= 25, claim.id
        for scale, suites in claim.tests.items():
            for suite in suites:
                entries = [e for part in minimax_settings.PARTS for e in minimax_study.entries_of(scale, suite, part)]
                made = {(e.method, e.variant, e.condition) for e in entries}
                made |= {(m, "slope", "clean") for m in ("clients", "samples")}
                made |= {("derived", m, "clean") for m in ("clients", "samples")} | {("trade-off", "chosen", "clean")}
                if minimax_settings.setting_of(scale, suite).trends:
                    made |= {(f"{a}-{s}", "slope", "clean") for a in ALGORITHMS for s in TRENDS}
                    made |= {("derived", name, "clean") for name in DERIVED}
                for side in (claim.left, *claim.right):
                    assert (side.method, side.variant, claim.condition) in made, (claim.id, scale, suite)


@pytest.mark.parametrize("scale", SCALES)
def test_jobs_and_settings_of_every_scale(scale):
    jobs = minimax_study.jobs(scale, list(minimax_settings.SETTINGS[scale]), range(2))
    assert len(jobs) == len(set(jobs))
    for job in jobs:
        assert minimax_study.count_rows(scale, job.suite, job.part) > 0
        assert minimax_study.settings(scale, job.suite)["given"]["replicas"] >= 1
    with pytest.raises(ManyoneError, match="no suite"):
        minimax_settings.arms(scale, "none")


def test_a_job_writes_the_rows_it_counts_and_is_not_repeated(tiny, tmp_path):
    for part in ("sweeps", "topology"):
        minimax_study.run_job("tiny", "auc-linear", 0, part, tmp_path)
        path = tmp_path / f"auc-linear-0-{part}.jsonl"
        rows = load_rows(path)
        assert len(rows) == minimax_study.count_rows("tiny", "auc-linear", part)
        assert path.read_text().count("\n") == len(rows)
        before = path.stat().st_mtime_ns
        minimax_study.run_job("tiny", "auc-linear", 0, part, tmp_path)
        assert path.stat().st_mtime_ns == before
        figures = load_figures(tmp_path / f"auc-linear-0-{part}.figures.json")
        assert {f.section for f in figures} >= ({"Topologies"} if part == "topology" else {"The trade-off"})
    by_key = {(r.method, r.variant, r.condition): r.metrics for r in rows}
    assert by_key["topology", "complete", "clean"]["delta_mean_ratio"] == 1
    assert by_key["topology", "complete", "clean"]["consensus"] < 1e-12
    assert by_key["topology", "ring", "by-class"]["consensus"] > 1e-3


def test_rows_are_means_over_replicas_and_do_not_depend_on_what_else_is_computed(tiny):
    around, trade_off = (arm.options(seed=3) for arm in minimax_settings.arms("tiny", "auc-linear", "sweeps"))
    both = sweeps(around, trade_off, methods=["", "trade-off"])
    assert len(set(both.where)) < len(both.entries)  # equal points are computed once
    both.lab.run()
    rows = {row.key: row.metrics for row in rows_of("auc-linear", 3, both.entries, both.results())}
    alone = sweeps(trade_off, methods=["trade-off"])
    alone.lab.run()
    for row in rows_of("auc-linear", 3, alone.entries, alone.results()):
        assert row.metrics.keys() == rows[row.key].keys()
        assert all(rows[row.key][k] == pytest.approx(v, abs=1e-12) for k, v in row.metrics.items())
    with pytest.raises(ManyoneError, match="cannot be stacked"):
        sweeps(around, dataclasses.replace(trade_off, replicas=3))


@pytest.mark.parametrize("scale", SCALES)
def test_the_command_of_every_arm_has_its_options(scale):
    for suite in minimax_settings.SETTINGS[scale]:
        for arm in minimax_settings.arms(scale, suite):
            verb, recipe, *words = arm.words(seed=3)
            assert (verb, recipe) == ("run", "stability")
            assert parse_options(StabilityOptions, recipe, words) == arm.options(seed=3)


def test_the_command_of_every_arm_measures_what_the_study_measures(tiny, manyone, tmp_path):
    parts = {part: minimax_settings.arms("tiny", "auc-linear", part) for part in minimax_settings.PARTS}
    assert {part for part, chosen in parts.items() if not chosen} == {"trends"}  # those of other suites
    for part, chosen in parts.items():
        if not chosen:
            continue
        together = sweeps(*(arm.options() for arm in chosen), methods=[arm.method for arm in chosen])
        together.lab.run()
        results = iter(zip(together.entries, together.results(), strict=True))
        for i, arm in enumerate(chosen):
            code, _, err = manyone(*arm.words(out=f"{part}{i}"))
            assert code == 0, err
            for point in json.loads((tmp_path / f"{part}{i}/model/points.json").read_text())["points"]:
                entry, result = next(results)
                assert (point["variant"], point["condition"]) == (entry.variant, entry.condition)
                assert point["settings"] == result.settings
                for name, values in result.final.items():
                    assert values.tolist() == pytest.approx(point["final"][name], abs=1e-12), (arm, name)
        assert next(results, None) is None


def test_prepare_tells_where_the_data_come_from(tiny):
    info = minimax_study.prepare("tiny", "auc-linear")
    assert info.tasks[0].name == "breast-cancer"
    assert info.tasks[0].train == 4 * 20
    assert "UCI" in info.tasks[0].source


@pytest.mark.parametrize("scale", SCALES)
def test_classes_are_compared_at_the_values_that_claims_name(scale):
    for suite, setting in minimax_settings.SETTINGS[scale].items():
        if setting.trends:
            assert {12, 50} <= set(setting.trends["samples"])
            assert {2, 16} <= set(setting.trends["clients"])
            assert 100 in setting.trends["rounds"]
            assert all(len(values) >= 3 for values in setting.trends.values())
            arms = minimax_settings.arms(scale, suite, "trends")
            assert {arm.options().topology for arm in arms} == {"server", "ring"}


CLASSES = {
    "sc-sc": {"ridge": 0.5, "ridge_y": 0.5, "eta": 0.02, "data": "breast-cancer"},
    "pl-sc-auc": {"data": "breast-cancer", "random_features": 64, "eta": 0.3},
    "pl-sc-wave": {"problem": "wave", "data": "breast-cancer", "eta": 0.02},
}  # fmt: skip


def test_the_classes_give_trends_bounds_and_constants(monkeypatch, tmp_path):
    settings = {}
    for name, given in CLASSES.items():
        given = {
            "problem": "auc-linear",
            "replicas": 2,
            "test": 100,
            "clients": 4,
            "samples": 6,
            "local_steps": 2,
            **given,
        }
        trends = {"rounds": (2, 4, 100) if name == "sc-sc" else (2, 4, 8), "samples": (3, 6, 9), "clients": (2, 3, 4)}
        settings[name] = minimax_settings.Setting(given, trends=trends)
    monkeypatch.setitem(minimax_settings.SETTINGS, "tiny", settings)
    for name in settings:
        minimax_study.run_job("tiny", name, 0, "trends", tmp_path)
        rows = load_rows(tmp_path / f"{name}-0-trends.jsonl")
        assert len(rows) == minimax_study.count_rows("tiny", name, "trends")
        last = next(r for r in rows if r.method == "local-dsgda-rounds" and r.variant == "t4").metrics
        assert last["pl"] > 0
        assert ("bound_ever" in last) == (name == "sc-sc") == (last["curvature"] > 1e-9)
        assert ("pd_gap" in last) == (name != "pl-sc-auc")  # more features than samples: F(., alpha) has no minimum
        assert name != "sc-sc" or last["delta_avg"] <= last["bound_ever"]
    figures = minimax_study.overview("tiny", list(settings), range(1), tmp_path)
    assert [f.kind for f in figures] == ["table"] * 3
    assert {line[0] for line in figures[0].data["rows"]} == {NAMES[name] for name in settings}
    assert any(line[4] == "4G/(μmn)" for line in figures[1].data["rows"])
