"""A small library in two copies of its database: what is right on the first by chance is wrong on the second."""

import sqlite3

import pytest

from manyone.data.sql.records import Column, ForeignKey, Schema, Table
from manyone.data.sql.sandbox import Limits, Sandbox

TABLES = """
CREATE TABLE author (id INTEGER PRIMARY KEY, name TEXT, country TEXT, born INTEGER);
CREATE TABLE book (id INTEGER PRIMARY KEY, title TEXT, author_id INTEGER REFERENCES author(id), year INTEGER,
                   price REAL, value INTEGER);
CREATE TABLE loan (book_id INTEGER REFERENCES book(id), member TEXT, days INTEGER);
"""
FIRST = """
INSERT INTO author VALUES (1, 'Ada', 'UK', 1950), (2, 'Bo', 'FR', 1960), (3, 'Cy', 'UK', 1970), (4, 'Di', 'US', 1965);
INSERT INTO book VALUES (1, 'Alpha', 1, 1990, 10.0, 5), (2, 'Beta', 1, 1995, 12.5, 7), (3, 'Gamma', 2, 1995, 10.0, 5),
                        (4, 'Delta', 3, 2000, 20.0, 9), (5, 'Eps', 3, 2005, 7.5, 2);
INSERT INTO loan VALUES (1, 'x', 3), (1, 'y', 5), (2, 'x', 3), (4, 'z', 10), (4, 'x', 1);
"""
SECOND = """
INSERT INTO author VALUES (1, 'Ada', 'UK', 1950), (2, 'Bo', 'UK', 1960), (3, 'Cy', 'FR', 1960), (4, 'Di', 'FR', 1980),
                          (5, 'Di', 'US', 1980);
INSERT INTO book VALUES (1, 'Alpha', 2, 1990, 10.0, 5), (2, 'Beta', 2, 2000, 12.5, 6), (3, 'Gamma', 2, 1995, 10.0, 5),
                        (4, 'Delta', 5, 2000, 20.5, 9), (5, 'Beta', 3, 2000, 7.5, 2), (6, 'Zeta', 1, 2010, 7.4, 1);
INSERT INTO loan VALUES (1, 'x', 2), (3, 'y', 5), (2, 'z', 4), (2, 'z', 4);
"""
SCHEMA = Schema(
    "library",
    (
        Table("author", (Column("id"), Column("name"), Column("country"), Column("born"))),
        Table("book", (Column("id"), Column("title"), Column("author_id"), Column("year"), Column("price"),
                       Column("value"))),
        Table("loan", (Column("book_id"), Column("member"), Column("days"))),
    ),
    (ForeignKey("book", "author_id", "author", "id"), ForeignKey("loan", "book_id", "book", "id")),
)  # fmt: skip


@pytest.fixture(scope="session")
def library(tmp_path_factory):
    """The two database files; the first is the database itself."""
    folder = tmp_path_factory.mktemp("library")
    for name, rows in (("library.sqlite", FIRST), ("library_2.sqlite", SECOND)):
        connection = sqlite3.connect(folder / name)
        connection.executescript(TABLES + rows)
        connection.close()
    return folder / "library.sqlite", folder / "library_2.sqlite"


@pytest.fixture(scope="session")
def schema():
    return SCHEMA


@pytest.fixture(scope="session")
def sandbox():
    with Sandbox(1, Limits(seconds=10)) as sandbox:
        yield sandbox
