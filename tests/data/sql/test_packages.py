import pytest

from manyone.assets.registry import find_asset
from manyone.data.sql import packages
from manyone.data.sql.files import Reader
from manyone.data.sql.packages import DATABASES, database_path, real_database, real_schema, spider_dev, spider_schemas
from manyone.data.sql.sandbox import fingerprint
from manyone.errors import ManyoneError


def test_spiders_pairs_and_schemas(sql_packages):
    pairs, schemas = spider_dev()
    assert len(pairs) == 30
    assert {p.source for p in pairs} == {"spider-dev"}
    assert not any(p.sql.endswith((";", " ")) for p in pairs)
    assert list(schemas) == ["shop"]
    assert list(spider_schemas()) == ["shop", "stall"]


def test_chinook_has_its_own_names_and_keys(sql_packages):
    schema = real_schema("chinook")
    assert [t.name for t in schema.tables] == [
        "Album", "Artist", "Customer", "Employee", "Genre", "Invoice", "InvoiceLine", "MediaType", "Playlist",
        "PlaylistTrack", "Track"]  # fmt: skip
    assert len(schema.foreign_keys) == 11
    assert schema.table("Track").column("Milliseconds").natural == "length in milliseconds"
    assert schema.table("Employee").column("BirthDate").type == "time"
    with Reader(real_database("chinook")) as reader:
        assert reader.rows("SELECT TrackId, Name, UnitPrice FROM Track") == [(1, "Song", 0.99), (2, "Song", 0.99)]
        assert reader.rows("SELECT BirthDate, ReportsTo FROM Employee LIMIT 1") == [("1962-02-18", None)]
        assert reader.rows("SELECT PostalCode FROM Customer LIMIT 1") == [("0171",)]  # the zero stays
        assert reader.rows("SELECT * FROM PlaylistTrack") == [(1, 1)]  # one link, though told twice


def test_missing_values_are_null(sql_packages):
    with Reader(real_database("flights")) as reader:
        assert reader.rows("SELECT count(*), count(dep_time) FROM flights") == [(6, 5)]
        assert reader.rows("SELECT arr_delay, hour FROM flights LIMIT 1") == [(11.5, 5)]
    with Reader(real_database("lahman")) as reader:
        assert reader.rows("SELECT birthYear FROM People") == [(1980,), (None,)]
        assert reader.rows("SELECT lgID, HR FROM Batting") == [("NA", 3)]  # a league, not a missing value
        assert reader.rows("SELECT park_key FROM HomeGames") == [("P1",)]


def test_words_and_links_of_lahman(sql_packages):
    schema = real_schema("lahman")
    assert schema.table("Batting").natural == "batting record"
    assert schema.table("Batting").column("HR").natural == "home runs"
    assert schema.table("People").column("playerID").primary_key
    assert {(f.table, f.to_table) for f in schema.foreign_keys} == {("Batting", "People")}


def test_a_database_that_a_package_carries_is_taken_as_it_is(sql_packages, tmp_path):
    assert real_database("elements").read_bytes() == (tmp_path / "elements.sqlite").read_bytes()


@pytest.mark.parametrize("name", DATABASES)
def test_a_database_is_made_once_and_alike(sql_packages, name):
    first = real_database(name).read_bytes()
    mark = fingerprint(real_database(name))
    database_path(name).unlink()
    assert real_database(name).read_bytes() == first
    assert fingerprint(database_path(name)) == mark
    assert not list((sql_packages / "tmp").iterdir())


def test_a_package_of_another_content_leaves_nothing(sql_packages, monkeypatch):
    monkeypatch.setitem(packages._CHINOOK, "genre", ("Genre", {"title": "Name"}))
    with pytest.raises(KeyError):
        real_database("chinook")
    assert not database_path("chinook").exists()
    assert not list((sql_packages / "tmp").iterdir())


def test_an_unknown_database_names_the_known_ones():
    with pytest.raises(ManyoneError, match="known are chinook, lahman, flights, elements"):
        real_database("northwind")


def test_every_asset_has_a_loader_that_is_there():
    for found in DATABASES.values():
        module, _, name = find_asset(found.asset).loader.partition(":")
        assert module == packages.__name__
        assert callable(getattr(packages, name))
