"""Curves of runs: each once, noisy ones smoothed, those of one kind together."""

import math

import numpy as np
import pytest

from manyone.claims.figure import Figure
from manyone.report.curves import curves_of, smoothed
from manyone.report.record import RunRecord

FIGURE = Figure("table", "t", {"columns": [], "rows": []})


def record(lines, recipe="wemoe", figures=()):
    return RunRecord("r", {"recipe": recipe}, lines, figures)


def noisy(n):
    draws = np.random.default_rng(0).normal(size=n)
    return [(float(k), math.exp(-k / n) + 0.3 * float(draws[k])) for k in range(n)]


def test_noise_is_smoothed_and_the_mean_is_kept():
    curve = noisy(500)
    smooth, window = smoothed(curve)
    assert window == 21
    assert [x for x, _ in smooth] == [x for x, _ in curve]
    middle = slice(100, 400)
    assert np.std(np.diff([y for _, y in smooth[middle]])) < 0.1 * np.std(np.diff([y for _, y in curve[middle]]))
    assert smooth[250][1] == pytest.approx(np.mean([y for _, y in curve[240:261]]))
    assert [smooth[0][1], smooth[-1][1]] == pytest.approx([curve[0][1], curve[-1][1]])


@pytest.mark.parametrize(
    "curve",
    [noisy(20), [(float(k), math.exp(-k / 100)) for k in range(500)], [(float(k), 1.0) for k in range(500)], []],
)
def test_short_smooth_and_constant_curves_stay(curve):
    assert smoothed(curve) == (curve, 0)


def test_a_smoothed_curve_lies_before_what_was_logged():
    lines = [{"step": int(x), "kind": "train", "loss": y} for x, y in noisy(100)]
    (plot,) = curves_of(["r"], [record(lines)])
    assert plot["caption"] == "Line: running mean of 5 points; faint: every point as it was logged."
    assert plot["plot"].index("line faint s0") < plot["plot"].index('"line s0"')
    assert plot["title"] == "objective, sum over tasks"


def test_training_and_evaluation_of_a_metric_share_a_picture():
    lines = [{"step": k, "kind": kind, "loss": k + len(kind)} for k in (1, 2) for kind in ("train", "eval")]
    lines.append({"step": 3, "kind": "final", "loss": 1.0})
    (plot,) = curves_of(["r"], [record(lines)])
    assert plot["key"] == [(0, "training"), (1, "evaluation")]
    two = curves_of(["r", "s"], [record(lines), record(lines)])
    assert [one["title"].rpartition(" ")[2] for one in two] == ["(training)", "(evaluation)"]
    assert [one["key"] for one in two] == [[], []], "one key stands above all of them"


def test_metrics_of_one_kind_share_pictures_of_six():
    lines = [{"step": k, "kind": "train", **{f"entropy/t{n}": float(k * n) for n in range(1, 9)}} for k in (1, 2)]
    plots = curves_of(["r"], [record(lines)])
    assert [len(one["key"]) for one in plots] == [6, 2]
    assert plots[0]["title"] == "entropy of predictions on each task, nats"


def test_what_does_not_change_or_is_drawn_already_is_left_out():
    lines = [{"step": k, "kind": "train", "loss": k, "lr": 0.1, "return": k} for k in (1, 2)]
    assert [one["raw"] for one in curves_of(["r"], [record(lines, "ippo")])] == ["loss", "return"]
    assert [one["raw"] for one in curves_of(["r"], [record(lines, "ippo", [FIGURE])])] == ["loss"]
    both = curves_of(["r", "s"], [record(lines, "ippo", [FIGURE]), record(lines, "ippo")])
    assert [(one["raw"], one["series"]) for one in both] == [("loss", [(0, "r"), (1, "s")]), ("return", [(1, "s")])]
