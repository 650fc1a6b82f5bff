"""What scores a task, and the matrix that evaluations fill."""

from __future__ import annotations

from manyone.policies.sequence import ScoreTable, score_of


def test_success_counts_before_normalised_scores_before_returns():
    metrics = {"success/a": 1.0, "success/b": 0.5, "normalised/a": 0.2, "normalised/b": 0.1, "return/a": 7.0}
    assert score_of(metrics, ["a", "b"]) == "success"
    del metrics["success/b"]
    assert score_of(metrics, ["a", "b"]) == "normalised"
    assert score_of({"return/a": 7.0}, ["a", "b"]) is None
    assert score_of(metrics, []) is None


def test_errors_are_negated_and_what_was_measured_twice_is_kept_once():
    table = ScoreTable(["a", "b"])
    assert table.take({"action_error/a": 0.5}, 1) == {}
    table.take({"action_error/a": 0.4, "loss": 1.0}, 1)
    found = table.take({"action_error/a": 0.7, "action_error/b": 0.1}, 2)
    assert table.kind == "action_error"
    assert table.matrix() == [[-0.4, -0.7], [None, -0.1]]
    assert round(found["forgetting"], 9) == 0.15
    other = ScoreTable(["a", "b"])
    other.load_state_dict(table.state_dict())
    assert (other.matrix(), other.kind) == (table.matrix(), table.kind)


def test_a_sequence_whose_first_tasks_were_not_measured_has_no_figures():
    table = ScoreTable(["a", "b"])
    assert table.take({"return/a": 1.0, "return/b": 2.0}, 2) == {}
    assert table.matrix() == [[None, 1.0], [None, 2.0]]
    assert ScoreTable(["a"]).take({"loss": 0.0}, 1) == {}
