"""``manyone run sql-eval``: files in, scores, verdicts and a page out; one line for what does not fit."""

import json
import shutil

import pytest
from tests.sql.scoring.conftest import library, schema  # noqa: F401

from manyone.claims.figure import load_figures

GOLD = ["SELECT name FROM author", "SELECT country, count(*) FROM author GROUP BY country",
        "SELECT title FROM book WHERE price > (SELECT avg(price) FROM book)"]  # fmt: skip
PREDICTED = ["SELECT name FROM author", "SELECT count(*), country FROM author GROUP BY 2", "DROP TABLE book"]


@pytest.fixture
def files(tmp_path, library):  # noqa: F811
    """Gold queries, predictions and databases in the test's folder."""
    (tmp_path / "database/library").mkdir(parents=True)
    for path in library:
        shutil.copy(path, tmp_path / "database/library")
    (tmp_path / "gold.txt").write_text("".join(f"{sql}\tlibrary\n" for sql in GOLD))
    (tmp_path / "pred.txt").write_text("".join(f"{sql}\n" for sql in PREDICTED))
    return tmp_path


def words(preset, *more):
    return ("run", "sql-eval", "--gold", "gold.txt", "--pred", "pred.txt", "--db", "database", "--preset", preset,
            "--workers", "1", "--out", "scored", *more)  # fmt: skip


@pytest.mark.parametrize(
    ("preset", "score"), [("spider-ex", 2 / 3), ("spider-ts", 2 / 3), ("spider-em", 1 / 3), ("bird-ex", 1 / 3)]
)
def test_scores_verdicts_and_page(manyone, files, preset, score):
    code, out, err = manyone(*words(preset))
    assert code == 0, err
    scores = json.loads((files / "scored/scores.json").read_text())
    assert scores["value"] == pytest.approx(score)
    assert scores["gold_check"] == {"count": 3, "correct": 3, "failed": []}
    assert scores["deviations"]
    assert scores["limits"]["seconds"] == (30 if preset == "bird-ex" else 60)
    assert len(scores["databases"]["library"]) == (2 if preset == "spider-ts" else 1)
    assert len(scores["databases"]["library"][0]) == 64
    verdicts = [json.loads(line) for line in (files / "scored/verdicts.jsonl").read_text().splitlines()]
    assert [v["predicted"] for v in verdicts] == PREDICTED
    assert sum(v["correct"] for v in verdicts) == round(3 * score)
    page = (files / "scored/report.html").read_text()
    figures = {figure.title for figure in load_figures(files / "scored/figures.json")}
    assert {"Wrong predictions", "Rules that differ", "What the score rests on"} <= figures
    assert all(title in page for title in figures)
    assert ("F1 of the clauses" in page) == (preset == "spider-em")
    assert f"{100 * score:.1f}" in out
    assert "gold as predictions: 3 of 3 right" in out
    code, shown, _ = manyone("eval", "scored")
    assert code == 0
    assert f"{score:.3f}"[:4] in shown


def test_the_page_shows_predictions_as_text(manyone, files):
    (files / "pred.txt").write_text("<script>alert(1)</script>\n\u202eSELECT 1\nSELECT '\n")
    code, _, err = manyone(*words("spider-ex"))
    assert code == 0, err
    page = (files / "scored/report.html").read_text()
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_exact_match_needs_no_databases_where_tables_are_given(manyone, files):
    tables = [{"db_id": "library", "table_names_original": ["author", "book"], "table_names": ["author", "book"],
               "column_names_original": [[-1, "*"], [0, "id"], [0, "name"], [0, "country"], [1, "title"], [1, "price"]],
               "column_names": [[-1, "*"], [0, "id"], [0, "name"], [0, "country"], [1, "title"], [1, "price"]],
               "column_types": ["text"] * 6, "primary_keys": [1], "foreign_keys": []}]  # fmt: skip
    (files / "tables.json").write_text(json.dumps(tables))
    call = ("run", "sql-eval", "--gold", "gold.txt", "--pred", "pred.txt", "--preset", "spider-em", "--out", "scored")
    code, _, err = manyone(*call, "--tables", "tables.json")
    assert code == 0, err
    code, _, err = manyone(*call[:-2])
    assert code == 2
    assert "give --db FOLDER with the databases, or --tables FILE for spider-em" in err


def test_bird_s_files(manyone, files):
    rows = [{"db_id": "library", "question": "q", "SQL": sql, "difficulty": level, "evidence": ""}
            for sql, level in zip(GOLD, ("simple", "moderate", "simple"))]  # fmt: skip
    (files / "gold.json").write_text(json.dumps(rows))
    bird = {str(k): f"{sql}\t----- bird -----\tlibrary" for k, sql in enumerate(GOLD)}
    (files / "pred.json").write_text(json.dumps(bird))
    call = [w.replace("gold.txt", "gold.json").replace("pred.txt", "pred.json") for w in words("bird-ves")]
    code, out, err = manyone(*call, "--repeats", "2")
    assert code == 0, err
    assert "simple" in out
    scores = json.loads((files / "scored/scores.json").read_text())
    assert scores["levels"]["simple"]["n"] == 2
    assert 0.2 < scores["value"] < 5


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (("pred.txt", "SELECT 1\n"), "1 predictions for 3 gold queries"),
        (("gold.txt", "SELECT 1\tlibrary\nSELECT 2\tzoo\nSELECT 3\tzoo\n"), "no database 'zoo', which"),
        (("gold.txt", "SELECT nil FROM author\tlibrary\n" * 3), "gold query 1 (library): error: no such column: nil"),
        (("gold.txt", "SELECT 1\n" * 3), "line 1: no SQL, tab and name of a database"),
        (("database/library/library.sqlite-wal", "changes"), "library.sqlite-wal"),
    ],
)
def test_one_line_for_what_does_not_fit_and_nothing_written(manyone, files, change, said):
    (files / change[0]).write_text(change[1])
    code, _, err = manyone(*words("spider-ex"))
    assert code == 2
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not (files / "scored").exists()


def test_nothing_is_computed_on_a_gpu(manyone, files):
    code, _, err = manyone(*words("spider-ex"), "--device", "cuda")
    assert code == 2
    assert "--device cuda: must be auto or cpu" in err


def test_missing_words(manyone, files):
    for left_out in ("--gold", "--pred", "--db"):
        call = list(words("spider-ex"))
        at = call.index(left_out)
        code, _, err = manyone(*call[:at], *call[at + 2 :])
        assert code == 2
        assert f"give {left_out}" in err


def test_a_dry_run_writes_nothing(manyone, files):
    code, out, _ = manyone(*words("bird-ex"), "--dry-run")
    assert code == 0
    assert "bird-ex: execution accuracy" in out
    assert "read-only" in out
    assert not (files / "scored").exists()


def test_official_ways(manyone, files):
    (files / "pred.txt").write_text("".join(f"{sql}; SELECT 1\n" for sql in GOLD))
    code, _, err = manyone(*words("spider-ex"), "--official", "one-statement")
    assert code == 0, err
    scores = json.loads((files / "scored/scores.json").read_text())
    assert scores["value"] == 1
    assert "one-statement" not in scores["deviations"]
