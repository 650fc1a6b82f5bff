"""Rows of results: reading, writing, and the statistics against numbers computed by hand."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyone.claims.rows import (
    Results,
    Row,
    append_rows,
    load_rows,
    mean_over_tasks,
    metric_value,
)
from manyone.errors import ManyoneError
from manyone.evaluation.intervals import paired_difference, t_interval


def test_t_interval_by_hand():
    # mean 2, s = 1, n = 3, t(0.975, 2) = 4.302653: half width 4.302653 / sqrt(3) = 2.484138
    found = t_interval([1.0, 2.0, 3.0])
    assert (found.value, found.n) == (2.0, 3)
    assert found.half_width == pytest.approx(2.484138, abs=1e-6)
    # n = 5, values 0.80 .. 0.84: s = 0.0158114, t(0.975, 4) = 2.776445: 0.0196324
    assert t_interval([0.80, 0.81, 0.82, 0.83, 0.84]).half_width == pytest.approx(0.0196324, abs=1e-6)
    # n = 2: t(0.975, 1) = 12.7062, s = 0.01414214: 0.127062
    assert t_interval([0.5, 0.52]).half_width == pytest.approx(0.127062, abs=1e-6)


def test_t_interval_edges():
    assert math.isnan(t_interval([0.5]).low)
    same = t_interval([0.1, 0.1, 0.1])
    assert (same.low, same.value, same.high) == pytest.approx((0.1, 0.1, 0.1))


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=2, max_size=8), st.floats(-1, 1))
def test_t_interval_shifts_and_contains_its_mean(values, shift):
    found, moved = t_interval(values), t_interval([v + shift for v in values])
    assert found.low <= found.value + 1e-12
    assert found.value <= found.high + 1e-12
    assert moved.value == pytest.approx(found.value + shift, abs=1e-9)
    assert moved.half_width == pytest.approx(found.half_width, abs=1e-6)


def test_paired_difference_uses_common_seeds():
    found = paired_difference({0: 0.5, 1: 0.7, 5: 0.1}, {1: 0.5, 0: 0.4})
    assert found.n == 2
    assert found.value == pytest.approx(0.15)


def test_metrics_by_hand():
    row = Row(
        "s", 0, "m", task={"a": 0.5, "b": 1.0}, metrics={"ms": 2.0}, details={"bias": {"before": {"a": 1.0, "b": 3.0}}}
    )
    assert mean_over_tasks(row) == 0.75
    assert metric_value(row, "accuracy.b") == 1.0
    assert metric_value(row, "bias.before") == 2.0
    assert metric_value(row, "bias.after") is None
    assert metric_value(row, "ms") == 2.0
    assert metric_value(row, "none") is None
    shadowed = Row("s", 0, "m", metrics={"exposure": -0.1}, details={"exposure": {"percent": [1.0]}})
    assert metric_value(shadowed, "exposure") == -0.1  # a detail of its name stands beside it
    assert metric_value(Row("s", 0, "m"), "accuracy") is None
    with pytest.raises(ManyoneError, match="no score"):
        mean_over_tasks(Row("s", 0, "m"))


def test_results_look_up():
    made = [
        Row("s", 1, "m", task={"a": 0.2, "b": 0.4}),
        Row("s", 0, "m", task={"a": 0.4, "b": 0.6}),
        Row("s", 0, "m", condition="unseen", task={"z": 0.1}),
        Row("s", 0, "m", "batch", "contrast", task={"a": 0.3}),
    ]
    results = Results(made)
    assert results.values("s", "m", "", "accuracy") == {0: 0.5, 1: pytest.approx(0.3)}
    assert results.conditions("s") == ["clean", "contrast", "unseen"]
    assert results.entries("s") == [("m", "")]
    assert results.entries("s", None) == [("m", ""), ("m", "batch")]
    assert results.tasks("s") == ["a", "b"]
    assert results.seeds("s") == [0, 1]
    assert results.interval("s", "m", "", "accuracy").value == pytest.approx(0.4)
    assert results.interval("s", "x", "", "accuracy") is None
    assert len(results) == 4


def test_round_trip_and_replacement(tmp_path):
    path = tmp_path / "deep" / "results.jsonl"
    first = Row(
        "s",
        0,
        "m",
        "v",
        "clean",
        {"a": 0.5},
        {"k": 1.0},
        {"routing": {"a": [[0.1, 0.2]]}, "bias": {"before": {"a": 1.0}}},
    )
    append_rows(path, [first, Row("s", 1, "m")])
    assert load_rows(path)[0] == first
    append_rows(path, [Row("s", 1, "m", task={"a": 0.25})])
    loaded = load_rows(path)
    assert [r.seed for r in loaded] == [0, 1]
    assert loaded[1].task == {"a": 0.25}


def test_cut_last_line_is_dropped_and_repaired(tmp_path):
    path = tmp_path / "results.jsonl"
    append_rows(path, [Row("s", 0, "m"), Row("s", 1, "m")])
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    assert [r.seed for r in load_rows(path)] == [0]
    append_rows(path, [Row("s", 1, "m")])
    assert path.read_bytes() == whole


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("{", "not JSON"),
        ("[]", "object"),
        ('{"suite": "s", "seed": 0}', "'method'"),
        ('{"suite": "s", "seed": "0", "method": "m"}', "'seed'"),
        ('{"suite": "s", "seed": true, "method": "m"}', "'seed'"),
        ('{"suite": "s", "seed": 0, "method": "m", "acc": 1}', "'acc'"),
        ('{"suite": "s", "seed": 0, "method": "m", "task": {"a": 83.0}}', "0..1"),
        ('{"suite": "s", "seed": 0, "method": "m", "task": {"a": NaN}}', "finite"),
        ('{"suite": "s", "seed": 0, "method": "m", "task": [1]}', "object of numbers"),
        ('{"suite": "s", "seed": 0, "method": "m", "metrics": {"a": "x"}}', "metrics.a"),
    ],
)
def test_bad_rows_name_file_and_line(tmp_path, line, names):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(Row("s", 0, "m").to_json()) + "\n" + line + "\n")
    with pytest.raises(ManyoneError) as caught:
        load_rows(path)
    message = str(caught.value)
    assert message.startswith(f"{path}:2: ")
    assert names in message
    assert "\n" not in message


def test_missing_and_unwritable(tmp_path):
    with pytest.raises(ManyoneError, match="cannot read"):
        load_rows(tmp_path / "none.jsonl")
    (tmp_path / "file").write_text("")
    with pytest.raises(ManyoneError, match="cannot write"):
        append_rows(tmp_path / "file" / "results.jsonl", [Row("s", 0, "m")])
