import sqlite3
from contextlib import closing

import pytest
from tests.data.sql.small_sql import make_shop

from manyone.data.sql.facts import SAMPLE, gather, literal, shown
from manyone.data.sql.files import Reader
from manyone.data.sql.schema import read_schema


@pytest.fixture
def facts(tmp_path):
    path = make_shop(tmp_path / "shop.sqlite")
    with Reader(path) as reader:
        yield gather(reader, read_schema(path))


def test_every_column_plays_a_part(facts):
    roles = {c.full: c.role for t in facts.tables for c in t.columns}
    assert roles == {
        "Customer.CustomerId": "key", "Customer.FullName": "label", "Customer.City": "category",
        "Customer.BirthDate": "time", "Product.ProductId": "key", "Product.Name": "label",
        "Product.Category": "category", "Product.UnitPrice": "measure", "Product.IsActive": "flag",
        '"Order".OrderId': "key", '"Order".CustomerId': "key", '"Order".ProductId': "key",
        '"Order".Quantity': "measure", '"Order"."Order Date"': "time",
    }  # fmt: skip


def test_missing_values_and_counts(facts):
    customer = facts.tables[0]
    assert (customer.one, customer.many, customer.count) == ("customer", "customers", 20)
    assert customer.column("City").nulls
    assert not customer.column("FullName").nulls
    assert customer.column("City").distinct == 4
    assert facts.tables[2].column("Order Date").natural == "date"  # of an order


def test_links_lead_to_one_row(facts):
    assert [(j.child.table.name, j.parent.table.name, j.only) for j in facts.joins] == [
        ("Order", "Customer", True), ("Order", "Product", True)]  # fmt: skip


def test_large_tables_are_sampled(tmp_path):
    path = make_shop(tmp_path / "shop.sqlite", orders=3000)
    with Reader(path) as reader:
        one, two = (gather(reader, read_schema(path), seed=seed) for seed in (0, 0))
        other = gather(reader, read_schema(path), seed=1)
    assert one == two
    assert SAMPLE / 2 < len(one.tables[2].rows) <= SAMPLE < one.tables[2].count
    assert one.tables[2].rows != other.tables[2].rows


def test_tables_without_rowids_and_with_one_row(tmp_path):
    path = tmp_path / "odd.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE w (a TEXT PRIMARY KEY, b BLOB) WITHOUT ROWID; CREATE TABLE one (a);")
        db.execute("INSERT INTO one VALUES (1)")
        db.executemany("INSERT INTO w VALUES (?, x'00')", [(f"k{i}",) for i in range(SAMPLE + 50)])
        db.commit()
    with Reader(path) as reader:
        facts = gather(reader, read_schema(path))
    assert [t.table.name for t in facts.tables] == ["w"]
    assert len(facts.tables[0].rows) == SAMPLE
    assert [c.role for c in facts.tables[0].columns] == ["key", "text"]


def test_constants():
    assert [shown(v) for v in ("a b", 3, 0.5, "", "a  b", 'a "b"', "x" * 41, b"x", None)] == [
        "a b", "3", "0.5", None, None, None, None, None, None]  # fmt: skip
    assert [literal(v) for v in ("it's", 3, 0.1, -2.5)] == ["'it''s'", "3", "0.1", "-2.5"]
