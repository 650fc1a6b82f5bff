import copy
import sqlite3
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.sql.small_sql import TABLES, bird, make_shop

from manyone.data.sql.files import write_database
from manyone.data.sql.records import Column, ForeignKey, Schema, Table
from manyone.data.sql.schema import (
    check_db_id,
    column_type,
    combined,
    read_schema,
    schemas_from_tables,
    tables_entry,
    with_descriptions,
)
from manyone.errors import ManyoneError


def test_a_database_describes_itself(tmp_path):
    schema = read_schema(make_shop(tmp_path / "shop.sqlite"))
    assert schema.db_id == "shop"
    assert [t.name for t in schema.tables] == ["Customer", "Product", "Order"]
    assert [t.natural for t in schema.tables] == ["customer", "product", "order"]
    columns = {c.name: c for c in schema.tables[2].columns}
    assert columns["OrderId"].primary_key
    assert columns["Order Date"].natural == "order date"
    assert [c.type for c in columns.values()] == ["number", "number", "number", "number", "time"]
    assert schema.table("product").column("isactive").type == "boolean"
    assert schema.table("Product").column("Category").values == ("tea", "coffee")
    # one names no column of the table that it refers to: its primary key is meant
    assert schema.foreign_keys == (
        ForeignKey("Order", "CustomerId", "Customer", "CustomerId"),
        ForeignKey("Order", "ProductId", "Product", "ProductId"),
    )


def test_values_are_short_and_there(tmp_path):
    path = tmp_path / "v.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE t (a TEXT, b BLOB, c INT); CREATE VIEW v AS SELECT 1;")
        db.executemany("INSERT INTO t VALUES (?, ?, ?)", [("", b"x", None), ("x" * 26, None, None), ("y", None, None)])
        db.commit()
    schema = read_schema(path)
    assert len(schema.tables) == 1
    # of the first two distinct ones, those of 1 to 25 characters
    assert [c.values for c in schema.tables[0].columns] == [(), (), ()]
    assert all(c.values == () for t in read_schema(path, values=False).tables for c in t.columns)


def test_search_indices_are_left_out(tmp_path):
    path = tmp_path / "v.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.executescript("CREATE TABLE t (a TEXT); CREATE VIRTUAL TABLE f USING fts5(a);")
    assert [t.name for t in read_schema(path).tables] == ["t"]


def test_a_database_without_tables_is_refused(tmp_path):
    with closing(sqlite3.connect(tmp_path / "v.sqlite")) as db:
        db.execute("PRAGMA user_version=3")
        db.commit()
    with pytest.raises(ManyoneError, match="no table"):
        read_schema(tmp_path / "v.sqlite")


def test_kinds_of_columns():
    kinds = {"VARCHAR(20)": "text", "": "text", "int": "number", "DECIMAL(8,2)": "number", "timestamp": "time",
             "year": "time", "BOOL": "boolean", "BLOB": "others", "double precision": "number"}  # fmt: skip
    assert {declared: column_type(declared) for declared in kinds} == kinds


def test_tables_json(tmp_path):
    schema = schemas_from_tables(TABLES, "tables.json")["shop"]
    assert [t.name for t in schema.tables] == ["Customer", "Product", "Order"]  # not SQLite's own
    city = schema.table("Customer").column("City")
    assert (city.natural, city.comment) == ("home town", "home town")
    assert schema.table("Product").column("Category").comment == ""  # says what the name says
    assert schema.table("Order").column("Order Date").comment == ""
    assert len(schema.foreign_keys) == 2
    keys = copy.deepcopy(TABLES)
    keys[0]["primary_keys"] = [1, 5, [10, 11]]  # BIRD's composite keys
    order = schemas_from_tables(keys, "tables.json")["shop"].table("Order")
    assert [c.primary_key for c in order.columns] == [True, True, False, False, False]


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("db_id", "../../etc"),
        ("db_id", None),
        ("column_types", ["text"]),
        ("foreign_keys", [[1, 99]]),
        ("column_names_original", [[7, "x"]] * 16),
        ("table_names_original", [1, 2, 3, 4]),
        ("primary_keys", ["a"]),
    ],
)
def test_a_damaged_tables_json_is_one_line(part, value):
    entries = copy.deepcopy(TABLES)
    entries[0][part] = value
    with pytest.raises(ManyoneError, match=r"^t\.json") as problem:
        schemas_from_tables(entries, "t.json")
    assert "\n" not in str(problem.value)


