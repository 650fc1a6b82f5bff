import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.data.sql.small_sql import QUESTIONS, TABLES, make_shop
from tests.reference import sql_pairs as plain

from manyone.data.sql.files import Reader, quote, write_database
from manyone.data.sql.fuzz import Draws, Hints, discrimination, fuzz_databases, fuzz_rows, same_result
from manyone.data.sql.records import Column, ForeignKey, Pair, Schema, Table
from manyone.data.sql.sandbox import fingerprint
from manyone.data.sql.schema import read_schema, schemas_from_tables

GOLDS = [sql for _, sql in QUESTIONS] + ["SELECT count(*) FROM Product WHERE UnitPrice > 3 AND Category = 'tea'"]


@pytest.fixture(scope="module")
def shop():
    return schemas_from_tables(TABLES, "tables.json")["shop"]


def test_draws_are_the_plain_ones():
    for names in ((0,), (1, "a", "b"), ("ü",)):
        draws = Draws(*names)
        assert [draws.uniform() for _ in range(50)] == list(itertools.islice(plain.uniform_numbers(*names), 50))


@given(st.integers(1, 50), st.integers(0, 1000))
def test_draws_stay_in_their_bounds(bound, seed):
    draws = Draws(seed)
    assert all(0 <= draws.below(bound) < bound for _ in range(20))
    assert sorted(draws.shuffled(range(bound))) == list(range(bound))


def test_keys_are_unique_and_references_hold(shop):
    for instance in range(4):
        rows = fuzz_rows(shop, Hints.from_golds(shop, GOLDS), instance=instance)
        for name in ("Customer", "Product"):
            keys = [row[0] for row in rows[name]]
            assert len(set(keys)) == len(keys)
        for place, parent in ((1, "Customer"), (2, "Product")):
            known, used = {row[0] for row in rows[parent]}, {row[place] for row in rows["Order"]} - {None}
            assert used < known  # all refer to a row that is there; some rows are never referred to
        if instance < 3:
            assert 12 <= len(rows["Customer"]) <= 24
        else:
            assert len(rows["Customer"]) >= 60


def test_constants_of_golds_and_their_neighbours_are_sown(shop):
    rows = fuzz_rows(shop, Hints.from_golds(shop, GOLDS))
    cities = [row[2] for row in rows["Customer"]]
    assert 0.25 < cities.count("Oslo") / len(cities) < 0.85
    prices = {row[3] for row in rows["Product"]}
    assert 3 in prices
    assert prices & {2, 4}
    assert {2, 3, 4} & prices >= {3}
    assert all(None not in row for found in rows.values() for row in found)  # only the first has no missing values
    later = fuzz_rows(shop, Hints.from_golds(shop, GOLDS), instance=3)
    assert any(None in row for found in later.values() for row in found)
    assert None not in {row[0] for row in later["Customer"]}


def test_values_of_ones_own_take_the_place_of_invented_ones(shop):
    own = {("Customer", "City"): ["Here", "There"]}
    rows = fuzz_rows(shop, Hints(), values=own)
    assert {row[2] for row in rows["Customer"]} == {"Here", "There"}


def test_columns_that_golds_join_take_their_values_from_each_other():
    schema = Schema(
        "s",
        (
            Table("a", (Column("id", "number", primary_key=True), Column("word"))),
            Table("b", (Column("of", "number"), Column("x", "number"))),
        ),
    )
    golds = ["SELECT word FROM a JOIN b ON a.id = b.of"]
    rows = fuzz_rows(schema, Hints.from_golds(schema, golds))
    assert {row[0] for row in rows["b"]} < {row[0] for row in rows["a"]}


def test_a_table_that_links_two_is_keyed_by_both():
    schema = Schema(
        "s",
        (
            Table("one", (Column("id", "number", primary_key=True),)),
            Table("two", (Column("id", "number", primary_key=True),)),
            Table("link", (Column("a", "number", primary_key=True), Column("b", "number"))),
        ),
        (ForeignKey("link", "a", "one", "id"), ForeignKey("link", "b", "two", "id")),
    )
    rows = fuzz_rows(schema, Hints())["link"]
    assert len({a for a, _ in rows}) < len(rows) == len(set(rows))


