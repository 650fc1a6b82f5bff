import json
import sqlite3
import sys
import types
from contextlib import closing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.data.sql.small_sql import LAYOUTS, QUESTIONS, TABLES, make_shop, rows, spider, write_json

from manyone.data.sql.files import Reader
from manyone.data.sql.layouts import databases_in, from_hub, from_rows, load_file, load_folder
from manyone.data.sql.schema import read_schema, schemas_from_tables
from manyone.data.sql.splits import SPLITS, split_of
from manyone.errors import ManyoneError


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_is_recognised_and_its_golds_run(tmp_path, layout):
    found = load_folder(LAYOUTS[layout](tmp_path))
    train = {"spider": 45, "spider-syn": 40, "bird": 40}.get(layout, 0)
    assert len(found.splits["train"]) + len(found.splits["val"]) == train
    assert len(found.splits["test"]) == 7
    assert [p.question for p in found.splits["test"]] == [f"{QUESTIONS[i % 5][0]} ({i})" for i in range(7)]
    assert {p.source for p in found.splits["test"]} == {f"{layout}-dev"}
    with Reader(found.databases["shop"][0]) as reader:
        for split in SPLITS:
            for pair in found.splits[split]:
                # gold against gold, on the very database that the loader names
                assert reader.rows(pair.sql) == reader.rows(pair.sql)
    assert found.schemas["shop"].table("Customer").column("City").values == ("Lyon", "Graz")


def test_validation_is_split_off_by_sql(tmp_path):
    spider(tmp_path)
    again = [{**row, "question": "Asked in other words: " + row["question"]} for row in rows(count=40)]
    write_json(tmp_path / "train_others.json", again)
    found = load_folder(tmp_path)
    train, val = ({p.sql for p in found.splits[s]} for s in ("train", "val"))
    assert train
    assert val
    assert not train & val
    assert all(split_of(sql) == "val" for sql in val)


def test_an_official_test_split_is_the_test_split(tmp_path):
    write_json(spider(tmp_path) / "test.json", rows(count=3))
    found = load_folder(tmp_path)
    assert [len(found.splits[s]) for s in SPLITS] == [45, 7, 3]


def test_evidence_may_be_left_out(tmp_path):
    LAYOUTS["bird"](tmp_path)
    assert {p.evidence for p in load_folder(tmp_path).splits["train"]} == {"dear means a high price"}
    assert {p.evidence for p in load_folder(tmp_path, evidence=False).splits["train"]} == {""}


def test_further_files_of_a_database_are_its_test_suite(tmp_path):
    folder = spider(tmp_path)
    for name in ("a.sqlite", "z.db", "readme.txt", "fake.sqlite"):
        target = folder / "database" / "shop" / name
        target.write_text("no") if "e." in name[3:] else make_shop(target)
    (folder / "database" / "shop" / "out.sqlite").symlink_to(make_shop(tmp_path.parent / "elsewhere.sqlite"))
    assert [p.name for p in load_folder(folder).databases["shop"]] == ["shop.sqlite", "a.sqlite", "z.db"]


def test_tables_and_databases_from_elsewhere(tmp_path):
    folder = LAYOUTS["spider-realistic"](tmp_path / "variant")
    tables = (folder / "tables.json").rename(tmp_path / "t.json")
    databases = (folder / "database").rename(tmp_path / "dbs")
    with pytest.raises(ManyoneError, match="neither a SQLite file nor a schema"):
        load_folder(folder)
    told = load_folder(folder, tables=tables)
    assert told.databases == {}
    assert "databases=" in told.notes[0]
    both = load_folder(folder, tables=tables, databases=databases)
    assert both.databases == databases_in(databases)
    assert both.schemas["shop"].table("Customer").column("City").natural == "home town"


def test_files_of_rows(tmp_path):
    write_json(tmp_path / "tables.json", TABLES)
    one = load_file(write_json(tmp_path / "pairs_of_mine.json", rows(count=30)))
    lines = tmp_path / "more.jsonl"
    lines.write_text("\n".join(json.dumps(row) for row in rows("question", "SQL", 30)) + "\n\n")
    two = load_file(lines)
    assert one.splits == two.splits
    assert one.name == "pairs_of_mine"
    assert sum(map(len, one.splits.values())) == 30
    queries = [{p.sql for p in one.splits[split]} for split in SPLITS]
    assert all(queries), "a tenth is held out for each of two splits"
    assert sum(map(len, queries)) == len(set.union(*queries))
    assert any("held out" in note for note in one.notes)


def test_rows_without_a_split_among_others_are_split_by_their_sql(tmp_path):
    path = make_shop(tmp_path / "shop.sqlite")
    given = [*rows(count=30), {**rows(count=1)[0], "split": "test", "source": "told"}]
    found = from_rows(given, databases={"shop": [path]})
    assert all(split_of(p.sql) == split for split in SPLITS for p in found.splits[split] if p.source != "told")