def test_file_and_words_together(tmp_path):
    stored = read_schema(make_shop(tmp_path / "shop.sqlite"))
    told = schemas_from_tables(TABLES, "tables.json")["shop"]
    both = combined(stored, told)
    city = both.table("customer").column("city")
    assert (city.natural, city.values, city.type) == ("home town", ("Lyon", "Graz"), "text")
    assert both.foreign_keys == stored.foreign_keys
    fewer = Schema("shop", stored.tables)  # a file that declares no keys
    assert set(combined(fewer, told).foreign_keys) == set(told.foreign_keys)


def test_descriptions(tmp_path):
    folder = bird(tmp_path) / "dev_databases" / "shop"
    schema = with_descriptions(read_schema(folder / "shop.sqlite"), folder / "database_description")
    full, city = schema.table("Customer").column("FullName"), schema.table("Customer").column("City")
    assert full.comment == "how the customer is called, in full"  # "full name" says no more than FullName
    assert (city.comment, city.natural) == ("residence", "residence")


def test_names_of_databases():
    for good in ("concert_singer", "a", "x-1 (copy)", "größe"):
        assert check_db_id(good, "here") == good
    for bad in ("", ".", "..", "a/b", "a\\b", "a..b", " a", "x" * 300, None, 3, "a\0"):
        with pytest.raises(ManyoneError, match=r"^here: db_id"):
            check_db_id(bad, "here")


names = st.text(st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=["Cs"]), min_size=1,
                max_size=12).filter(lambda n: not n.lower().startswith("sqlite_"))  # fmt: skip
kinds = st.sampled_from(["text", "number", "time", "boolean", "others"])


@st.composite
def schemas(draw):
    tables = []
    for name in draw(st.lists(names, min_size=1, max_size=4, unique_by=str.lower)):
        columns = [Column(c, draw(kinds), draw(st.sampled_from(["a b", "c"])), draw(st.booleans()))
                   for c in draw(st.lists(names, min_size=1, max_size=4, unique_by=str.lower))]  # fmt: skip
        tables.append(Table(name, tuple(columns), "things"))
    ends = [(t.name, c.name) for t in tables for c in t.columns]
    pairs = draw(st.lists(st.tuples(st.sampled_from(ends), st.sampled_from(ends)), max_size=3, unique=True))
    return Schema("db", tuple(tables), tuple(ForeignKey(*a, *b) for a, b in pairs))


@settings(max_examples=30, deadline=None)
@given(schemas())
def test_any_schema_is_read_back_from_tables_json(schema):
    found = schemas_from_tables([tables_entry(schema)], "x")["db"]
    assert [(t.name, t.natural) for t in found.tables] == [(t.name, t.natural) for t in schema.tables]
    for mine, theirs in zip(schema.tables, found.tables):
        assert [(c.name, c.type, c.natural, c.primary_key) for c in mine.columns] == [
            (c.name, c.type, c.natural, c.primary_key) for c in theirs.columns
        ]
    assert found.foreign_keys == schema.foreign_keys


@settings(max_examples=15, deadline=None)
@given(schemas())
def test_any_schema_is_read_back_from_its_database(tmp_path_factory, schema):
    path = tmp_path_factory.mktemp("db") / "db.sqlite"
    lower = lambda s: s.encode("utf-8", "ignore").decode()  # noqa: E731
    if any(lower(n) != n for t in schema.tables for n in (t.name, *(c.name for c in t.columns))):
        return
    write_database(path, schema, {})
    found = read_schema(path, "db")
    assert [t.name for t in found.tables] == [t.name for t in schema.tables]
    for mine, theirs in zip(schema.tables, found.tables):
        assert [(c.name, c.primary_key) for c in mine.columns] == [(c.name, c.primary_key) for c in theirs.columns]
    assert set(found.foreign_keys) == set(schema.foreign_keys)
