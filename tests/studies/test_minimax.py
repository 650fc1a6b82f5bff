"""The minimax study: its claims name rows that exist, its counts are right, and a small job runs whole."""

import dataclasses

import pytest

from manyone.claims.claims import SCALES
from manyone.claims.figure import load_figures
from manyone.claims.file import load_claims
from manyone.claims.rows import load_rows
from manyone.errors import ManyoneError
from manyone.minimax.study import settings as minimax_settings
from manyone.minimax.study import study as minimax_study
from manyone.minimax.study.laboratory import laboratory, rows_of
from manyone.reproduce.reproduce import claims_file

TINY = {
    "base": {"clients": 4, "samples": 10, "steps": 2, "rounds": 4, "eta": 0.1, "topology": "server"},
    "data": "breast-cancer", "test": 100, "replicas": 2, "local_steps": (1, 2), "clients": (2, 4, 8),
    "samples": (5, 10, 20), "etas": (0.1, 0.3), "topologies": ("complete", "ring"), "topology_rounds": 4,
    "budget": (1, 4), "budget_steps": 8, "trade_off": (1, 4),
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
    assert {s for c in claims.claims for s in c.tests.get("smoke", ())} == {"auc-linear", "auc-mlp", "gan"}
    for claim in claims.claims:
        assert len(claim.short) <= 25, claim.id
        for scale, suites in claim.tests.items():
            for suite in suites:
                setting = minimax_study.setting_of(scale, suite)
                entries = [e for part in minimax_settings.PARTS for e in minimax_study.entries_of(setting, part)]
                made = {(e.method, e.variant, e.condition) for e in entries}
                made |= {(m, "slope", "clean") for m in ("clients", "samples")}
                made |= {("derived", m, "clean") for m in ("clients", "samples")} | {("trade-off", "chosen", "clean")}
                for side in (claim.left, *claim.right):
                    assert (side.method, side.variant, claim.condition) in made, (claim.id, scale, suite)


@pytest.mark.parametrize("scale", SCALES)
def test_jobs_and_settings_of_every_scale(scale):
    jobs = minimax_study.jobs(scale, list(minimax_settings.SETTINGS[scale]), range(2))
    assert len(jobs) == len(set(jobs))
    for job in jobs:
        assert minimax_study.count_rows(scale, job.suite, job.part) > 0
        assert minimax_study.settings(scale, job.suite)["replicas"] >= 1
    with pytest.raises(ManyoneError, match="no suite"):
        minimax_study.setting_of(scale, "none")


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
    entries = minimax_study.entries_of(tiny, "sweeps")
    lab, where = laboratory(tiny, entries, 3)
    assert len(set(where)) < len(entries)  # equal points are computed once
    found = lab.run()
    rows = rows_of("auc-linear", 3, entries, [found[i] for i in where])
    alone, at = laboratory(tiny, entries[3:4], 3)
    (row,) = rows_of("auc-linear", 3, entries[3:4], [alone.run()[at[0]]])
    assert rows[3].metrics.keys() == row.metrics.keys()
    assert all(row.metrics[k] == pytest.approx(v, abs=1e-12) for k, v in rows[3].metrics.items())


def test_prepare_tells_where_the_data_come_from(tiny):
    info = minimax_study.prepare("tiny", "auc-linear")
    assert info.tasks[0].name == "breast-cancer"
    assert info.tasks[0].train == 4 * 20
    assert "UCI" in info.tasks[0].source
