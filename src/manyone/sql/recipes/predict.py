"""``manyone predict`` for text-to-SQL: questions in; SQL, and what it gives, out."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from manyone.data.sql.sandbox import Limits, Outcome
from manyone.engine.devices import device_of
from manyone.errors import ManyoneError
from manyone.recipes.predictions import Predictions
from manyone.sql.asking import Answer, Question, load, plain
from manyone.sql.databases import open_database
from manyone.sql.queries import dialect

_LARGEST = 64 << 20  # bytes of a file of questions
_SHOWN = 20  # rows of a result on the screen


def predict(folder: Path, parsed: argparse.Namespace) -> Predictions:
    """The answers to the question or questions that ``parsed`` gives."""
    if parsed.db is None:
        raise ManyoneError("give the database that the question is about: --db FILE")
    if parsed.beams < 1:
        raise ManyoneError(f"--beams {parsed.beams}: must be at least 1")
    if (parsed.question is None) == (parsed.questions is None):
        raise ManyoneError("give either a question, in quotes, or --questions FILE")
    if parsed.questions is not None and parsed.evidence:
        raise ManyoneError("--evidence goes with one question; in a file of questions each line has its own")
    if parsed.dialect is not None:
        dialect(parsed.dialect)
    if parsed.questions is None:
        questions = [Question(parsed.question, parsed.evidence)]
    else:
        questions = read_questions(parsed.questions)
    with open_database(parsed.db, Limits(seconds=parsed.seconds)) as database:
        database.schema()  # what is no database is said before the model is opened
        model = load(folder, device_of(parsed.device))
        answers = model.ask_all(questions, database, beams=parsed.beams, execute=parsed.execute, dialect=parsed.dialect)
    rows = [plain(one) for one in answers]
    if parsed.questions is not None:
        return Predictions(rows, "jsonl", ["".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)[:-1]])
    shown, failed = _shown(answers[0])
    return Predictions(rows, "jsonl", shown, failed)


def read_questions(path: Path) -> list[Question]:
    """The questions of a file: JSON lines with ``question`` (and ``evidence``), or plain lines; empty ones are left
    out. ``ManyoneError`` names the line that is neither."""
    try:
        if path.stat().st_size > _LARGEST:
            raise ManyoneError(f"{path}: more than {_LARGEST >> 20} MB of questions, which is refused: split the file")
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManyoneError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    found = [_question(line, f"{path}, line {number}") for number, line in enumerate(lines, 1) if line.strip()]
    if not found:
        raise ManyoneError(f"{path}: no question in it")
    return found


def _question(line: str, where: str) -> Question:
    if not line.lstrip().startswith("{"):
        return Question(line.strip())
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ManyoneError(f'{where}: not JSON ({error}): write {{"question": "..."}}, or plain text') from None
    question, evidence = row.get("question"), row.get("evidence") or ""
    if not isinstance(question, str) or not question.strip() or not isinstance(evidence, str):
        raise ManyoneError(f'{where}: no question in it: write {{"question": "...", "evidence": "..."}}')
    return Question(question, evidence)


def _shown(found: Answer) -> tuple[list[Any], str]:
    """What is printed for one answer, and what went wrong."""
    if found.problem:
        return [printable(found.written)], printable(found.problem)
    shown: list[Any] = [printable(found.sql)]
    if found.outcome is None:
        return shown, ""
    if found.outcome.kind_of_error is not None:
        return shown, f"it gives nothing: {printable(found.outcome.error)}"
    return [*shown, *_table(found.outcome)], ""


def _table(outcome: Outcome) -> list[Any]:
    rows: Sequence[Mapping[str, str]] = [
        dict(zip(_names(outcome.columns), map(_cell, row), strict=True)) for row in outcome.rows[:_SHOWN]
    ]
    number = len(outcome.rows)
    if outcome.truncated:
        return [rows, "... more rows than are kept: add a LIMIT"] if rows else ["more rows than are kept: add a LIMIT"]
    if not rows:
        return ["no rows"]
    return [rows, f"... {number} rows in all: --out FILE.jsonl writes them"] if number > _SHOWN else [rows]


def _names(columns: Sequence[str]) -> list[str]:
    """The columns' names, those that come again with a number."""
    names: list[str] = []
    for column in map(printable, columns):
        number = sum(name.split(" (")[0] == column for name in names)
        names.append(f"{column} ({number + 1})" if number else column)
    return names


def _cell(value: Any) -> str:
    if value is None:
        return "NULL"
    return f"x'{value[:40].hex()}'" if isinstance(value, bytes) else printable(str(value))


def printable(text: str) -> str:
    """``text`` without what a terminal would obey."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
