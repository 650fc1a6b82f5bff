"""Scores of predictions: the properties of an evaluator, and what it refuses."""

import hashlib
import json
import sqlite3
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.reference import sql_scoring as plain

from manyone.data.sql.records import Pair
from manyone.data.sql.sandbox import Limits, Sandbox
from manyone.errors import ManyoneError
from manyone.sql.scoring.evaluate import efficiency, evaluate

GOLDS = ["SELECT name, country FROM author", "SELECT country FROM author", "SELECT name FROM author ORDER BY born"]
PAIRS = [Pair("library", f"question {k}", sql) for k, sql in enumerate(GOLDS)]


@pytest.fixture
def judged(library, schema, sandbox):
    """Scores of predictions for ``GOLDS``, or for other golds."""

    def call(predictions, preset="spider-ex", golds=None, **options):
        pairs = PAIRS if golds is None else [Pair("library", "", sql) for sql in golds]
        options = {"schemas": {"library": schema}} | options
        return evaluate(pairs, predictions, {"library": library}, preset, sandbox, **options)

    return call


@pytest.mark.parametrize("preset", ["spider-ex", "spider-ts", "spider-em", "bird-ex", "bird-ves"])
def test_gold_is_right(judged, preset):
    scores = judged(GOLDS, preset, repeats=2)
    assert all(v.correct for v in scores.verdicts)
    assert (scores.gold_check.count, scores.gold_check.correct) == (3, 3)
    if preset != "bird-ves":
        assert scores.score == 1


def test_columns_rows_and_duplicates(judged):
    moved = ["SELECT country, name FROM author", "SELECT country FROM author GROUP BY country",
             "SELECT name FROM author ORDER BY born DESC"]  # fmt: skip
    assert [v.correct for v in judged(moved).verdicts] == [True, False, False]
    assert [v.correct for v in judged(moved, "bird-ex").verdicts] == [False, True, True]


def test_a_suite_is_at_most_as_kind_as_its_first_database(judged):
    chance = [
        "SELECT name, country FROM author",
        "SELECT country FROM author",
        "SELECT name FROM author ORDER BY born, id DESC",
    ]
    first, suite = judged(chance), judged(chance, "spider-ts")
    assert [v.correct for v in first.verdicts] == [True, True, True]
    assert [v.correct for v in suite.verdicts] == [True, True, False]


def test_the_official_ways_that_can_be_asked_for(judged):
    golds = ["SELECT name FROM author", "SELECT value FROM book", "SELECT price FROM book WHERE id = 1"]
    predictions = ["SELECT name FROM author; SELECT 1", "SELECT value FROM book",
                   "SELECT price FROM book WHERE id = value"]  # fmt: skip
    ours = judged(predictions, golds=golds)
    assert [v.correct for v in ours.verdicts] == [False, True, False]
    assert "one-statement" in ours.deviations
    theirs = judged(predictions, golds=golds, official=["one-statement", "value-word"])
    assert [v.correct for v in theirs.verdicts] == [True, False, True]
    assert not {"one-statement", "value-word"} & set(theirs.deviations)
    nested = "SELECT T1.name FROM author AS T1 WHERE T1.id NOT IN (SELECT T1.author_id FROM book AS T1)"
    flat = nested.replace("T1.author_id FROM book AS T1", "T2.author_id FROM book AS T2")
    assert judged([nested], "spider-em", golds=[flat]).verdicts[0].correct
    assert not judged([nested], "spider-em", golds=[flat], official=["alias-scope"]).verdicts[0].correct
    with pytest.raises(ManyoneError, match="official=read-only: must be among"):
        judged(predictions, official=["read-only"])


def test_distinct_may_count(judged):
    golds, predictions = ["SELECT DISTINCT country FROM author"], ["SELECT country FROM author"]
    assert judged(predictions, golds=golds).verdicts[0].correct
    assert not judged(predictions, golds=golds, keep_distinct=True).verdicts[0].correct


def test_mysql_s_year_is_2020(judged):
    golds = ["SELECT name FROM author WHERE born > YEAR(CURDATE()) - 60"]
    assert judged(["SELECT name FROM author WHERE born > 1960"], golds=golds).verdicts[0].correct


def test_a_gold_query_that_fails_is_named(judged):
    golds = ["SELECT name FROM author", "SELECT nil FROM author", "SELECT nobody FROM author"]
    with pytest.raises(ManyoneError, match=r"gold query 2 \(library\): error: no such column: nil.* and 1 more"):
        judged(golds, golds=golds)
    with pytest.raises(ManyoneError, match="gold query 2"):
        judged(golds, golds=golds, self_check=False)
    scores = judged(golds, "bird-ex", golds=golds)
    assert [v.correct for v in scores.verdicts] == [True, False, False]  # the same error is not the same result
    assert scores.verdicts[1].reason.startswith("gold failed: error: no such column")
    assert scores.gold_check.correct == 1
    assert scores.gold_check.failed[0].startswith("2 (library): error: no such column: nil")


def test_a_gold_query_that_gives_something_else_each_time_is_named(judged):
    golds = ["SELECT random()", "SELECT name FROM author"]
    assert judged(golds, "bird-ex", golds=golds).gold_check.failed == (
        "1 (library): gives something else each time: SELECT random()",
    )


def test_gold_outside_of_spider_s_sql(judged):
    golds = ["SELECT name AS n FROM author", "SELECT name FROM author"]
    executed = judged(golds, golds=golds)
    assert [v.level for v in executed.verdicts] == ["unread", "easy"]
    assert executed.score == 1
    matched = judged(golds, "spider-em", golds=golds)
    assert [v.reason for v in matched.verdicts] == ["gold unread", ""]
    assert matched.gold_check.correct == 1


