"""How models are judged: gold queries that fail are left out before anything long, sources have scores of their own."""

import json
from dataclasses import replace

import pytest
from tests.sql.small_pairs import write_pairs

from manyone.errors import ManyoneError
from manyone.sql.recipes.options import KIDOptions
from manyone.sql.recipes.problem import load_problem
from manyone.sql.recipes.scores import Judge, rows_of

BROKEN = {"db_id": "band", "question": "the moon", "query": "SELECT moon FROM singer", "source": "made"}


@pytest.fixture
def place(tmp_path):
    return write_pairs(tmp_path)


def _with(place, *rows):
    with place.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    options = KIDOptions(data=(f"band={place}",), workers=1)
    return load_problem(options), options


def test_a_gold_query_that_fails_is_left_out(place, capsys):
    problem, options = _with(place, {**BROKEN, "split": "test"})
    with Judge(problem, options) as judge:
        assert [p.question for p in judge.pairs] == [p.question for p in problem.test if p.question != "the moon"]
        found = judge.scores([pair.sql for pair in judge.pairs])
    assert (found["ex"], found["ts"], found["pairs"]) == (1, 1, len(problem.test) - 1)
    said = capsys.readouterr().err
    assert "the gold queries of 1 of 5 pairs to test on fail" in said
    assert "no such column: moon" in said


def test_golds_that_all_fail_stop_at_once(place):
    rows = [json.loads(line) for line in place.read_text().splitlines()]
    place.write_text("".join(json.dumps(row) + "\n" for row in rows if row["split"] != "test"))
    problem, options = _with(place, {**BROKEN, "split": "test"})
    with pytest.raises(ManyoneError, match=r"no such column: moon.*are these their databases"), Judge(problem, options):
        pass


def test_nothing_matches_a_gold_query_that_fails(place, capsys):
    problem, options = _with(place, {**BROKEN, "split": "train"})
    with Judge(problem, options) as judge:
        matches, executes = judge.kept("matches"), judge.kept("executes")
        assert judge.kept("none") is None
        numbers = range(len(problem.train))
        answers = [pair.sql for pair in problem.train]
        assert matches(numbers, answers) == executes(numbers, answers) == [True] * (len(answers) - 1) + [False]
        other = ["SELECT 1"] * len(answers)
        assert not any(matches(numbers, other))
        assert all(executes(numbers, other))
    assert "pairs to train on fail" in capsys.readouterr().err


def test_a_filter_needs_the_databases(place):
    problem, options = _with(place)
    bare = replace(problem, data=replace(problem.data, databases={}))
    with Judge(bare, options) as judge:
        assert judge.pairs == []
        with pytest.raises(ManyoneError, match=r"--teacher-filter executes: .*no database for 'band'"):
            judge.kept("executes")


def test_every_source_has_scores_of_its_own(place):
    rows = [{"db_id": "band", "question": f"how many {k}", "query": f"SELECT count(*) FROM singer WHERE age > {k}",
             "split": "test", "source": "asked"} for k in (20, 30)]  # fmt: skip
    problem, options = _with(place, *rows)
    with Judge(problem, options) as judge:
        answers = [pair.sql if pair.source == "made" else "SELECT count(*) FROM singer WHERE age > 30"
                   for pair in judge.pairs]  # fmt: skip
        found = judge.scores(answers)
        assert {name for name in found if "/" not in name} == set(), "nothing is thrown together"
        assert (found["ex/made"], found["ex/asked"], found["pairs/asked"]) == (1, 0.5, 2)
        assert found["ex_low/asked"] < found["ex/asked"] < found["ex_high/asked"]
        executed = judge.sandbox.execute
        judge.sandbox.execute = lambda *args, **kwargs: calls.append(args) or executed(*args, **kwargs)
        calls = []
        judge.scores(answers)
        # answer and gold of six pairs on one file, then on two files of five and on the first of what differs there
        assert len(calls) == 6 * 2 + 5 * 4 + 2
    assert [row[:3] for row in rows_of("kid", found)] == [("kid: made", "4", "100.0"), ("kid: asked", "2", "50.0")]
