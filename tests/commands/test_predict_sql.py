"""``manyone predict`` for text-to-SQL: a question in, SQL and its rows out."""

import csv
import json
import shutil

import pytest
from tests.sql.conftest import music, tiny  # noqa: F401


@pytest.fixture
def place(tmp_path, tiny, music):  # noqa: F811
    """The folder with a run, a database and one that is none."""
    shutil.copytree(tiny, tmp_path / "run" / "model")
    shutil.copy(music, tmp_path / "music.sqlite")
    (tmp_path / "notes.txt").write_text("no database")
    (tmp_path / "empty.sqlite").touch()
    return tmp_path


def test_a_question_prints_sql(manyone, place):
    code, out, err = manyone("predict", "run", "How many albums are there?", "--db", "music.sqlite")
    assert (code, out.strip()) == (0, "SELECT COUNT(*) FROM album"), err


def test_execute_shows_what_it_gives(manyone, place):
    code, out, _ = manyone("predict", "run", "--db", "music.sqlite", "Which albums cost less than 9?", "--execute")
    assert code == 0
    sql, *table = out.strip().splitlines()
    assert sql == "SELECT title, price FROM album WHERE price < 9"
    assert next(line.split() for line in table if line.strip()) == ["title", "price"]
    assert table[-1].split() == ["Takk", "8.0"]
    code, out, _ = manyone("predict", "run", "What are the names of all artists?", "--db", "music.sqlite", "--execute")
    assert "NULL" in out
    assert "AC/DC" in out


def test_a_query_that_fails_says_so_and_is_no_success(manyone, place):
    code, out, _ = manyone("predict", "run", "Show the year of everything.", "--db", "music.sqlite", "--execute")
    assert code == 1
    assert out.splitlines() == ["SELECT year FROM nowhere", "it gives nothing: no such table: nowhere"]


def test_another_dialect(manyone, place):
    words = ("--db", "music.sqlite", "--dialect", "mysql")
    code, out, _ = manyone("predict", "run", "Which albums cost less than 9?", *words)
    assert (code, out.strip()) == (0, "SELECT title, price FROM album WHERE price < 9")
    code, out, _ = manyone("predict", "run", "What is the meaning of it?", *words)
    assert code == 1
    assert out.splitlines()[0] == "no idea"


def test_questions_from_a_file_are_answered_as_json_lines(manyone, place):
    lines = '{"question": "How many albums are there?", "evidence": ""}\n\nHow many albums are there?\n'
    (place / "q.jsonl").write_text(lines)
    code, out, _ = manyone("predict", "run", "--questions", "q.jsonl", "--db", "music.sqlite", "--execute")
    assert code == 0
    first, second = map(json.loads, out.splitlines())
    assert first == second
    assert first == {"question": "How many albums are there?", "sql": "SELECT COUNT(*) FROM album",
                     "columns": ["COUNT(*)"], "rows": [[4]]}  # fmt: skip
    code, out, _ = manyone("predict", "run", "--questions", "q.jsonl", "--db", "music.sqlite", "--out", "a.jsonl")
    assert (code, out) == (0, "2 rows: a.jsonl\n")
    assert json.loads((place / "a.jsonl").read_text().splitlines()[0])["sql"] == first["sql"]
    words = ("predict", "run", "--questions", "q.jsonl", "--db", "music.sqlite", "--execute", "--out", "a.csv")
    assert manyone(*words)[0] == 0
    table = list(csv.DictReader((place / "a.csv").open(newline="")))
    assert [row["sql"] for row in table] == [first["sql"]] * 2
    assert json.loads(table[0]["rows"]) == [[4]]


def test_what_cannot_be_asked_is_one_line_and_nothing_is_written(manyone, place):
    (place / "bad.jsonl").write_text('How many?\n{"q": 1}\n')
    (place / "none.jsonl").write_text("\n")
    before = sorted(p for p in place.rglob("*") if "cache" not in p.parts)
    question = "How many albums are there?"
    for words, message in (
        (("run", question), "--db FILE"),
        (("run", "--db", "music.sqlite"), "--questions FILE"),
        (("run", question, "--db", "music.sqlite", "--questions", "bad.jsonl"), "either"),
        (("run", question, "--db", "absent.sqlite"), "absent.sqlite: no such database"),
        (("run", question, "--db", "notes.txt"), "notes.txt: not a SQLite database"),
        (("run", question, "--db", "empty.sqlite"), "empty.sqlite"),
        (("run", question, "--db", "music.sqlite", "--dialect", "postgress"), "did you mean 'postgres'?"),
        (("run", question, "--db", "music.sqlite", "--beams", 0), "--beams 0"),
        (("run", question, "--db", "music.sqlite", "--seconds", 0), "seconds must be a number above 0"),
        (("run", "--questions", "bad.jsonl", "--db", "music.sqlite"), "bad.jsonl, line 2"),
        (("run", "--questions", "none.jsonl", "--db", "music.sqlite"), "none.jsonl: no question in it"),
        (("run", "--questions", "gone.jsonl", "--db", "music.sqlite"), "gone.jsonl: cannot be read"),
        (("run", question, "--db", "music.sqlite", "--delimiter", ";"), "--delimiter is for models of minimax"),
        (("music.sqlite", question), "no model"),
        ((), "MODEL"),
    ):
        code, out, err = manyone("predict", *words)
        assert (code, out) == (2, ""), (words, out, err)
        assert message in err
        assert len(err.splitlines()) == 1
    assert sorted(p for p in place.rglob("*") if "cache" not in p.parts) == before


def test_help_names_the_words_of_every_field(manyone, place):
    code, out, _ = manyone("predict", "--help")
    assert code == 0
    assert "models of minimax" in out
    assert "models of sql" in out
    code, out, _ = manyone("predict", "run", "--help")
    assert code == 0
    assert "--dialect" in out
    assert "--delimiter" not in out
