"""From a question to an answer: the prompt, the SQL, and, where asked for, what it gives.

    from manyone.sql import load
    model = load("runs/kid")
    found = model.ask("How many albums are there?", "chinook.sqlite", execute=True)
    found.sql, found.outcome.rows

Public names: :func:`load`, :class:`TextToSQL`, :class:`Question`, :class:`Answer`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from manyone.data.sql.records import Schema
from manyone.data.sql.sandbox import Outcome
from manyone.errors import ManyoneError
from manyone.sql import artefact
from manyone.sql.answering import answer
from manyone.sql.artefact import Saved
from manyone.sql.collate import encode_prompt
from manyone.sql.databases import Database, open_database
from manyone.sql.generation import Decoding
from manyone.sql.prompt import Matched, Style, ranked_view, render
from manyone.sql.queries import dialect as known_dialect
from manyone.sql.queries import translate
from manyone.sql.retrieval import ValueIndex
from manyone.sql.tokens import padding

_USUAL = {"max_input": 1024, "max_output": 128, "tables": 6, "columns": 10}
"""Of a model that does not say what it was trained with: KID's settings for Spider and CodeS's schema filter."""


@dataclass(frozen=True)
class Question:
    """What is asked, and what a reader must know besides the schema."""

    text: str
    evidence: str = ""


@dataclass(frozen=True)
class Answer:
    """What a model makes of a question."""

    question: str
    sql: str
    """In the dialect that was asked for; empty where the model's words have no form in it."""
    written: str
    """As the model wrote it, in SQLite's dialect."""
    prompt: str
    """What it had read."""
    matched: Matched
    """The values of the database that the question names."""
    outcome: Outcome | None = None
    """What it gave, where it was run."""
    problem: str = ""
    """Why there is no ``sql`` in the dialect."""


