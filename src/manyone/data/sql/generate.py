"""Honest pairs for a database: drawn by intent, put in several ways, executed, and kept only if they say something.

Candidate i of a database is a function of (seed, database, i) alone: an intent, columns and constants of real rows, the
SQL, and up to three questions that ask for it in different words. It is dropped, and the reason counted, when

    no columns    the database has nothing to fill the intent with
    error         the SQL fails or takes more steps of SQLite's machine than the limit (on every machine the same)
    empty         no row, only NULL, or a count of zero
    too long      more than 200 rows
    tie           what is asked first has an equal at the limit, so that the answer is arbitrary
    repeated      this SQL was kept before

Candidates are taken in their order until there are enough, so the number of worker processes changes nothing. Splits
are by the CRC-32 of the SQL (80 / 10 / 10 %): no SQL is in two of them, in whatever words it is asked for.
Public: ``generate``, ``Generated``, ``Question``, ``sandboxed``, ``DROPPED``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from manyone.data.sql.facts import Facts, gather
from manyone.data.sql.files import QueryError, Reader, Row, TooManyRows
from manyone.data.sql.fuzz import Draws
from manyone.data.sql.intents import Draft, draft
from manyone.data.sql.phrases import MODES, Mode, Wording
from manyone.data.sql.records import Schema
from manyone.data.sql.sandbox import Sandbox
from manyone.engine.progress import Progress
from manyone.errors import ManyoneError

VERSION = 2
"""Raised whenever other pairs are made, so that earlier ones in the cache are not read."""
MOST_ROWS = 200
"""Rows that an answer may have."""
PHRASINGS = 3
"""Questions that one SQL may get."""
OPERATIONS = 50_000_000
"""Steps of SQLite's machine that one query may take, about a second; unlike time the same on every machine."""
_SECONDS = 60.0  # for a query that hangs in one step
DROPPED = ("no columns", "error", "empty", "too long", "tie", "repeated")
"""Why a candidate is dropped."""
_CHUNK = 64
_WINDOW, _NEW = 1500, 15  # a database is exhausted where fewer than 15 of 1,500 candidates are a new SQL
_TRIES = 6  # draws of words for each question wanted

Execute = Callable[[Path, str], Sequence[Row]]
"""Runs a SELECT on a file. ``QueryError`` where it fails, ``TooManyRows`` where it gives more than ``MOST_ROWS``; what
else is wrong (the file, the sandbox) ends everything."""


def sandboxed(sandbox: Sandbox) -> Execute:
    """An ``Execute`` that runs every query in the processes of ``sandbox``."""

    def execute(path: Path, sql: str) -> Sequence[Row]:
        outcome = sandbox.execute(path, sql)
        if outcome.kind_of_error is not None:
            raise QueryError(outcome.error)
        if outcome.truncated or len(outcome.rows) > MOST_ROWS:
            raise TooManyRows(f"{path.name}: more than {MOST_ROWS} rows: {sql[:200]}")
        return outcome.rows

    return execute


@dataclass(frozen=True)
class Question:
    """A question, and how it is put in the other modes, where they change it."""

    text: str
    others: Mapping[Mode, str]


@dataclass(frozen=True)
class Kept:
    """A SQL that was kept, with its questions."""

    db_id: str
    intent: str
    sql: str
    questions: tuple[Question, ...]


@dataclass(frozen=True)
class Generated:
    """The pairs of some databases, and what became of all candidates."""

    kept: tuple[Kept, ...]
    candidates: int
    dropped: Mapping[str, int]
    exhausted: tuple[str, ...]
    """Databases that have hardly more to ask: fewer than one in a hundred candidates is new."""

    @property
    def pairs(self) -> int:
        """Questions in all."""
        return sum(len(k.questions) for k in self.kept)


@dataclass(frozen=True)
class _Tried:
    """A candidate: its questions, or why it was dropped."""

    intent: str
    sql: str
    questions: tuple[Question, ...]
    reason: str = ""


def generate(
    databases: Mapping[str, tuple[Schema, Path]],
    pairs: int,
    *,
    seed: int = 0,
    phrasings: int = PHRASINGS,
    workers: int = 1,
    robust: bool = False,
    synonyms: Mapping[str, Sequence[str]] | None = None,
    execute: Execute | None = None,
    show: bool | None = None,
) -> Generated:
    """``pairs`` questions (fewer where the databases have no more) about ``databases``, equally many about each.

    ``phrasings`` bounds the questions of one SQL. ``robust`` adds every question in the other modes, with nouns of
    ``synonyms``. ``execute`` runs the queries in the place of a guarded connection of this process. ``workers`` are
    processes; any number gives the same pairs. :class:`ManyoneError` where nothing can be asked.
    """
    if pairs < 1 or phrasings < 1 or workers < 1:
        raise ManyoneError(f"pairs {pairs}, phrasings {phrasings}, workers {workers}: each must be at least 1")
    sources = []
    for db_id, (schema, path) in databases.items():
        with Reader(path, seconds=_SECONDS, operations=4 * OPERATIONS) as reader:
            facts = gather(reader, schema, seed=seed)
        job = _Job(facts, path, seed, phrasings, tuple(MODES) if robust else (), dict(synonyms or {}), execute)
        sources.append(_Source(db_id, job, workers))
    made = 0
    with Progress("asking and answering", pairs, unit="pairs", show=show) as bar:
        while made < pairs and (left := [source for source in sources if not source.exhausted]):
            # equal shares; what one database cannot give, the others give in the next round
            share, rest = divmod(pairs - made, len(left))
            for place, source in enumerate(left):
                before = made
                for questions in source.take(share + (place < rest)):
                    made = before + questions
                    bar.update(made)
    for source in sources:
        source.close()
    if not made:
        raise ManyoneError(f"{', '.join(databases)}: nothing can be asked about so few rows; give tables with data")
    dropped = sum((source.dropped for source in sources), Counter[str]())
    return Generated(
        tuple(kept for source in sources for kept in source.kept),
        sum(source.tried for source in sources),
        {reason: dropped[reason] for reason in DROPPED if dropped[reason]},
        tuple(source.db_id for source in sources if source.exhausted),
    )


