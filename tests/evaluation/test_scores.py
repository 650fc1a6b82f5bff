"""Scores of roll-outs: tasks weigh alike, intervals resample within tasks, pairs must match."""

from __future__ import annotations

import math

import numpy as np
import pytest

from manyone.errors import ManyoneError
from manyone.evaluation import interquartile_mean, scores
from manyone.evaluation.rollouts import Episode, EpisodeResult


def results(values: dict[str, list[float]], *, success: bool = True) -> list[EpisodeResult]:
    return [
        EpisodeResult(Episode(task, i, i, i), 10.0 * x, bool(x > 0.5) if success else None, None, 5)
        for task, xs in values.items()
        for i, x in enumerate(xs)
    ]


def test_every_task_weighs_the_same_however_many_episodes_it_has() -> None:
    played = results({"a": [1, 1, 1, 0], "b": [0, 1]})
    assert scores.success_by_task(played) == {"a": 0.75, "b": 0.5}
    assert scores.return_by_task(played) == {"a": 7.5, "b": 5.0}
    interval = scores.mean_success(played)
    assert interval.value == pytest.approx(0.625)
    assert interval.n == 6
    assert 0 <= interval.low < 0.625 < interval.high <= 1
    assert scores.mean_return(played).value == pytest.approx(6.25)


def test_bootstrap_resamples_within_tasks_so_differences_between_tasks_do_not_widen_it() -> None:
    between = results({"a": [0.9, 1.0, 1.1] * 20, "b": [8.9, 9.0, 9.1] * 20})
    interval = scores.mean_return(between)
    exact = 1.96 * math.sqrt(2 * np.var([9, 10, 11]) / 60) / 2
    assert interval.half_width == pytest.approx(exact, rel=0.15)
    assert scores.mean_return(between) == interval
    assert scores.mean_return(between, seed=1) != interval


def test_all_successes_do_not_pretend_to_certainty() -> None:
    interval = scores.mean_success(results({"a": [1] * 50, "b": [1] * 50}))
    assert interval.value == interval.high == 1
    assert interval.low == pytest.approx(100 / (100 + 1.96**2), abs=1e-4)
    assert scores.mean_success(results({"a": [0] * 10})).high == pytest.approx(1.96**2 / (10 + 1.96**2), abs=1e-4)


def test_interquartile_mean_ignores_the_tails() -> None:
    played = results({"a": [1, 2, 3, 4], "b": [-1000, 5, 6, 5000]})
    interval = scores.iqm_return(played)
    assert interval.value == interquartile_mean([r.return_ for r in played]) == 35.0
    assert interval.low <= interval.value <= interval.high


def test_paired_difference_uses_the_same_episodes_only() -> None:
    first, second = results({"a": [1, 1, 1, 0], "b": [1, 1]}), results({"a": [1, 0, 1, 0], "b": [0, 1]})
    difference = scores.paired_difference_of(first, second[::-1])
    assert difference.value == pytest.approx((0.25 + 0.5) / 2)
    assert scores.paired_difference_of(first, second, "return").value == pytest.approx(3.75)
    assert scores.paired_difference_of(first, first).half_width == 0
    with pytest.raises(ManyoneError, match="did not play the same episodes"):
        scores.paired_difference_of(first, second[1:])
    with pytest.raises(ManyoneError, match="allowed are"):
        scores.paired_difference_of(first, second, "length")


def test_summary_without_success_has_returns_only() -> None:
    summary = scores.summarise(results({"a": [1, 2], "b": [3, 4]}, success=False))
    assert summary.success is None
    assert summary.success_by_task == {}
    assert "success" not in summary.as_metrics()
    assert summary.as_metrics()["return/b"] == 35.0
    with pytest.raises(ManyoneError, match="does not report success"):
        scores.mean_success(results({"a": [1]}, success=False))
    with pytest.raises(ManyoneError, match="no results"):
        scores.summarise([])


def test_summary_holds_what_a_log_needs() -> None:
    summary = scores.summarise(results({"a": [1, 0], "b": [1, 1]}))
    metrics = summary.as_metrics()
    assert metrics["success"] == 0.75
    assert metrics["success/b"] == 1.0
    assert metrics["success_low"] <= 0.75 <= metrics["success_high"]
    assert summary.episodes == 4
    assert all(isinstance(x, float) for x in metrics.values())
