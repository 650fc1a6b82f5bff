"""Reference points: kept once among the metrics, found again, and a result's place among them."""

import pytest
from tests.engine.toy import Regression

from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.recipes.options import CommonOptions
from manyone.recipes.recipe import About, Label
from manyone.recipes.references import Reference, has_references, keep_references, references_in, standings
from manyone.recipes.running import print_references

POINTS = [
    Reference("base", {"accuracy": 0.4, "accuracy/a": 0.3}, "from"),
    Reference("average", {"accuracy": 0.6}),
    Reference("experts", {"accuracy": 0.9}, "to"),
    Reference("teacher", how="not measured: manyone run sft"),
]


def test_a_result_lies_between_the_ends():
    (one,) = standings(POINTS, {"accuracy": 0.7, "accuracy/a": 0.5})
    assert one.metric == "accuracy"
    assert [point.name for point in one.points] == ["base", "average", "experts"]
    assert one.share == pytest.approx(0.6)
    assert one.words == "60 % of the way from base to experts"


@pytest.mark.parametrize("points", [POINTS[:2], [POINTS[0], Reference("same", {"accuracy": 0.4}, "to")], []])
def test_without_two_different_ends_there_is_no_way(points):
    assert all(one.share is None and one.words == "" for one in standings(points, {"accuracy": 0.7}))


def test_a_smaller_value_may_be_the_better_one():
    ends = [Reference("start", {"error": 3.0}, "from"), Reference("best", {"error": 1.0}, "to")]
    assert standings(ends, {"error": 1.5})[0].share == pytest.approx(0.75)


def test_points_of_metrics_that_the_result_lacks_are_left_out():
    sets = [Reference("chance", {f"return/{name}": 1.0, "return": 5.0}) for name in ("a", "b")]
    assert [one.metric for one in standings(sets, {"return/b": 3.0, "return": "text"})] == ["return/b"]
    assert standings(sets, {"return": True}) == []


def test_points_are_kept_once_and_outlive_a_resume(tmp_path):
    folder = RunFolder.create(tmp_path / "r", "toy", CommonOptions())
    assert not has_references(folder)
    keep_references(folder, POINTS)
    folder.log(5, "final", {"accuracy": 0.7})
    again = RunFolder.open(tmp_path / "r")
    assert has_references(again)
    keep_references(again, POINTS)
    assert len(again.metrics()) == len(POINTS) + 1
    again.truncate(0)
    assert references_in(again.metrics()) == POINTS


def test_an_earlier_run_that_is_replaced_has_no_say(tmp_path):
    keep_references(RunFolder.create(tmp_path / "r", "toy", CommonOptions()), POINTS)
    assert not has_references(RunFolder.create(tmp_path / "r", "toy", CommonOptions(), overwrite=True))


def test_a_damaged_line_is_no_point():
    found = references_in([{"kind": "reference", "name": 3, "metrics": {"a": "x", "b": 1}, "end": "up"},
                           {"kind": "reference", "metrics": None}, {"kind": "final", "metrics": {"a": 1}}])  # fmt: skip
    assert found == [Reference("3", {"b": 1.0})]


def test_the_table_goes_from_the_worst_to_the_best(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    about = About(labels={"accuracy": Label("accuracy, mean over tasks", "%")})
    print_references(POINTS, {"accuracy": 0.7}, about)
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "accuracy, mean over tasks, %", "base 40.0", "average 60.0",
        "this run 70.0 60 % of the way from base to experts", "experts 90.0",
        "teacher: not measured: manyone run sft",
    ]  # fmt: skip
    print_references(POINTS, {"accuracy": 0.7}, About(labels={"accuracy": Label("error", better="less")}))
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:5]]
    assert names == ["experts", "this", "average", "base"]


def test_points_stand_before_what_a_training_writes(tmp_path):
    folder = RunFolder.create(tmp_path / "r", "toy", CommonOptions())
    keep_references(folder, POINTS)
    train(Regression(lr=0.1), folder, steps=2)
    assert [line["kind"] for line in folder.metrics()] == ["reference"] * 4 + ["train"] * 2 + ["final"]
