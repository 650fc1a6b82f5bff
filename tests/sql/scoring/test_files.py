"""Gold queries and predictions as other people's programs write them."""

import json
import shutil

import pytest

from manyone.data.sql.records import Pair
from manyone.errors import ManyoneError
from manyone.sql.scoring import files
from manyone.sql.scoring.files import find_databases, find_schemas, read_gold, read_predictions

PAIRS = [Pair("a", "", "SELECT 1"), Pair("b", "", "SELECT 2")]


@pytest.fixture
def write(tmp_path):
    """A file with a text, or with data as JSON."""

    def call(name, content):
        path = tmp_path / name
        path.write_bytes((content if isinstance(content, str) else json.dumps(content)).encode())
        return path

    return call


def test_gold_in_lines(write):
    gold = read_gold(write("gold.txt", "SELECT 1\ta\r\nSELECT 'x\u2028y'\tb\n"))
    assert [(p.sql, p.db_id) for p in gold.pairs] == [("SELECT 1", "a"), ("SELECT 'x\u2028y'", "b")]
    assert gold.difficulties is None
    assert len(read_gold(write("dev_gold.sql", "\ufeffSELECT 1\ta")).pairs) == 1


def test_gold_in_json(write):
    rows = [{"db_id": "a", "question": "how many", "query": "SELECT 1"},
            {"db_id": "b", "SQL": "SELECT 2", "difficulty": "simple", "evidence": "two"}]  # fmt: skip
    for name, content in (("dev.json", rows), ("dev.jsonl", "\n".join(map(json.dumps, rows)) + "\n")):
        gold = read_gold(write(name, content))
        assert [p.sql for p in gold.pairs] == ["SELECT 1", "SELECT 2"]
        assert (gold.pairs[0].question, gold.pairs[1].evidence) == ("how many", "two")
        assert gold.difficulties is None  # the first has none
    bird = [{**row, "difficulty": "moderate"} for row in rows]
    assert read_gold(write("dev.json", bird)).difficulties == ("moderate", "moderate")


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("gold.txt", "SELECT 1\ta\n\nSELECT 2\tb\n", "line 2 is empty: dialogues"),
        ("gold.txt", "SELECT 1\n", "line 1: no SQL, tab and name"),
        ("gold.txt", "SELECT 1\t../x\n", "no plain name"),
        ("gold.json", {"a": 1}, "must hold a list"),
        ("gold.json", "[1]", "item 1: must be an object"),
        ("gold.json", [{"db_id": "a"}], "item 1: no SQL in query, SQL"),
        ("gold.json", [{"db_id": "a", "query": "SELECT '\ud800'"}], "half a character"),
        ("gold.json", [{"query": "SELECT 1"}], "no plain name"),
        ("gold.json", "[", "not JSON"),
        ("gold.json", "[" * 100_000, "not JSON"),
        ("gold.jsonl", '{"db_id": "a", "query": "SELECT 1"}\n{', "line 2: not JSON"),
    ],
)
def test_gold_that_is_none(write, name, content, words):
    with pytest.raises(ManyoneError, match=words):
        read_gold(write(name, content))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("pred.txt", "SELECT 1\nSELECT 2\n"),
        ("pred.sql", "SELECT 1\ta\r\nSELECT 2"),
        ("pred.txt", "SELECT 1\t----- bird -----\ta\nSELECT 2\t----- bird -----\tb\n"),
        ("pred.json", ["SELECT 1", "SELECT 2"]),
        ("pred.json", [{"sql": "SELECT 1", "db_id": "a"}, {"prediction": "SELECT 2"}]),
        ("predict_dev.json", {"1": "SELECT 2\t----- bird -----\tb", "0": "SELECT 1\t----- bird -----\ta"}),
        ("pred.jsonl", '"SELECT 1"\n{"query": "SELECT 2"}\n'),
    ],
)
def test_predictions(write, name, content):
    assert read_predictions(write(name, content), PAIRS) == ["SELECT 1", "SELECT 2"]


def test_half_characters_in_questions_are_marked(write):
    rows = [{"db_id": "a", "question": "so \ud800", "query": "SELECT 1"}]
    assert read_gold(write("dev.json", rows)).pairs[0].question == "so ?"