class TextToSQL:
    """A model that answers questions about databases in SQL."""

    def __init__(self, saved: Saved) -> None:
        self.model, self.tokenizer, self.info = saved.model, saved.tokenizer, saved.info
        if self.tokenizer.eos_token_id is None:
            raise ManyoneError("the tokenizer has no end-of-text token: answers would have no end; set one")
        self.style: Style = "compact" if self.info.get("style") == "compact" else "full"
        self.max_input, self.max_output = self._number("max_input"), self._number("max_output")
        self.tables, self.columns = self._number("tables"), self._number("columns")

    def ask(
        self,
        question: str,
        database: Database | str | os.PathLike[str],
        *,
        evidence: str = "",
        beams: int = 1,
        execute: bool = False,
        dialect: str | None = None,
    ) -> Answer:
        """The answer to one question, see :meth:`ask_all`."""
        return self.ask_all([Question(question, evidence)], database, beams=beams, execute=execute, dialect=dialect)[0]

    def ask_all(
        self,
        questions: Sequence[Question],
        database: Database | str | os.PathLike[str],
        *,
        beams: int = 1,
        execute: bool = False,
        dialect: str | None = None,
    ) -> list[Answer]:
        """The answers to several questions about one database (a SQLite or DuckDB file, or one that is open).

        Greedy decoding; with ``beams`` above 1 the first of so many that runs without an error. ``execute`` runs the
        answer, read-only and guarded, in the database's own dialect. ``dialect`` is that of ``Answer.sql`` (default:
        the database's). ``ManyoneError`` for a file that is no database, one without a table, an empty question, and
        a dialect that sqlglot lacks.
        """
        for number, question in enumerate(questions):
            if not isinstance(question.text, str):
                raise ManyoneError(f"question {number + 1} is {question.text!r}: give a text (ask_all takes several)")
            if not question.text.strip():
                raise ManyoneError(f"question {number + 1} is empty: ask something")
        if beams < 1:
            raise ManyoneError(f"beams = {beams}: must be 1 or more")
        wanted = None if dialect is None else known_dialect(dialect)
        with contextlib.ExitStack() as stack:
            if not isinstance(database, Database):
                database = stack.enter_context(open_database(Path(database)))
            schema = database.schema()
            index = stack.enter_context(ValueIndex.open(database))
            matched = [index.match(q.text) for q in questions]
            prompts = [self.prompt(schema, q, m) for q, m in zip(questions, matched, strict=True)]
            texts = self._written(prompts, beams, database, schema)
            return [
                self._answer(q.text, text, prompt, m, database, schema, wanted or database.dialect, execute)
                for q, text, prompt, m in zip(questions, texts, prompts, matched, strict=True)
            ]

    def prompt(self, schema: Schema, question: Question, matched: Matched) -> str:
        """What the model reads: of a wide schema the part that the question seems to be about."""
        view = ranked_view(schema, question.text, matched, tables=self.tables, columns=self.columns)
        # a model that never saw matched values is not shown any
        shown = matched if self.info.get("matched", self.style == "full") else {}
        return render(view, question.text, question.evidence, shown, style=self.style)

    def _written(self, prompts: Sequence[str], beams: int, database: Database, schema: Schema) -> list[str]:
        ids = [encode_prompt(self.tokenizer, prompt, self.max_input) for prompt in prompts]
        how = Decoding(self.tokenizer.eos_token_id, padding(self.tokenizer), self.max_output)

        def executes(_: int, sql: str) -> bool:
            own, problem = _said(sql, database.dialect, schema)
            return not problem and database.execute(own).kind_of_error is None

        return answer(self.model, self.tokenizer, ids, how, beams=beams, executes=executes)

    def _answer(
        self, question: str, text: str, prompt: str, matched: Matched, database: Database, schema: Schema, dialect: str,
        execute: bool,
    ) -> Answer:  # fmt: skip
        sql, problem = _said(text, dialect, schema)
        outcome = None
        if execute:
            own, trouble = _said(text, database.dialect, schema)
            outcome = Outcome(error=trouble, kind_of_error="statement") if trouble else database.execute(own)
        return Answer(question, sql, text, prompt, matched, outcome, problem)

    def _number(self, name: str) -> int:
        value = self.info.get(name, _USUAL[name])
        if type(value) is not int or not 1 <= value <= 1 << 20:
            raise ManyoneError(f"{artefact.DESCRIPTION}: {name} is {value!r:.40}, a number of 1 or more is expected: "
                               "save the model again")  # fmt: skip
        return value


def load(folder: str | os.PathLike[str], device: str | torch.device = "cpu") -> TextToSQL:
    """The model of a run (or its ``model`` folder), or any Hugging Face folder of a causal language model."""
    return TextToSQL(artefact.load(folder, device))


def plain(found: Answer) -> Mapping[str, Any]:
    """An answer as JSON data: question, sql, and, where it was run, columns and rows or the error."""
    row: dict[str, Any] = {"question": found.question, "sql": found.sql}
    if found.problem:
        row |= {"written": found.written, "problem": found.problem}
    if found.matched:
        row["matched"] = {f"{table}.{column}": list(values) for (table, column), values in found.matched.items()}
    if (outcome := found.outcome) is not None:
        if outcome.kind_of_error is None:
            row |= {"columns": list(outcome.columns), "rows": [[_json(v) for v in r] for r in outcome.rows]}
            if outcome.truncated:
                row["truncated"] = True
        else:
            row["error"] = outcome.error
    return row


def _json(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.hex()
    return value if not isinstance(value, float) or abs(value) < float("inf") else str(value)


def _said(sql: str, dialect: str, schema: Schema) -> tuple[str, str]:
    """``sql`` in ``dialect``, and why there is none. In SQLite's it stays as it was written, right or wrong."""
    if dialect == "sqlite":
        return sql, ""
    try:
        return translate(sql, dialect, schema), ""
    except ManyoneError as problem:
        return "", str(problem)
