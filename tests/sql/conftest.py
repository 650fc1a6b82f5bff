"""A small database of music, as SQLite and DuckDB hold it."""

import sqlite3
from contextlib import closing

import pytest

TABLES = (
    "CREATE TABLE artist (artist_id INTEGER PRIMARY KEY, name TEXT, country VARCHAR(40))",
    "CREATE TABLE album (album_id INTEGER PRIMARY KEY, title TEXT, artist_id INTEGER REFERENCES artist(artist_id), "
    "price REAL, released DATE)",
)
ARTISTS = [(1, "AC/DC", "Australia"), (2, "Beyoncé", "United States"), (3, "Sigur Rós", "Iceland"),
           (4, "O'Jays", "United States"), (5, None, "France")]  # fmt: skip
ALBUMS = [(1, "Back in Black", 1, 9.5, "1980-07-25"), (2, "Lemonade", 2, 12.0, "2016-04-23"),
          (3, "Ágætis byrjun", 3, 11.0, "1999-06-12"), (4, "Takk", 3, 8.0, "2005-09-12")]  # fmt: skip


def fill(db):
    for statement in TABLES:
        db.execute(statement)
    db.executemany("INSERT INTO artist VALUES (?, ?, ?)", ARTISTS)
    db.executemany("INSERT INTO album VALUES (?, ?, ?, ?, ?)", ALBUMS)


@pytest.fixture(scope="session")
def music(tmp_path_factory):
    """The SQLite file."""
    file = tmp_path_factory.mktemp("music") / "music.sqlite"
    with closing(sqlite3.connect(file)) as db:
        fill(db)
        db.commit()
    return file


@pytest.fixture(scope="session")
def duck(tmp_path_factory):
    """The same as a DuckDB file."""
    duckdb = pytest.importorskip("duckdb")
    file = tmp_path_factory.mktemp("duck") / "music.duckdb"
    with duckdb.connect(str(file)) as db:
        fill(db)
    return file


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "cache"))
