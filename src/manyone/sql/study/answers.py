"""What a model answers to the test pairs of a study, and how right that is: by kind of pair, hardness and clause."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from manyone.data.sql.records import Pair
from manyone.data.sql.sandbox import Outcome
from manyone.sql.language_model import LanguageModel
from manyone.sql.recipes.problem import SQLProblem
from manyone.sql.recipes.scores import EX, TS, Judge
from manyone.sql.scoring.evaluate import evaluate
from manyone.sql.scoring.matching import keywords
from manyone.sql.scoring.structure import Query, Unreadable, read_query
from manyone.sql.scoring.verdicts import UNREAD, Verdict

REAL = "spider-dev"
"""Pairs of this source are real questions; all others were generated, or are the only ones."""
CLAUSES = ("join", "where", "group", "having", "order", "limit", "like", "not", "in", "or", "except", "union",
           "intersect", "nested", "aggregate")  # fmt: skip


@dataclass(frozen=True)
class Answers:
    """One model's, in the order of the test pairs."""

    pairs: Sequence[Pair]
    ex: Sequence[Verdict]
    ts: Sequence[Verdict] | None
    """None where a database has one instance only."""
    clauses: Sequence[frozenset[str]]
    """Which of :data:`CLAUSES` each gold query has."""
    outcomes: Callable[[int], tuple[Outcome, Outcome]]
    """What prediction and gold give, by number; asked for a few."""

    def metrics(self) -> dict[str, float]:
        """``ex``, ``ts`` and ``pairs`` of generated pairs; with ``real_`` before them those of real ones."""
        found: dict[str, float] = {}
        for prefix, numbers in (("", self.numbers(False)), ("real_", self.numbers(True))):
            if not numbers:
                continue
            found[f"{prefix}pairs"] = float(len(numbers))
            found[f"{prefix}ex"] = _share(self.ex[i].correct for i in numbers)
            if self.ts is not None:
                found[f"{prefix}ts"] = _share(self.ts[i].correct for i in numbers)
        return found

    def details(self) -> dict[str, dict[str, Any]]:
        """EX of generated pairs by hardness and by clause, with the numbers of pairs."""
        numbers = self.numbers(False)
        levels: dict[str, list[int]] = {}
        clauses: dict[str, list[int]] = {}
        for i in numbers:
            if self.ex[i].level not in ("", UNREAD):
                levels.setdefault(self.ex[i].level, []).append(i)
            for clause in self.clauses[i]:
                clauses.setdefault(clause, []).append(i)
        return {
            "hardness": {name: self._of(own) for name, own in levels.items()},
            "clause": {name: self._of(clauses[name]) for name in CLAUSES if name in clauses},
        }

    def numbers(self, real: bool) -> list[int]:
        """Numbers of the real pairs, or of the others; where all are real, they are the others."""
        split = any(p.source == REAL for p in self.pairs) and any(p.source != REAL for p in self.pairs)
        if not split:
            return [] if real else list(range(len(self.pairs)))
        return [i for i, pair in enumerate(self.pairs) if (pair.source == REAL) == real]

    def _of(self, numbers: Sequence[int]) -> Mapping[str, float]:
        return {"ex": _share(self.ex[i].correct for i in numbers), "pairs": float(len(numbers))}


def answers_of(problem: SQLProblem, judge: Judge, model: LanguageModel, tokenizer: Any) -> Answers:
    """The answers of ``model`` to the pairs of ``judge``, executed and compared with gold's results."""
    pairs, data = judge.pairs, problem.data
    texts = judge.answers(model, tokenizer)

    def verdicts(preset: str) -> tuple[Verdict, ...]:
        found = evaluate(pairs, texts, data.databases, preset, judge.sandbox, schemas=data.schemas, self_check=False)
        return found.verdicts

    def outcomes(number: int) -> tuple[Outcome, Outcome]:
        file = judge.files(pairs[number])[0]
        return judge.sandbox.execute(file, texts[number]), judge.sandbox.execute(file, pairs[number].sql)

    several = all(len(judge.files(pair)) > 1 for pair in pairs)
    return Answers(pairs, verdicts(EX), verdicts(TS) if several else None,
                   [clauses_of(pair.sql, problem, pair.db_id) for pair in pairs], outcomes)  # fmt: skip


def clauses_of(sql: str, problem: SQLProblem, db_id: str) -> frozenset[str]:
    """Which of :data:`CLAUSES` a gold query has; none where it is outside of Spider's part of SQL."""
    try:
        query = read_query(sql, problem.data.schemas[db_id])
    except Unreadable:
        return frozenset()
    found = keywords(query) | ({"join"} if len(query.tables) > 1 else set())
    found |= {"aggregate"} if any(item.aggregate for item in query.select) else set()
    found |= {"nested"} if _nested(query) else set()
    return frozenset(found.intersection(CLAUSES))


def _nested(query: Query) -> bool:
    values = (v for part in (query.where, query.having, query.on) for c in part.items for v in (c.first, c.second))
    return any(isinstance(value, Query) for value in values)


def _share(found: Iterable[bool]) -> float:
    values = list(found)
    return math.fsum(values) / len(values)