def test_missing_predictions_are_empty(write):
    assert read_predictions(write("p.txt", "\nSELECT 2\n"), PAIRS) == ["", "SELECT 2"]
    assert read_predictions(write("p.txt", "SELECT 1\n\n"), PAIRS) == ["SELECT 1", ""]
    assert read_predictions(write("p.json", {"0": 0, "1": "SELECT 2"}), PAIRS) == ["", "SELECT 2"]
    assert read_predictions(write("p.json", [None, {"sql": None}]), PAIRS) == ["", ""]


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("p.txt", "SELECT 1\n", "1 predictions for 2 gold queries"),
        ("p.txt", "a\nb\nc\n", "3 predictions for 2"),
        ("p.json", {"0": "SELECT 1", "2": "SELECT 2"}, "no prediction 1"),
        ("p.json", {"x": "SELECT 1", "1": "SELECT 2"}, "the numbers 0, 1"),
        ("p.json", [1, 2], "item 1: no SQL"),
        ("p.json", [{"text": "SELECT 1"}, "x"], "item 1: no SQL"),
        ("p.json", [{"sql": {"sql": "SELECT 1"}}, "x"], "item 1: no SQL"),
        ("p.json", {"0": "SELECT 1\t----- bird -----\tb", "1": "x"}, "prediction 1 is for 'b', its gold query for 'a'"),
        ("p.json", "5", "must hold a list"),
    ],
)
def test_predictions_that_do_not_fit(write, name, content, words):
    with pytest.raises(ManyoneError, match=words):
        read_predictions(write(name, content), PAIRS)


def test_files_that_cannot_be_read(write, tmp_path, monkeypatch):
    with pytest.raises(ManyoneError, match="cannot read it"):
        read_gold(tmp_path / "gone.txt")
    with pytest.raises(ManyoneError, match="cannot read it"):
        read_gold(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"SELECT '\xe9'\ta\n")
    with pytest.raises(ManyoneError, match="not UTF-8"):
        read_gold(tmp_path / "latin.txt")
    monkeypatch.setattr(files, "MOST_BYTES", 5)
    with pytest.raises(ManyoneError, match="too large for a file of queries"):
        read_gold(write("g.txt", "SELECT 1\ta\n"))


def test_databases_in_folders_and_beside_each_other(library, tmp_path, schema):
    (tmp_path / "library").mkdir()
    for path in library:
        shutil.copy(path, tmp_path / "library")
    shutil.copy(library[0], tmp_path / "flat.sqlite")
    (tmp_path / "text.sqlite").write_text("no database")
    found = find_databases(tmp_path)
    assert {name: [p.name for p in paths] for name, paths in found.items()} == {
        "library": ["library.sqlite", "library_2.sqlite"], "flat": ["flat.sqlite"]}  # fmt: skip
    (tmp_path / "empty").mkdir()
    with pytest.raises(ManyoneError, match="no SQLite databases"):
        find_databases(tmp_path / "empty")
    schemas = find_schemas(["library", "library", "other"], found, None)
    assert list(schemas) == ["library"]
    assert [t.name for t in schemas["library"].tables] == [t.name for t in schema.tables]
    assert len(schemas["library"].foreign_keys) == 2


def test_tabs_are_white_space_unless_a_database_follows(write):
    pairs = read_gold(write("gold.txt", "SELECT 1\twal\n" * 3)).pairs
    lines = "SELECT count(*)\tFROM item WHERE id < 0\nSELECT 'a\tb'\nSELECT\t1\twal\n"
    whole = ["SELECT count(*)\tFROM item WHERE id < 0", "SELECT 'a\tb'", "SELECT\t1"]
    assert read_predictions(write("p.txt", lines), pairs) == whole
    rows = "".join(json.dumps({"sql": sql}) + "\n" for sql in whole)
    assert read_predictions(write("p.jsonl", rows), pairs) == whole
    with pytest.raises(ManyoneError, match="prediction 2 is for 'other', its gold query for 'wal'"):
        read_predictions(write("p.txt", "SELECT 1\nSELECT 1\tother\nSELECT 1\n"), pairs)
