"""Databases that questions are asked about: what they tell, and what they refuse."""

import hashlib

import pytest

from manyone.data.sql.records import ForeignKey
from manyone.data.sql.sandbox import Limits
from manyone.errors import ManyoneError
from manyone.sql.databases import open_database


@pytest.fixture(params=["music", "duck"])
def file(request):
    return request.getfixturevalue(request.param)


def test_it_tells_its_tables_keys_and_values(file):
    with open_database(file) as database:
        schema = database.schema()
    artist, album = schema.tables
    assert (artist.name, album.name) == ("artist", "album")
    assert [c.name for c in album.columns] == ["album_id", "title", "artist_id", "price", "released"]
    assert [c.type for c in album.columns] == ["number", "text", "number", "number", "time"]
    assert [c.primary_key for c in artist.columns] == [True, False, False]
    assert schema.foreign_keys == (ForeignKey("album", "artist_id", "artist", "artist_id"),)
    assert len(artist.columns[2].values) == 2
    assert album.columns[1].natural == "title"


def test_its_texts_are_distinct_and_bounded(file):
    with open_database(file) as database:
        found, whole = database.texts("artist", "country", longest=80, most=10, seconds=5)
        assert (sorted(found), whole) == (["Australia", "France", "Iceland", "United States"], True)
        found, whole = database.texts("artist", "country", longest=80, most=2, seconds=5)
        assert (len(found), whole) == (2, False)
        assert database.texts("album", "price", longest=80, most=10, seconds=5) == ([], True)


def test_a_query_gives_its_rows(file):
    with open_database(file) as database:
        found = database.execute("SELECT title, price FROM album WHERE price < 9 ORDER BY price")
    assert found.ok
    assert found.columns == ("title", "price")
    assert found.rows == (("Takk", 8.0),)


HOSTILE = (
    "DROP TABLE album",
    "DELETE FROM album",
    "ATTACH 'x.db'",
    "SELECT 1; SELECT 2",
    "SELECT nothing FROM album",
    "COPY album TO 'x.csv'",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELEC 1",
    "INSTALL httpfs",
    "CREATE TABLE x (y INTEGER)",
)


def test_what_does_more_than_read_gives_nothing_and_the_next_query_runs(file):
    before = hashlib.sha256(file.read_bytes()).digest()
    with open_database(file) as database:
        for sql in HOSTILE:
            found = database.execute(sql)
            assert not found.ok, sql
            assert found.kind_of_error in ("error", "denied", "statement"), sql
            assert found.rows == ()
            assert "\n" not in found.error
            assert database.execute("SELECT count(*) FROM album").rows == ((4,),)
    assert hashlib.sha256(file.read_bytes()).digest() == before


def test_a_query_that_lasts_too_long_is_stopped(file):
    endless = "WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) SELECT count(*) FROM r"
    with open_database(file, Limits(seconds=0.5)) as database:
        assert database.execute(endless).kind_of_error == "time"
        assert database.execute("SELECT 1").rows == ((1,),)


def test_too_many_rows_are_cut_and_said(file):
    with open_database(file, Limits(rows=3)) as database:
        found = database.execute("SELECT title FROM album")
    assert found.truncated
    assert not found.ok
    assert len(found.rows) <= 3


def test_what_is_no_database_is_one_line(tmp_path):
    with pytest.raises(ManyoneError, match="no such database"):
        open_database(tmp_path / "none.sqlite")
    (tmp_path / "text.sqlite").write_text("hello, I am not a database")
    with pytest.raises(ManyoneError, match="not a SQLite database"):
        open_database(tmp_path / "text.sqlite")


def test_a_damaged_duckdb_file_is_one_line(tmp_path, duck):
    broken = tmp_path / "broken.duckdb"
    broken.write_bytes(duck.read_bytes()[:2000])
    with open_database(broken) as database, pytest.raises(ManyoneError, match="DuckDB cannot open it"):
        database.schema()


def test_types_of_duckdb_come_as_plain_values(duck):
    with open_database(duck) as database:
        found = database.execute("SELECT DATE '2020-01-02', 1.50::DECIMAL(4,2), TRUE, [1, 2], NULL, 'x'::BLOB")
    assert found.rows == (("2020-01-02", 1.5, 1, "[1, 2]", None, "78"),)