def test_levels_and_difficulties(judged, library, sandbox):
    assert list(judged(GOLDS).levels) == ["easy", "medium"]
    assert judged(GOLDS, schemas=None).levels == {}
    bird = judged(GOLDS, "bird-ex", difficulties=["simple", "challenging", "simple"])
    assert {name: interval.n for name, interval in bird.levels.items()} == {"simple": 2, "challenging": 1}
    assert list(bird.levels) == ["simple", "challenging"]


def test_what_does_not_fit_is_refused(judged, library, schema, sandbox):
    with pytest.raises(ManyoneError, match="2 predictions for 3 gold queries"):
        judged(GOLDS[:2])
    with pytest.raises(ManyoneError, match="preset 'ex': must be one of spider-ex"):
        judged(GOLDS, "ex")
    with pytest.raises(ManyoneError, match="no database for 'library'"):
        evaluate(PAIRS, GOLDS, {}, "spider-ex", sandbox)
    with pytest.raises(ManyoneError, match="no schema for 'library'"):
        evaluate(PAIRS, GOLDS, {"library": library}, "spider-em", sandbox)
    with pytest.raises(ManyoneError, match="nothing to score"):
        evaluate([], [], {}, "spider-ex", sandbox)
    with pytest.raises(ManyoneError, match="1 difficulties for 3"):
        judged(GOLDS, "bird-ex", difficulties=["simple"])


def test_a_prediction_that_harms_leaves_the_others_alone(judged, library):
    before = hashlib.sha256(library[0].read_bytes()).hexdigest()
    scores = judged(["DROP TABLE author", "DELETE FROM author", GOLDS[2]])
    assert [v.correct for v in scores.verdicts] == [False, False, True]
    assert [v.reason.partition(":")[0] for v in scores.verdicts] == ["denied", "denied", ""]
    assert hashlib.sha256(library[0].read_bytes()).hexdigest() == before
    assert scores.fingerprints == {"library": (before,)}
    assert scores.reasons() == {"denied": 2}


def test_what_has_no_end_is_wrong(library, schema):
    endless = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT {} FROM r"
    predictions = [endless.format("max(x)"), endless.format("x"), "x" * 50_000]
    with Sandbox(2, Limits(seconds=2, rows=1000)) as sandbox:
        scores = evaluate(PAIRS, predictions, {"library": library}, "spider-ex", sandbox)
    assert [v.reason.partition(":")[0] for v in scores.verdicts] == ["time", "limit", "limit"]


def test_scores_do_not_depend_on_the_number_of_workers(judged, library, schema):
    predictions = [GOLDS[0], "SELECT name FROM author", "SELECT name FROM author ORDER BY born, id"] * 20
    pairs = PAIRS * 20
    with Sandbox(3, Limits(seconds=10)) as three, Sandbox(1, Limits(seconds=10)) as one:
        found = [evaluate(pairs, predictions, {"library": library}, "spider-ex", s) for s in (three, one)]
    timeless = [[replace(v, seconds=0.0) for v in scores.verdicts] for scores in found]
    assert timeless[0] == timeless[1]
    assert found[0].metrics() == found[1].metrics()


def test_progress_is_told(judged):
    told = []
    judged(GOLDS, told=lambda *words: told.append(words))
    assert told[:2] == [("fingerprints of databases", 1, 1), ("gold queries", 1, 3)]
    assert told[-1] == ("predictions", 3, 3)


def test_verdicts_and_scores_are_json(judged):
    for preset in ("spider-ex", "spider-em", "bird-ves"):
        scores = judged([GOLDS[0], "SELECT '\ud800'", "SELECT 1"], preset, repeats=1)
        text = json.dumps([scores.to_json(), *(v.to_json() for v in scores.verdicts)], allow_nan=False)
        assert json.loads(text)[0]["n"] == 3
    assert scores.metrics()["n"] == 3


def test_efficiency_of_faster_and_slower_predictions(judged):
    slow = "SELECT count(*) FROM author a, author b, author c, book d, book e, book f, loan g"
    fast = "SELECT 4 * 4 * 4 * 5 * 5 * 5 * 5"
    (quick,) = judged([fast], "bird-ves", golds=[slow], repeats=5).verdicts
    (lame,) = judged([slow], "bird-ves", golds=[fast], repeats=5).verdicts
    assert quick.correct
    assert lame.correct
    assert quick.value > 1 > lame.value > 0


@given(st.lists(st.floats(0.01, 100), min_size=1, max_size=40))
def test_the_plain_formulation_of_efficiency(ratios):
    assert efficiency(ratios) == pytest.approx(plain.efficiency(ratios), rel=1e-9)


def test_efficiency_leaves_far_ratios_out():
    assert efficiency([1.0] * 30 + [1000.0]) == 1.0
    assert efficiency([4.0, 4.0]) == 2.0
    assert efficiency([]) == 0.0


def test_a_database_that_changes_meanwhile_stops_the_evaluation(tmp_path, schema, sandbox):
    path = tmp_path / "w.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE author (name)")
        connection.commit()
        with pytest.raises(ManyoneError, match="holds changes that the file lacks"):
            evaluate([Pair("w", "", "SELECT name FROM author")], ["SELECT 1"], {"w": (path,)}, "bird-ex", sandbox)
    connection.close()
