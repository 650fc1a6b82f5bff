"""The text-to-SQL study on a dozen questions about one small database: rows, figures, going on where it stopped."""

from __future__ import annotations

import math
import shlex
import sqlite3
from contextlib import closing
from dataclasses import replace

import pytest
from tests.sql.conftest import fill

from manyone.claims.claims import SCALES
from manyone.claims.figure import load_figures
from manyone.claims.file import load_claims
from manyone.claims.rows import load_rows
from manyone.cli.options import parse_options
from manyone.data.sql.records import Pair, PairSet
from manyone.data.sql.schema import read_schema
from manyone.recipes.table import options_class
from manyone.reproduce.reproduce import claims_file
from manyone.sql.recipes.problem import problem_of
from manyone.sql.recipes.scores import Judge
from manyone.sql.study import figures, study
from manyone.sql.study.answers import answers_of, clauses_of
from manyone.sql.study.settings import BOUNDS, COSTS, PARTS, SETTINGS, Setting

QUESTIONS = {
    "How many albums are there?": "SELECT count(*) FROM album",
    "Names of all artists?": "SELECT name FROM artist",
    "Titles below 10?": "SELECT title FROM album WHERE price < 10",
    "Titles by price?": "SELECT title FROM album ORDER BY price DESC LIMIT 1",
    "Artists with their albums?": "SELECT T1.name FROM artist AS T1 JOIN album AS T2 ON T1.artist_id = T2.artist_id",
    "Albums of each artist?": "SELECT artist_id, count(*) FROM album GROUP BY artist_id HAVING count(*) > 1",
}
OPTIONS = {
    "suite": "schemas3", "device": "cpu", "teacher_steps": 2, "teacher_layers": 1, "teacher_width": 16, "warm_start": 1,
    "student_layers": 1, "student_width": 16, "steps": 3, "batch_size": 4, "vocabulary": 300, "max_output": 12,
    "workers": 1,
}  # fmt: skip
MINE = ("gkd", "kid", "mask-only", "rkd-time")


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A suite called tiny at scale smoke: generated and real questions about two instances of a database."""
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "cache"))
    files = []
    for number in range(2):
        file = tmp_path / f"music{number}.sqlite"
        with closing(sqlite3.connect(file)) as db:
            fill(db)
            db.execute("DELETE FROM album WHERE album_id <= ?", (number,))
            db.commit()
        files.append(file)
    made = [Pair("music", question, sql, source="generated") for question, sql in QUESTIONS.items()]
    real = [Pair("music", f"Please: {question}", sql, source="spider-dev") for question, sql in QUESTIONS.items()]
    schema = read_schema(files[0], "music")
    data = PairSet("tiny", {"train": made, "val": made[:2], "test": [*made, *real[:2]]}, {"music": schema},
                   {"music": tuple(files)})  # fmt: skip
    setting = Setting(
        MINE, OPTIONS, {"sft": 1, "fkd": 1, "rkd": 2, "kid": 3, "gkd": 4}, rounds=2, exposure=2, samples=1
    )
    monkeypatch.setitem(SETTINGS, "smoke", SETTINGS["smoke"] | {"tiny": setting})
    problem = problem_of(data, setting.arm("kid").options())
    monkeypatch.setattr(study, "problem_of", lambda scale, suite: problem)
    return setting


def test_every_part_gives_its_rows_once(tiny, tmp_path):
    for job in reversed(study.jobs("smoke", ["tiny"], range(1))):
        study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
        path = tmp_path / f"{job.file}.jsonl"
        before, rows = path.read_bytes(), load_rows(path)
        assert len(rows) == study.count_rows("smoke", "tiny", job.part) == before.count(b"\n")
        study.run_job("smoke", job.suite, job.seed, job.part, tmp_path)
        assert path.read_bytes() == before
    rows = figures.rows_of(tmp_path.glob("*.jsonl"))
    found = {(r.method, r.variant, r.condition): r for r in rows}
    for name in MINE:
        row = found[PARTS[name].method, PARTS[name].variant, "clean"]
        assert 0 <= row.metrics["ts"] <= row.metrics["ex"] <= 1
        assert (row.metrics["pairs"], row.metrics["real_pairs"]) == (6, 2)
        assert ("exposure" in row.metrics) == PARTS[name].exposure
        assert sum(v["pairs"] for v in row.details["hardness"].values()) == 6
    assert found["rkd", "equal-time", "clean"].metrics["steps"] == round(3 * 3 / 2)
    assert 0 <= found["kid", "", "clean"].metrics["rewrite_error"] <= 1
    assert found["kid", "mask-only", "clean"].metrics["rewrite_error"] == 1
    assert found["gkd", "", "clean"].metrics["generated"] == 1
    assert {r.method for r in rows} >= set(BOUNDS)
    costs = [r for r in rows if r.condition == "cost"]
    assert {(r.method, r.variant) for r in costs} == {(COSTS[n].method, COSTS[n].variant) for n in study._costed(tiny)}
    assert found["sft", "", "cost"].metrics["step_sft"] == 1
    assert all(r.metrics["step_s"] > 0 for r in costs)
    (tmp_path / "tiny-0-kid.jsonl").unlink()  # as if it had been stopped before its row was written
    study.run_job("smoke", "tiny", 0, "kid", tmp_path)
    before = found["kid", "", "clean"]
    assert before.metrics["cpu_s"] > 0
    untimed = {name: value for name, value in before.metrics.items() if name != "cpu_s"}  # the run was not made anew
    assert load_rows(tmp_path / "tiny-0-kid.jsonl") == [replace(before, metrics=untimed)]
    drawn = study.overview("smoke", ["tiny"], range(1), tmp_path)
    titles = ["EX by hardness", "EX by clause", "excess accumulated error", "rewriting error", "cost against accuracy"]
    assert [f.title.removeprefix("tiny: ") for f in drawn[:5]] == titles
    [wrong] = load_figures(tmp_path / "tiny-0-kid.figures.json")
    assert wrong.title == "tiny: wrong answers of KID"
    assert 1 <= len(wrong.data["rows"]) <= 10
    info = study.prepare("smoke", "tiny")
    assert {(t.name, t.train, t.test) for t in info.tasks} == {("music: generated", 6, 6), ("music: spider-dev", 0, 2)}


def test_gold_answers_are_right_by_every_measure(tiny, monkeypatch):
    problem, options = study.problem_of("smoke", "tiny"), tiny.arm("kid").options()
    with Judge(problem, options) as judge:
        monkeypatch.setattr(judge, "answers", lambda model, tokenizer: [p.sql for p in judge.pairs])
        right = answers_of(problem, judge, None, None)
        assert right.metrics() == {"pairs": 6, "ex": 1, "ts": 1, "real_pairs": 2, "real_ex": 1, "real_ts": 1}
        assert figures.wrong_answers("s", right) == []
        monkeypatch.setattr(judge, "answers", lambda model, tokenizer: ["SELECT 1", *[p.sql for p in judge.pairs][1:]])
        found = answers_of(problem, judge, None, None)
        [table] = figures.wrong_answers("s", found)
    assert found.metrics()["ex"] == pytest.approx(5 / 6)
    assert found.details()["clause"]["aggregate"]["ex"] == pytest.approx(1 / 2)
    row = table.data["rows"][0]
    assert row[:4] == ["music", "How many albums are there?", "SELECT count(*) FROM album", "SELECT 1"]
    assert row[4:6] == ["4", "1"]


def test_clauses_of_gold_queries(tiny):
    problem = study.problem_of("smoke", "tiny")
    join, group = (clauses_of(QUESTIONS[q], problem, "music")
                   for q in ("Artists with their albums?", "Albums of each artist?"))  # fmt: skip
    assert join == {"join"}
    assert group == {"group", "having", "aggregate"}
    nested = "SELECT name FROM artist WHERE artist_id NOT IN (SELECT artist_id FROM album)"
    assert clauses_of(nested, problem, "music") == {"where", "not", "in", "nested"}
    assert clauses_of("SELECT CASE WHEN 1 THEN 2 END", problem, "music") == frozenset()


@pytest.mark.parametrize("scale", SCALES)
def test_arms_are_commands_and_every_claim_has_its_rows(scale):
    claims, first = load_claims(claims_file("sql")), next(iter(SETTINGS[scale]))
    for suite, setting in SETTINGS[scale].items():
        for arm in study.arms(scale, suite)[: 4 if suite == first else 1]:  # suites differ in what all arms share
            words = shlex.split(arm.command())[3:]
            assert parse_options(options_class(arm.recipe), arm.recipe, words) == arm.options()
        rows = {(PARTS[n].method, PARTS[n].variant, "clean") for n in setting.parts}
        rows |= {(name, "", "clean") for name in BOUNDS}
        rows |= {(COSTS[n].method, COSTS[n].variant, "cost") for n in study._costed(setting)}
        measured = {PARTS[n].method for n in setting.parts if PARTS[n].exposure}
        for claim in claims.claims:
            if suite in claim.tests.get(scale, ()):
                for side in (claim.left, *claim.right):
                    assert (side.method, side.variant, side.condition or claim.condition) in rows, claim.id
                    assert claim.metric != "exposure" or side.method in measured, claim.id
        tested = {s for claim in claims.claims for s in claim.tests.get(scale, ())}
        assert suite in tested


def test_the_laptop_scale_is_what_a_fair_comparison_needs():
    setting = SETTINGS["laptop"]["schemas3"]
    assert study.SEEDS["laptop"] >= 3
    for name in setting.parts:
        options = setting.arm(name).options()
        assert options.steps >= 1500 or PARTS[name].as_long_as
        assert options.eval_pairs >= 1000
    assert setting.arm("gkd-time").options().steps == round(1500 * setting.costs["kid"] / setting.costs["gkd"])


def test_published_figures_read_as_printed():
    main, divergences, *_ = figures.published()
    assert len(main.data["rows"]) == 32
    for *_, spider, bird, dk, realistic, syn, average in main.data["rows"]:
        ten = [float(v) for cell in (spider, bird, dk, realistic, syn) for v in cell.split("/")]
        assert math.fsum(ten) / 10 == pytest.approx(average, abs=0.011)
    assert divergences.data["rows"][0] == ["FKD", 57.3, 57.4, 57.3]
