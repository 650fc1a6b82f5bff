import sqlite3
from contextlib import closing

import pytest
from tests.data.sql.small_sql import make_shop

from manyone.data.sql.files import QueryError, Reader, TooManyRows, quote, write_database
from manyone.data.sql.records import Column, ForeignKey, Schema, Table
from manyone.errors import ManyoneError


@pytest.fixture
def shop(tmp_path):
    return make_shop(tmp_path / "shop.sqlite")


def test_a_reader_reads_and_nothing_else(shop):
    before = shop.read_bytes()
    with Reader(shop, seconds=0.5, most=50) as reader:
        assert reader.rows("SELECT count(*) FROM Customer WHERE City = ?", ["Oslo"]) == [(4,)]
        for sql in (
            "DELETE FROM Customer",
            "DROP TABLE Customer",
            "ATTACH 'other.db' AS o",
            "PRAGMA table_info(Customer)",
            "SELECT 1; SELECT 2",
            "SELECT load_extension('x')",
            "SELECT length(printf('%.*c', 900000000, 'x'))",
            "SELECT * FROM pragma_database_list",
            "SELEC",
            "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t",
            "SELECT * FROM Customer, Product",
        ):
            with pytest.raises(QueryError):
                reader.rows(sql)
        assert reader.rows("SELECT 1") == [(1,)]
    assert shop.read_bytes() == before
    assert [p.name for p in shop.parent.iterdir()] == ["shop.sqlite"]


def test_a_query_may_be_bounded_by_its_steps(shop):
    endless = "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t) SELECT count(*) FROM t"
    with Reader(shop, seconds=60, operations=1_000_000) as reader:
        for _ in range(3):  # every query anew
            with pytest.raises(QueryError, match="longer than 1,000,000 steps"):
                reader.rows(endless)
            assert reader.rows("SELECT 1") == [(1,)]


def test_too_many_rows_are_told_apart_from_failures(shop):
    with Reader(shop, most=3) as reader:
        with pytest.raises(TooManyRows, match="more than 3 rows"):
            reader.rows("SELECT * FROM Customer")
        with pytest.raises(QueryError, match="no such column") as problem:
            reader.rows("SELECT [more than] FROM Customer")
    assert not isinstance(problem.value, TooManyRows)


def test_a_database_that_changes_while_it_is_read_is_noticed(shop):
    reader = Reader(shop)
    reader.rows("SELECT 1")
    shop.write_bytes(shop.read_bytes() + b"\0" * 4096)
    with pytest.raises(ManyoneError, match="was written to while it was read"), reader:
        pass


def test_what_is_no_database_is_one_line(tmp_path):
    for name, content in {"text": b"hello\n" * 100, "empty": b"", "cut": b"SQLite format 3\0" + b"\1" * 50}.items():
        path = tmp_path / f"{name}.sqlite"
        path.write_bytes(content)
        with pytest.raises(ManyoneError) as problem:
            Reader(path)
        assert str(path) in str(problem.value)
        assert "\n" not in str(problem.value)
    with pytest.raises(ManyoneError, match="no such database"):
        Reader(tmp_path / "none.sqlite")


def test_rows_in_a_log_are_not_passed_over_silently(shop):
    with closing(sqlite3.connect(shop)) as writer:
        writer.execute("PRAGMA journal_mode=WAL")
        writer.execute("DELETE FROM Customer")
        writer.commit()
        with pytest.raises(ManyoneError, match="wal_checkpoint"):
            Reader(shop)


def test_bytes_that_are_no_text_are_left_out(shop):
    with closing(sqlite3.connect(shop)) as db:
        db.execute("UPDATE Customer SET City = CAST(X'4DFC6E' AS TEXT) WHERE CustomerId = 1")
        db.commit()
    with Reader(shop) as reader:
        assert reader.rows("SELECT City FROM Customer WHERE CustomerId = 1") == [("Mn",)]


def test_names_in_sql():
    assert [quote(n) for n in ("City", "Order", "Order Date", '2"B', "größe")] == [
        "City", '"Order"', '"Order Date"', '"2""B"', '"größe"']  # fmt: skip


SCHEMA = Schema(
    "tiny",
    (
        Table("A", (Column("id", "number", primary_key=True), Column("the name"))),
        Table("Group", (Column("a", "number"), Column("when", "time"))),
    ),
    (ForeignKey("Group", "a", "A", "id"),),
)
ROWS = {"A": [(1, "x"), (2, None)], "Group": [(1, "2020-01-01"), (2, "ü")]}


def test_the_same_rows_are_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        write_database(tmp_path / name, SCHEMA, ROWS, indexed=True)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    with Reader(tmp_path / "one") as reader:
        assert reader.rows('SELECT * FROM A JOIN "Group" ON id = a') == [(1, "x", 1, "2020-01-01"), (2, None, 2, "ü")]


def test_rows_that_break_a_key_leave_no_file(tmp_path):
    with pytest.raises(ManyoneError, match="cannot write the database tiny"):
        write_database(tmp_path / "bad", SCHEMA, {"A": [(1, "x"), (1, "y")]})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "mine").write_text("precious")
    with pytest.raises(ManyoneError, match="a file already"):
        write_database(tmp_path / "mine", SCHEMA, ROWS)
    assert (tmp_path / "mine").read_text() == "precious"
