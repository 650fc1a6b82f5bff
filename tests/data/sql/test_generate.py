from collections import Counter

import pytest
from tests.data.sql.small_sql import make_shop
from tests.reference import sql_pairs as plain

from manyone.data.sql.facts import gather
from manyone.data.sql.files import QueryError, Reader, TooManyRows, write_database
from manyone.data.sql.generate import MOST_ROWS, generate, sandboxed
from manyone.data.sql.records import Column, Schema, Table
from manyone.data.sql.sandbox import Sandbox
from manyone.data.sql.schema import read_schema
from manyone.data.sql.splits import split_of
from manyone.errors import ManyoneError


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    path = make_shop(tmp_path_factory.mktemp("shop") / "shop.sqlite")
    return {"shop": (read_schema(path), path)}


@pytest.fixture(scope="module")
def made(shop):
    return generate(shop, 900, robust=True, synonyms={"customer": ("client",)})


def test_as_many_as_asked_each_sql_once(made):
    assert made.pairs == 900
    assert len({k.sql for k in made.kept}) == len(made.kept)
    assert made.candidates == len(made.kept) + sum(made.dropped.values())
    assert set(made.dropped) >= {"empty", "tie", "repeated"}
    assert made.exhausted == ()


def test_kept_queries_have_an_answer_worth_asking_for(shop, made):
    with Reader(shop["shop"][1]) as reader:
        for kept in made.kept:
            rows = reader.rows(kept.sql)
            assert 1 <= len(rows) <= MOST_ROWS
            assert any(value is not None for row in rows for value in row)
            if kept.sql.startswith("SELECT COUNT(*)") and "GROUP BY" not in kept.sql:
                assert rows[0][0] > 0


def test_questions_of_one_sql_are_different(made):
    assert Counter(len(k.questions) for k in made.kept).most_common(1)[0][0] == 3
    for kept in made.kept:
        texts = [q.text for q in kept.questions]
        assert len(set(texts)) == len(texts)
        for text in texts:
            assert text[0].isupper()
            assert text[-1] in "?."
            assert "  " not in text


def test_splits_share_no_sql(made):
    places = [split_of(k.sql) for k in made.kept]
    assert places == [plain.split(k.sql) for k in made.kept]
    shares = Counter(places)
    assert shares["train"] / len(places) == pytest.approx(0.8, abs=0.08)
    assert min(shares.values()) > 10


def test_questions_in_other_words(made):
    others = {mode: [(q.text, q.others[mode]) for k in made.kept for q in k.questions if mode in q.others]
              for mode in ("synonyms", "dropped", "domain")}  # fmt: skip
    assert all(others.values())
    for text, other in others["synonyms"]:
        assert other == text.replace("customer", "client").replace("Customer", "Client")
    assert any(" in Oslo" in other for _, other in others["dropped"])
    assert any("most expensive" in other or "cheapest" in other for _, other in others["domain"])
    for pairs in others.values():
        assert all(text != other for text, other in pairs)


def test_the_seed_decides_and_the_workers_do_not(shop, made):
    again = generate(shop, 120)
    assert [(k.sql, [q.text for q in k.questions]) for k in again.kept][:20] == [
        (k.sql, [q.text for q in k.questions]) for k in made.kept][:20]  # fmt: skip
    assert generate(shop, 120, workers=2) == again
    assert generate(shop, 120, seed=1).kept != again.kept


def test_databases_share_equally(shop, tmp_path):
    schema, path = shop["shop"]
    other = make_shop(tmp_path / "stall.sqlite", customers=12)
    both = generate({"shop": (schema, path), "stall": (read_schema(other), other)}, 201)
    assert Counter(k.db_id for k in both.kept for _ in k.questions) == {"shop": 101, "stall": 100}


def test_a_small_database_gives_what_it_has(tmp_path):
    schema = Schema("tiny", (Table("thing", (Column("name"), Column("size", "number")), "thing"),))
    path = tmp_path / "tiny.sqlite"
    write_database(path, schema, {"thing": [("a", 1), ("b", 2), ("c", 2)]})
    found = generate({"tiny": (schema, path)}, 100_000)
    assert found.exhausted == ("tiny",)
    assert 20 < found.pairs < 2000


def test_nothing_to_ask_is_one_line(tmp_path):
    schema = Schema("none", (Table("thing", (Column("name"),)),))
    path = tmp_path / "none.sqlite"
    write_database(path, schema, {"thing": [("a",)]})
    with pytest.raises(ManyoneError, match="nothing can be asked"):
        generate({"none": (schema, path)}, 10)
    with pytest.raises(ManyoneError, match="pairs 0"):
        generate({"none": (schema, path)}, 0)


def test_another_way_to_execute(shop):
    _, path = shop["shop"]
    asked = []
    with Reader(path) as reader:

        def execute(file, sql):
            asked.append((file, sql))
            if "JOIN" in sql:
                raise QueryError("refused")
            return reader.rows(sql)

        found = generate(shop, 60, execute=execute)
    assert {file for file, _ in asked} == {path}
    assert not any("JOIN" in k.sql for k in found.kept)
    assert found.dropped["error"] > 0


def test_what_is_no_fault_of_a_query_ends_everything(shop):
    def execute(file, sql):
        raise ManyoneError("the disk is gone")

    with pytest.raises(ManyoneError, match="the disk is gone"):
        generate(shop, 60, execute=execute)


def test_too_many_rows_are_told_by_their_kind(shop):
    with Reader(shop["shop"][1]) as reader:

        def run(file, sql):
            if "JOIN" in sql:
                raise TooManyRows("x")
            if "GROUP" in sql:
                raise QueryError("no more than nothing")
            return reader.rows(sql)

        dropped = generate(shop, 60, execute=run).dropped
    assert dropped["too long"] > 0
    assert dropped["error"] > 0


def test_the_sandbox_gives_the_same_pairs(shop):
    with Sandbox(workers=1) as sandbox:
        found = generate(shop, 45, execute=sandboxed(sandbox))
    assert found == generate(shop, 45)
    assert found.dropped


def test_facts_do_not_depend_on_when_they_are_gathered(shop):
    schema, path = shop["shop"]
    with Reader(path) as one, Reader(path) as two:
        assert gather(one, schema) == gather(two, schema)