def test_tables_that_refer_to_each_other_are_filled(tmp_path):
    column = Column("id", "number", primary_key=True)
    schema = Schema(
        "circle",
        (Table("a", (column, Column("b", "number"))), Table("b", (column, Column("a", "number")))),
        (ForeignKey("a", "b", "b", "id"), ForeignKey("b", "a", "a", "id"), ForeignKey("a", "id", "a", "id")),
    )
    for path in fuzz_databases(schema, [], tmp_path):
        with Reader(path) as reader:
            assert reader.rows("SELECT count(*) FROM a")[0][0] >= 1


def test_the_files_are_the_same_everywhere(shop, tmp_path):
    """Another process, with another seed of Python's own hashes, writes the same bytes."""
    code = (
        "import sys; from pathlib import Path; from manyone.data.sql.fuzz import fuzz_databases\n"
        "from manyone.data.sql.schema import schemas_from_tables; from tests.data.sql.small_sql import TABLES\n"
        "fuzz_databases(schemas_from_tables(TABLES, 'x')['shop'], sys.argv[2:], Path(sys.argv[1]), instances=2)"
    )
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
    paths = fuzz_databases(shop, GOLDS, tmp_path / "here", instances=2)
    environment = {**os.environ, "PYTHONHASHSEED": "7", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    command = [sys.executable, "-c", code, str(tmp_path / "there"), *GOLDS]
    subprocess.run(command, check=True, env=environment, cwd=Path(__file__).parents[3])
    for path in paths:
        assert (tmp_path / "there" / path.name).read_bytes() == path.read_bytes()
    assert paths[0].read_bytes() != paths[1].read_bytes()


def test_all_golds_run_and_wrong_queries_are_told_from_them(shop, tmp_path):
    paths = fuzz_databases(shop, GOLDS, tmp_path)
    pairs = [Pair("shop", "?", sql) for sql in GOLDS for _ in range(2)]
    report = discrimination(pairs, {"shop": shop}, {"shop": paths})
    assert (report.golds, report.failed) == (len(GOLDS), ())
    assert report.filled > 0.8
    assert report.share >= 0.9
    assert sum(report.made.values()) - sum(report.rejected.values()) == len(report.missed)
    few = discrimination(pairs, {"shop": shop}, {"shop": paths[:1]})
    assert few.made == report.made
    assert few.share <= report.share


def test_a_suite_that_tells_nothing_apart_says_so(shop, tmp_path):
    path = tmp_path / "shop.sqlite"
    write_database(path, shop, {})  # no row at all
    report = discrimination([Pair("shop", "?", GOLDS[1]), Pair("shop", "?", "SELECT none FROM Customer")],
                            {"shop": shop}, {"shop": [path]})  # fmt: skip
    assert report.failed == ("SELECT none FROM Customer",)
    assert report.empty == 1
    assert report.share == 0
    assert report.missed


cells = st.one_of(st.integers(-2, 2), st.sampled_from(["a", "b"]), st.none())
results = st.lists(st.tuples(cells, cells), max_size=5)


@given(results, results, st.booleans())
def test_results_are_compared_as_the_plain_ones(one, two, ordered):
    assert same_result(one, two, ordered=ordered) == plain.same_answer(one, two, ordered)
    assert same_result(one, list(reversed(one)), ordered=False)


def test_every_schema_can_be_filled_from_its_own_file(tmp_path):
    schema = read_schema(make_shop(tmp_path / "shop.sqlite"))
    (tmp_path / "out").mkdir()
    for path in fuzz_databases(schema, GOLDS, tmp_path / "out", instances=2, seed=5):
        with Reader(path) as reader:
            assert all(reader.rows(f"SELECT count(*) FROM {quote(t.name)}")[0][0] > 5 for t in schema.tables)
    for seed in (1, 2):
        (tmp_path / str(seed)).mkdir()
        fuzz_databases(schema, GOLDS, tmp_path / str(seed), instances=1, seed=seed)
    one, two = (fingerprint(tmp_path / str(seed) / "shop.sqlite") for seed in (1, 2))
    assert one != two
