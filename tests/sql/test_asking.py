"""From a question to an answer, with a model of two layers that knows five answers by heart."""

import json
from dataclasses import replace

import pytest
import torch

from manyone.data.sql.sandbox import Limits, Outcome
from manyone.errors import ManyoneError
from manyone.sql.asking import Answer, Question, load, plain
from manyone.sql.databases import open_database


@pytest.fixture(scope="module")
def model(tiny):
    return load(tiny)


def test_a_question_gives_sql_and_its_rows(model, music):
    found = model.ask("How many albums are there?", music, execute=True)
    assert found.sql == found.written == "SELECT COUNT(*) FROM album"
    assert found.outcome.rows == ((4,),)
    assert found.prompt.endswith("| How many albums are there?\n")
    assert model.ask("How many albums are there?", music).outcome is None


def test_several_questions_are_answered_as_one_by_one(model, music):
    questions = ["Which albums cost less than 9?", "How many albums are there?", "What are the names of all artists?"]
    together = model.ask_all([Question(q) for q in questions], music, execute=True)
    assert [a.sql for a in together] == [model.ask(q, music).sql for q in questions]
    assert [a.outcome.rows for a in together][:2] == [(("Takk", 8.0),), ((4,),)]


def test_duckdb_files_are_answered_in_their_dialect(model, duck):
    found = model.ask("How many albums are there?", duck, execute=True)
    assert found.sql == "SELECT COUNT(*) FROM album"
    assert found.outcome.rows == ((4,),)


def test_the_answer_in_another_dialect_is_run_in_the_databases_own(model, music):
    found = model.ask("Which albums cost less than 9?", music, execute=True, dialect="postgres")
    assert found.sql == "SELECT title, price FROM album WHERE price < 9"
    assert found.outcome.rows == (("Takk", 8.0),)
    with pytest.raises(ManyoneError, match="unknown SQL dialect 'postgress'; did you mean 'postgres'"):
        model.ask("How many albums are there?", music, dialect="postgress")


def test_words_that_are_no_sql_have_no_dialect_and_give_nothing(model, music):
    found = model.ask("What is the meaning of it?", music, execute=True, dialect="mysql")
    assert (found.sql, found.written) == ("", "no idea")
    assert "not one query in sqlite's SQL" in found.problem
    assert found.outcome.kind_of_error in ("error", "statement")
    assert model.ask("What is the meaning of it?", music).sql == "no idea"


def test_of_several_beams_the_first_that_runs_is_taken(model, music):
    found = model.ask("Show the year of everything.", music, beams=4, execute=True)
    greedy = model.ask("Show the year of everything.", music, execute=True)
    assert greedy.outcome.kind_of_error == "error"
    assert found.outcome.kind_of_error is None or found.sql == greedy.sql


def test_values_are_matched_and_shown_only_to_models_that_learned_with_them(model, music):
    question = "How many albums are by Sigur Ros?"
    found = model.ask(question, music)
    assert found.matched == {("artist", "name"): ["Sigur Rós"]}
    assert "Sigur Rós" not in found.prompt
    taught = load_with(model, matched=True)
    assert "artist.name = Sigur Rós" in taught.ask(question, music).prompt


def test_a_schema_is_shown_as_widely_as_the_model_learned_it(model, music):
    narrow = load_with(model, tables=1, columns=2)
    assert narrow.ask("How many albums are there?", music).prompt.count(" : ") == 1
    with pytest.raises(ManyoneError, match="tables is 0"):
        load_with(model, tables=0)


def load_with(model, **info):
    from manyone.sql.artefact import Saved
    from manyone.sql.asking import TextToSQL

    return TextToSQL(Saved(model.model, model.tokenizer, {**model.info, **info}))


def test_a_damaged_description_is_one_line(model):
    with pytest.raises(ManyoneError, match="max_input is 'many', a number of 1 or more is expected"):
        load_with(model, max_input="many")


def test_what_cannot_be_asked_is_one_line(model, music, tmp_path):
    with pytest.raises(ManyoneError, match="question 1 is empty"):
        model.ask("  ", music)
    with pytest.raises(ManyoneError, match="no such database"):
        model.ask("?", tmp_path / "none.sqlite")
    with pytest.raises(ManyoneError, match="beams = 0"):
        model.ask("?", music, beams=0)


def test_limits_hold_for_what_a_model_wrote(model, music):
    with open_database(music, Limits(rows=1)) as database:
        found = model.ask("What are the names of all artists?", database, execute=True)
    assert found.outcome.truncated


def test_an_answer_as_json():
    outcome = Outcome(columns=("a", "b"), rows=((1, None), (b"\x01", float("inf"))))
    found = Answer("q", "SELECT 1", "SELECT 1", "p", {("t", "c"): ["v"]}, outcome)
    assert json.loads(json.dumps(plain(found))) == {
        "question": "q", "sql": "SELECT 1", "matched": {"t.c": ["v"]}, "columns": ["a", "b"],
        "rows": [[1, None], ["01", "inf"]]}  # fmt: skip
    assert plain(replace(found, matched={}, outcome=Outcome(error="no such column: x", kind_of_error="error"))) == {
        "question": "q", "sql": "SELECT 1", "error": "no such column: x"}  # fmt: skip


def test_asking_leaves_the_model_as_it_is(model, music):
    before = [p.clone() for p in model.model.model.parameters()]
    model.ask("How many albums are there?", music)
    assert all(torch.equal(a, b) for a, b in zip(before, model.model.model.parameters()))
