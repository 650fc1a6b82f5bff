import sys
import types

import pytest
from tests.data.sql.small_sql import LAYOUTS, make_shop, rows, spider, write_json

from manyone.data.sql.files import Reader
from manyone.data.sql.fuzz_cache import fuzz_folders, fuzzed
from manyone.data.sql.packages import spider_schemas
from manyone.data.sql.pairs import REGISTERED, load_pairs
from manyone.errors import ManyoneError


def test_spiders_set_has_databases_that_its_golds_run_on(sql_packages):
    found = load_pairs("spider-dev")
    assert {s: len(p) for s, p in found.splits.items()} == {"train": 0, "val": 0, "test": 30}
    assert len(found.databases["shop"]) == 4
    assert found.schemas["shop"].table("Customer").column("City").values
    assert found.schemas["shop"].table("Customer").column("BirthDate").type == "time"  # as Spider has it
    for path in found.databases["shop"]:
        with Reader(path) as reader:
            for pair in found.splits["test"]:
                reader.rows(pair.sql)
    before = {p: p.stat().st_mtime_ns for p in found.databases["shop"]}
    assert load_pairs("spider-dev").databases == found.databases
    assert {p: p.stat().st_mtime_ns for p in found.databases["shop"]} == before
    assert load_pairs("spider-dev", instances=1).databases != found.databases
    assert load_pairs("spider-dev", seed=1).databases != found.databases
    assert len(fuzz_folders()) == 3


def test_fuzz_databases_change_with_the_golds(sql_packages):
    schemas = {"shop": spider_schemas()["shop"]}
    one, two = (fuzzed(schemas, {"shop": golds}, origin="x") for golds in ([], ["SELECT 1"]))
    assert one != two
    with pytest.raises(ManyoneError, match="instances 0"):
        fuzzed(schemas, {}, origin="x", instances=0)


def test_databases_of_real_rows_have_generated_pairs(sql_packages):
    found = load_pairs("elements", pairs=40)
    assert found.name == "elements"
    assert sum(map(len, found.splits.values())) == 40
    assert len(found.databases["elements"]) == 4
    assert load_pairs("elements", pairs=40) == found


def test_places(sql_packages, tmp_path, monkeypatch):
    folder = spider(tmp_path / "spider")
    assert load_pairs(str(folder)).splits == load_pairs(folder).splits
    path = write_json(tmp_path / "one.json", rows(count=5))
    assert sum(map(len, load_pairs(path, tables=folder / "tables.json").splits.values())) == 5
    monkeypatch.chdir(tmp_path)
    folder.rename(tmp_path / "chinook")  # what lies there goes before a name
    assert load_pairs("chinook").name == "chinook"
    assert len(load_pairs("chinook").splits["test"]) == 7


def test_rows_may_be_made_up(sql_packages, tmp_path):
    folder = LAYOUTS["spider-realistic"](tmp_path / "variant")
    found = load_pairs(folder, databases="made-up", instances=2)
    assert [p.suffix for p in found.databases["shop"]] == [".sqlite"] * 2
    assert not any(p.is_relative_to(folder) for p in found.databases["shop"])
    assert found.schemas["shop"].table("Customer").column("City").values
    with Reader(found.databases["shop"][0]) as reader:
        assert reader.rows("SELECT count(*) FROM Customer WHERE City = 'Oslo'")[0][0] > 2  # the golds' constant
        for pair in found.splits["test"]:
            assert reader.rows(pair.sql) == reader.rows(pair.sql)
    assert "made up" in found.notes[-1]


def test_what_is_no_place_is_one_line(sql_packages, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("no")
    for place, match in (
        (make_shop(tmp_path / "shop.sqlite"), "manyone data make sql-pairs --db"),
        ("notes.txt", "neither JSON nor JSON lines"),
        ("spider-def", "did you mean 'spider-dev'"),
        ("./none/here", "no such folder or file"),
        (tmp_path / "cache", "no pairs of a question and SQL"),
    ):
        with pytest.raises(ManyoneError, match=match) as problem:
            load_pairs(place)
        assert "\n" not in str(problem.value)


def test_the_hub_may_use_spiders_schemas(sql_packages, monkeypatch):
    library = types.ModuleType("datasets")
    library.load_dataset = lambda name: {"validation": rows(count=3)}
    monkeypatch.setitem(sys.modules, "datasets", library)
    found = load_pairs("xlangai/spider")
    assert found.schemas["shop"].table("Customer").column("City").natural == "home town"
    assert "xlangai/spider" not in REGISTERED
