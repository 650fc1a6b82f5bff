"""A database to be kept unharmed."""

import sqlite3

import pytest


@pytest.fixture(scope="module")
def singers(tmp_path_factory):
    """A folder with one database, ``singer.sqlite``: 60 singers, a view, an index."""
    folder = tmp_path_factory.mktemp("databases")
    connection = sqlite3.connect(folder / "singer.sqlite")
    connection.executescript(
        "CREATE TABLE singer (id INTEGER PRIMARY KEY, name TEXT, age INTEGER, height REAL);"
        "CREATE INDEX singer_name ON singer (name); CREATE VIEW names AS SELECT name FROM singer;"
    )
    connection.executemany("INSERT INTO singer VALUES (?, ?, ?, ?)",
                           [(k, f"singer {k}", 20 + k % 30, 1.5 + k / 200) for k in range(1, 61)])  # fmt: skip
    connection.commit()
    connection.close()
    return folder / "singer.sqlite"
