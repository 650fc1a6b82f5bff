"""What recipes read of a user's own pairs: splits that share no query, prompts and normal forms that are made once."""

import json
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from tests.sql.small_pairs import write_pairs

from manyone.data.sql.pairs import load_pairs
from manyone.data.sql.splits import hold_out
from manyone.errors import ManyoneError
from manyone.sql.recipes import problem as module
from manyone.sql.recipes.options import KIDOptions
from manyone.sql.recipes.problem import load_problem


@pytest.fixture
def place(tmp_path):
    return write_pairs(tmp_path)


def _only(place, split):
    """The file with all pairs in one split."""
    rows = [json.loads(line) for line in place.read_text().splitlines()]
    place.write_text("".join(json.dumps({**row, "split": split}) + "\n" for row in rows))


def test_pairs_without_test_pairs_are_not_tested_on_training_pairs(place):
    _only(place, "train")
    problem = load_problem(KIDOptions(data=(f"band={place}",)))
    queries = [{pair.sql for pair in pairs} for pairs in (problem.train, problem.validation, problem.test)]
    assert sum(map(len, queries)) == len(set.union(*queries)), "no query is in two splits"
    assert [len(problem.of(split)) for split in ("train", "val", "test")] == [18, 3, 3]
    assert len([note for note in problem.data.notes if "held out" in note]) == 2


def test_phrasings_of_a_query_stay_together(place):
    data = load_pairs(place)
    pairs = [replace(p, question=f"{p.question} {k}") for p in data.splits["train"] for k in range(3)]
    spelled = [replace(p, sql=p.sql.lower()) if k % 2 else p for k, p in enumerate(pairs)]
    held = hold_out(replace(data, splits={"train": spelled}))
    assert sum(map(len, held.splits.values())) == len(pairs)
    assert all(len(own) % 3 == 0 for own in held.splits.values())
    more = hold_out(replace(data, splits={"train": [*spelled, *spelled[:6]]}))
    assert {p.sql for p in more.splits["test"]} == {p.sql for p in held.splits["test"]}


def test_given_splits_are_left_alone(place):
    data = load_pairs(place)
    assert hold_out(data) is data
    held = hold_out(replace(data, splits={"train": data.splits["train"], "test": data.splits["test"]}))
    assert list(held.splits["test"]) == list(data.splits["test"])
    assert held.splits["val"]


def test_too_few_queries_to_hold_some_out(place):
    data = load_pairs(place)
    with pytest.raises(ManyoneError, match=r"no validation pairs, and too few different queries .* give val\.json"):
        hold_out(replace(data, splits={"train": data.splits["train"][:2]}))
    with pytest.raises(ManyoneError, match="no pairs to train on"):
        hold_out(replace(data, splits={"test": data.splits["test"]}))


def test_texts_are_made_once(place, monkeypatch):
    problem = load_problem(KIDOptions(data=(f"band={place}",)))
    first = problem.texts()
    monkeypatch.setattr(module, "render", None)
    monkeypatch.setattr(module, "normal", None)
    assert problem.texts() == first
    assert problem.unparsed() == 0


def test_queries_that_cannot_be_parsed_are_counted(place):
    rows = [json.loads(line) for line in place.read_text().splitlines()]
    rows.append({"db_id": "band", "question": "?", "query": "select from where", "split": "train"})
    place.write_text("".join(json.dumps(row) + "\n" for row in rows))
    problem = load_problem(KIDOptions(data=(f"band={place}",)))
    assert problem.unparsed() == 1
    assert problem.target(problem.train[-1]) == "select from where"
    assert load_problem(KIDOptions(data=(f"band={place}",), normal=False)).unparsed() == 0


def test_several_places_share_no_query_between_splits(place, tmp_path):
    other = tmp_path / "more.jsonl"
    rows = [json.loads(line) for line in place.read_text().splitlines()]
    moved = [{**row, "split": "train", "question": f"say {row['question']}"} for row in rows]
    other.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *moved]))
    problem = load_problem(KIDOptions(data=(f"a={place}", f"b={other}")))
    asked = {pair.sql for pair in (*problem.validation, *problem.test)}
    train = [pair for pair in problem.train if pair.sql in asked]
    assert not train
    assert len(problem.train) == len(set(problem.train)) == 2 * sum(row["split"] == "train" for row in rows)
    assert any("left out" in note for note in problem.data.notes)


def test_databases_of_one_name_and_other_rows_are_refused(place, tmp_path):
    other = write_pairs(tmp_path / "other")
    database = tmp_path / "other" / "database" / "band" / "band.sqlite"
    options = KIDOptions(data=(f"a={place}", f"b={other}"))
    with closing(sqlite3.connect(database)) as db:
        db.execute("DELETE FROM singer WHERE id = 0")
        db.commit()
    with pytest.raises(ManyoneError, match="both have a database 'band', with different tables or rows"):
        load_problem(options)


def test_places_with_databases_of_their_own(place, tmp_path):
    other = write_pairs(tmp_path / "other")
    (tmp_path / "other" / "database" / "band").rename(tmp_path / "other" / "database" / "choir")
    other.write_text(other.read_text().replace('"db_id": "band"', '"db_id": "choir"'))
    problem = load_problem(KIDOptions(data=(f"a={place}", f"b={other}")))
    one = load_problem(KIDOptions(data=(f"a={place}",)))
    assert len(problem.train) == 2 * len(one.train)
    assert set(problem.data.databases) == set(problem.data.schemas) == {"band", "choir"}
    assert not any("left out" in note for note in problem.data.notes)
