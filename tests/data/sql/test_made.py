import json
import shutil
import sys

import pytest
from tests.data.sql.small_sql import TABLES, make_shop, write_json

from manyone.data.sql import made as module
from manyone.data.sql.files import Reader
from manyone.data.sql.fuzz import discrimination
from manyone.data.sql.made import account, load_robust, make_pairs
from manyone.data.sql.pairs import load_pairs
from manyone.data.sql.sandbox import fingerprint
from manyone.data.sql.splits import SPLITS, split_of
from manyone.errors import ManyoneError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("made")
    make_pairs([make_shop(place / "shop.sqlite")], place / "pairs", pairs=300)
    return place / "pairs"


def test_a_folder_in_spiders_layout_with_its_account(folder):
    found = load_pairs(folder)
    assert sum(len(found.splits[s]) for s in SPLITS) == 300
    assert {p.source for s in SPLITS for p in found.splits[s]} == {"generated"}
    assert all(split_of(p.sql) == s for s in SPLITS for p in found.splits[s])
    facts = account(folder)
    assert facts["pairs"] == {s: len(found.splits[s]) for s in SPLITS}
    assert sum(facts["intents"].values()) == 300
    assert facts["databases"]["shop"]["rows"] == {"Customer": 20, "Product": 15, "Order": 120}
    assert facts["databases"]["shop"]["fingerprint"] == fingerprint(folder / "database" / "shop" / "shop.sqlite")
    assert 0 < sum(facts["dropped"].values()) < 1
    assert "not Spider" in facts["note"]


def test_the_test_suite_runs_every_gold_and_tells_it_from_others(folder):
    found = load_pairs(folder)
    assert [p.name for p in found.databases["shop"]] == [
        "shop.sqlite",
        "shop_1.sqlite",
        "shop_2.sqlite",
        "shop_3.sqlite",
    ]
    report = discrimination(found.splits["test"], found.schemas, found.databases)
    assert report.failed == ()
    assert report.empty == 0
    assert report.share > 0.85
    with Reader(found.databases["shop"][1]) as reader:
        assert {c for (c,) in reader.rows("SELECT DISTINCT Category FROM Product")} <= {"tea", "coffee", "cocoa", None}


def test_the_same_seed_makes_the_same_folder(folder, tmp_path):
    make_pairs([folder / "database" / "shop" / "shop.sqlite"], tmp_path / "again", pairs=300)
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        assert (tmp_path / "again" / path.relative_to(folder)).read_bytes() == path.read_bytes(), path
    make_pairs([folder / "database" / "shop" / "shop.sqlite"], tmp_path / "other", pairs=300, seed=1)
    assert (tmp_path / "other" / "train.json").read_bytes() != (folder / "train.json").read_bytes()


def test_nothing_is_overwritten_unasked(folder, tmp_path):
    shop = make_shop(tmp_path / "shop.sqlite")
    make_pairs([shop], tmp_path / "out", pairs=20, instances=0)
    assert len(load_pairs(tmp_path / "out").databases["shop"]) == 1
    with pytest.raises(ManyoneError, match="add --overwrite"):
        make_pairs([shop], tmp_path / "out", pairs=30)
    make_pairs([shop], tmp_path / "out", pairs=30, overwrite=True)
    assert sum(account(tmp_path / "out")["pairs"].values()) == 30
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for overwrite in (False, True):
        with pytest.raises(ManyoneError, match="was not made here"):
            make_pairs([shop], tmp_path / "mine", pairs=30, overwrite=overwrite)
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_after_a_failure_everything_is_as_before(tmp_path, monkeypatch):
    shop = make_shop(tmp_path / "shop.sqlite")
    make_pairs([shop], tmp_path / "out", pairs=20, instances=0)
    before = (tmp_path / "out" / "train.json").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    for out in ("out", "new"):
        with pytest.raises(ManyoneError, match="the disk is full"):
            make_pairs([shop], tmp_path / out, pairs=30, overwrite=True)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "shop.sqlite"]
    assert (tmp_path / "out" / "train.json").read_bytes() == before


def test_what_is_wrong_is_one_line_and_leaves_nothing(tmp_path):
    shop = make_shop(tmp_path / "a" / "shop.sqlite")
    text = tmp_path / "text.sqlite"
    text.write_text("no database")
    out = tmp_path / "out"
    for databases, options, match in (
        ([text], {}, "not a SQLite database"),
        ([tmp_path / "none.sqlite"], {}, "no such database"),
        ([shop, make_shop(tmp_path / "b" / "shop.sqlite")], {}, "a second database called shop"),
        ([], {}, "no database to ask about"),
        ([shop], {"pairs": 0}, "pairs 0"),
        ([shop], {"instances": -1}, "instances -1"),
        ([shop], {"tables": tmp_path / "t.json"}, "no such file"),
    ):
        with pytest.raises(ManyoneError, match=match) as problem:
            make_pairs(databases, out, **{"pairs": 10, **options})
        assert "\n" not in str(problem.value)
    assert not out.exists()
    assert not list(tmp_path.glob(".*"))


def test_a_missing_extra_is_told_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sqlglot", None)
    shop = make_shop(tmp_path / "shop.sqlite")
    with pytest.raises(ManyoneError, match=r"needs sqlglot: pip install 'manyone\[sql\]'"):
        make_pairs([shop], tmp_path / "out", pairs=10)
    assert make_pairs([shop], tmp_path / "out", pairs=10, instances=0).splits["train"]


def test_plain_words_from_a_tables_json(tmp_path):
    tables = write_json(tmp_path / "tables.json", TABLES)
    found = make_pairs([make_shop(tmp_path / "shop.sqlite")], tmp_path / "out", pairs=200, tables=tables)
    questions = " ".join(p.question for p in found.splits["train"])
    assert "home town" in questions
    assert "full name" not in questions


def test_questions_in_other_words(sql_packages, tmp_path):
    make_pairs([make_shop(tmp_path / "shop.sqlite")], tmp_path / "out", pairs=1500, robust=True, instances=0)
    found = load_robust(tmp_path / "out")
    test = {p.sql for p in load_pairs(tmp_path / "out").splits["test"]}
    assert set(found) == {"synonyms", "dropped", "domain"}
    for mode, pairs in found.items():
        assert pairs
        assert {p.source for p in pairs} == {f"generated, {mode}"}
        assert {p.sql for p in pairs} <= test
    assert any("client" in p.question for p in found["synonyms"])
    assert account(tmp_path / "out")["robust"] == {mode: len(pairs) for mode, pairs in found.items()}


def test_a_folder_without_other_words_says_so(folder, tmp_path):
    with pytest.raises(ManyoneError, match="--robust"):
        load_robust(folder)
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / "pairs.json").write_text(json.dumps({"format": "another"}))
    with pytest.raises(ManyoneError, match="not one that was made here"):
        account(tmp_path / "copy")


def test_real_databases_go_by_their_names(sql_packages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = make_pairs(["elements"], "out", pairs=20, instances=1)
    assert set(found.schemas) == {"elements"}
    assert len(found.databases["elements"]) == 2
    assert module.SOURCE == "generated"