@pytest.mark.parametrize(("others", "where"), [((), "test"), (("test",), "val")])
def test_dev_is_the_test_split_where_there_is_none(tmp_path, others, where):
    path = make_shop(tmp_path / "shop.sqlite")
    given = [{**row, "split": split} for split in ("dev", *others) for row in rows(count=3)]
    found = from_rows(given, databases={"shop": [path]})
    assert len(found.splits[where]) == 3
    assert found.splits["train"] == []


def test_a_split_that_nobody_knows_is_refused(tmp_path):
    path = make_shop(tmp_path / "shop.sqlite")
    for split, shown in (("tset", "'tset'"), (["test"], r"\"\['test'\]\""), (1, "'1'")):
        given = [*rows(count=2), {**rows(count=1)[0], "split": split}]
        with pytest.raises(ManyoneError, match=f"row 3: split {shown}: must be one of train, val, "):
            from_rows(given, databases={"shop": [path]})


def test_rows_may_name_their_split_and_source(tmp_path):
    path = make_shop(tmp_path / "shop.sqlite")
    given = [{**row, "split": "validation", "source": "by hand"} for row in rows(count=4)]
    found = from_rows(given, databases={"shop": [path]})
    assert [p.source for p in found.splits["val"]] == ["by hand"] * 4
    assert found.schemas["shop"] == read_schema(path)
    assert len(from_rows(given, schemas=found.schemas, split="test").splits["test"]) == 4


def test_the_hub(monkeypatch):
    data = {"train": rows(count=40), "validation": rows(count=6)}
    library = types.ModuleType("datasets")

    def load_dataset(name):
        if name != "some/pairs":
            raise FileNotFoundError(f"Couldn't find {name}\nlong story")
        return data

    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    found = from_hub("some/pairs", schemas=schemas_from_tables(TABLES, "t"))
    assert len(found.splits["test"]) == 6
    assert found.splits["val"]
    assert {p.source for p in found.splits["test"]} == {"some/pairs:validation"}
    with pytest.raises(ManyoneError, match="the hub does not give it") as problem:
        from_hub("other/pairs")
    assert "\n" not in str(problem.value)


words = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=40).filter(
    lambda text: text.split() and text == " ".join(text.split()) and not text.endswith(";")
)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(words, words, words, st.sampled_from(SPLITS)), min_size=1, max_size=4))
def test_any_pairs_are_read_back_from_a_file(tmp_path_factory, found):
    folder = tmp_path_factory.mktemp("pairs")
    write_json(folder / "tables.json", TABLES)
    given_ = [{"db_id": "shop", "question": q, "SQL": sql, "evidence": e, "split": split} for q, sql, e, split in found]
    pairs = load_file(write_json(folder / "rows.json", given_)).splits
    for split in SPLITS:
        assert [(p.question, p.sql, p.evidence) for p in pairs[split]] == [x[:3] for x in found if x[3] == split]
    # written as it is: some characters end a line for str.splitlines, though not in JSON lines
    lines = [json.dumps(row, ensure_ascii=False) for row in given_]
    (folder / "rows.jsonl").write_bytes("\n".join(lines).encode())
    assert load_file(folder / "rows.jsonl").splits == pairs


def test_what_is_damaged_is_one_line(tmp_path):
    folder = spider(tmp_path)
    for name, content, match in (
        ("dev.json", b"\xff\xfe\x00", "not UTF-8"),
        ("dev.json", b"{", "not JSON"),
        ("dev.json", b"[" * 100_000, "not JSON"),
        ("tables.json", b"[]", "a list of schemas"),
        ("train_others.json", b"{}", "a list of pairs"),
        ("train_others.json", b'[{"db_id": "shop", "question": "?", "query": " "}]', "pair 1: no text in query"),
        ("train_others.json", b'[{"db_id": "../shop", "question": "?", "query": "SELECT 1"}]', "db_id '../shop'"),
        ("train_others.json", b'[{"db_id": "bar", "question": "?", "query": "SELECT 1"}]', "database bar has neither"),
        ("train_others.json", b'[{"db_id": "shop", "question": "?", "query": "' + b"x" * 20_001 + b'"}]', "20,001"),
        ("train_others.json", b"[3]", "not an object"),
    ):
        good = (folder / name).read_bytes()
        (folder / name).write_bytes(content)
        with pytest.raises(ManyoneError, match=match) as problem:
            load_folder(folder)
        assert "\n" not in str(problem.value)
        (folder / name).write_bytes(good)
    with pytest.raises(ManyoneError, match="no pairs of a question and SQL"):
        load_folder(folder / "database")
    with pytest.raises(ManyoneError, match="no pairs in it"):
        from_rows([])


def test_a_file_that_is_no_database_is_not_taken_for_one(tmp_path):
    folder = spider(tmp_path)
    path = folder / "database" / "shop" / "shop.sqlite"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("DELETE FROM Customer")
        db.commit()
        with pytest.raises(ManyoneError, match="wal_checkpoint"):
            load_folder(folder)