class _Source:
    """One database: its candidates in their order, what was kept of them and what became of the others."""

    def __init__(self, db_id: str, job: _Job, workers: int) -> None:
        self.db_id = db_id
        self.kept: list[Kept] = []
        self.dropped = Counter[str]()
        self.tried = 0
        self.exhausted = not job.facts.tables
        self._candidates = _in_order(job, workers)
        self._seen: set[str] = set()
        self._before = 0  # how many were kept when the window began

    def take(self, wanted: int) -> Iterator[int]:
        """Keeps candidates with ``wanted`` questions, or as many as there are; tells after each how many it has."""
        had = 0
        while had < wanted and not self.exhausted:
            one = next(self._candidates)
            self.tried += 1
            reason = one.reason or ("repeated" if one.sql in self._seen else "")
            if reason:
                self.dropped[reason] += 1
            else:
                self._seen.add(one.sql)
                self.kept.append(Kept(self.db_id, one.intent, one.sql, one.questions[: wanted - had]))
                had += len(self.kept[-1].questions)
                yield had
            if self.tried % _WINDOW == 0:
                self.exhausted = len(self.kept) - self._before < _NEW
                self._before = len(self.kept)

    def close(self) -> None:
        """No more candidates are tried."""
        self._candidates.close()


@dataclass
class _Job:
    """What trying candidates of one database needs; sent to the workers as a whole."""

    facts: Facts
    path: Path
    seed: int
    phrasings: int
    modes: tuple[Mode, ...]
    synonyms: dict[str, Sequence[str]]
    execute: Execute | None
    seen: dict[str, str] = field(default_factory=dict)
    """What became of the SQL that was tried before: a reason, or nothing where it was kept."""

    def tried(self, first: int, count: int) -> list[_Tried]:
        """Candidates ``first`` to ``first + count - 1``."""
        with Reader(self.path, seconds=_SECONDS, operations=OPERATIONS, most=MOST_ROWS) as reader:
            run: Execute = self.execute or (lambda _, sql: reader.rows(sql))
            return [self._try(number, run) for number in range(first, first + count)]

    def _try(self, number: int, run: Execute) -> _Tried:
        made = draft(self.facts, Draws(self.seed, self.facts.schema.db_id, "candidate", number))
        if made is None:
            return _Tried("", "", (), "no columns")
        if (known := self.seen.get(made.sql)) is not None:
            return _Tried(made.intent, made.sql, (), known or "repeated")
        reason = self.seen[made.sql] = self._problem(made, run)
        return _Tried(made.intent, made.sql, () if reason else self._questions(made, number), reason)

    def _problem(self, made: Draft, run: Execute) -> str:
        try:
            rows = run(self.path, made.sql)
            if not rows or all(value is None for row in rows for value in row) or (
                len(rows) == 1 and rows[0] == (0,) and "COUNT(" in made.sql
            ):  # fmt: skip
                return "empty"
            if len(rows) > MOST_ROWS:
                return "too long"
            if made.ties and _tied([row[0] for row in self._order(made, run)], made.limit):
                return "tie"
        except TooManyRows:
            return "too long"
        except QueryError:
            return "error"
        return ""

    def _order(self, made: Draft, run: Execute) -> Sequence[Row]:
        return run(self.path, f"{made.ties} LIMIT {made.limit + 1 if made.limit else MOST_ROWS}")

    def _questions(self, made: Draft, number: int) -> tuple[Question, ...]:
        found: dict[str, Question] = {}
        for turn in range(_TRIES * self.phrasings):
            if len(found) == self.phrasings:
                break
            names = (self.seed, self.facts.schema.db_id, "words", number, turn)
            text = _finished(made.say(Wording(self.facts, Draws(*names))))
            if text in found:
                continue
            others: dict[Mode, str] = {}
            for mode in self.modes:
                wording = Wording(self.facts, Draws(*names), mode, self.synonyms)
                other = _finished(made.say(wording))
                if wording.changed and other != text:
                    others[mode] = other
            found[text] = Question(text, others)
        return tuple(found.values())


def _tied(keys: Sequence[object], limit: int) -> bool:
    """Whether the last that is taken has an equal among those that are not; without a limit, whether any two are."""
    if limit == 0:
        return len(set(keys)) < len(keys)
    return len(keys) > limit and keys[limit - 1] == keys[limit]


def _finished(text: str) -> str:
    text = " ".join(text.split())
    return text[:1].upper() + text[1:]


def _in_order(job: _Job, workers: int) -> Generator[_Tried, None, None]:
    """All candidates, one after the other; with several ``workers`` some chunks are tried ahead."""
    if workers == 1:
        number = 0
        while True:
            yield from job.tried(number, _CHUNK)
            number += _CHUNK
    number = 0
    while True:
        ahead = [number + i * _CHUNK for i in range(2 * workers)]
        number = ahead[-1] + _CHUNK
        from joblib import Parallel, delayed  # here, so that the lists of data need not wait for it

        for chunk in Parallel(n_jobs=workers)(delayed(job.tried)(first, _CHUNK) for first in ahead):
            yield from chunk
