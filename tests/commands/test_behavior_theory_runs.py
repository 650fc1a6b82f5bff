"""Whole runs of obd-theory: tables, figures, resume after kill -9, options."""

import json

import pytest
from tests.commands.run_files import assert_kill_9_changes_nothing

QUICK = ("obd-theory", "--pairs", "20", "--gammas", "0.5", "0.9", "0.99")


def test_a_run_prints_its_tables_and_the_report_draws_them(manyone, tmp_path):
    code, out, err = manyone("run", *QUICK, "--out", "r")
    assert code == 0, err
    assert "cliff: 1/(1 - γ) to the power 2.00 is gap / E D_TV" in out
    assert max(len(line) for line in out.splitlines()) <= 100
    lines = [json.loads(line) for line in (tmp_path / "r/metrics.jsonl").read_text().splitlines()]
    assert [line["gamma"] for line in lines if line["kind"] == "train"] == [0.5, 0.9, 0.99]
    assert lines[-1]["violations"] == 0
    assert lines[-1]["identity_residual"] < 1e-10
    assert manyone("report", "r")[0] == 0
    page = (tmp_path / "r/report.html").read_text()
    for words in ("A tight case: cliff", "Residuals of Theorem 2", "Where Corollary 1 fails"):
        assert words in page
    code, out, _ = manyone("eval", "r")
    assert code == 0
    assert "violations" in out


def test_kill_9_changes_nothing(manyone, tmp_path):
    words = ("obd-theory", "--pairs", "6000", "--gammas", "0.5", "0.9")
    assert_kill_9_changes_nothing(manyone, tmp_path, words, after=3, files=("model/theory.json",))
    assert (tmp_path / "cut/figures.json").read_bytes() == (tmp_path / "whole/figures.json").read_bytes()


def test_a_plan_writes_nothing(manyone, tmp_path):
    code, out, _ = manyone("run", *QUICK, "--dry-run")
    assert code == 0
    assert "20 random MDPs of 6 states and 3 actions under 3 discounts" in out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--gammas", "0.9", "1"), "--gammas 1.0: must be above 0, below 1"),
        (("--gammas", "0.9", "0.9"), "--gammas (0.9, 0.9): must be one or more, each once"),
        (("--gammas",), "--gammas (): must be one or more, each once"),
        (("--actions", "1"), "--actions 1: must be from 2 to 100"),
        (("--mistakes", "0"), "--mistakes 0.0: must be above 0"),
        (("--device", "cuda"), "cuda"),
    ],
)
def test_wrong_options_are_named(manyone, words, message):
    code, _, err = manyone("run", "obd-theory", *words)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1
