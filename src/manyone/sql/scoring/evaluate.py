"""Judges predictions against gold queries under one of the official presets.

    scores = evaluate(pairs, predictions, databases, "spider-ex", sandbox)
    scores.score, scores.interval.low, scores.interval.high

``databases`` has the SQLite files of each database: the first is the database itself, all of them are its test suite.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from manyone.data.sql.records import Pair, Schema
from manyone.data.sql.sandbox import Outcome, Sandbox, fingerprint
from manyone.errors import ManyoneError
from manyone.sql.scoring.hardness import hardness
from manyone.sql.scoring.matching import Match, Matcher
from manyone.sql.scoring.presets import PRESETS, Preset, check_official, deviations
from manyone.sql.scoring.results import same_bag, same_set
from manyone.sql.scoring.structure import Query, Unreadable, read_query
from manyone.sql.scoring.verdicts import UNREAD, GoldCheck, Scores, Verdict, scores_of
from manyone.sql.scoring.words import current_year, first_statement, spaced_comparisons, without_distinct

Databases = Mapping[str, Sequence[Path]]
Told = Callable[[str, int, int], None]
"""Is told what goes on: (part, done, of how many)."""

REPEATS = 100
"""How often VES runs each statement."""
_NAMED = 20  # gold queries that fail, named in the report


@dataclass(frozen=True)
class Rules:
    """A preset and what may be chosen about it.

    ``keep_distinct``: DISTINCT counts (Spider's ``--keep_distinct``); ``official``: ids of optional deviations that are
    undone; ``repeats`` of VES; ``self_check``: run the gold queries as predictions first.
    """

    preset: Preset
    keep_distinct: bool = False
    official: frozenset[str] = frozenset()
    repeats: int = REPEATS
    self_check: bool = True

    def gold(self, sql: str) -> str:
        """The gold query as it is run."""
        return self._statement(sql)

    def predicted(self, sql: str) -> str:
        """A prediction as it is run."""
        return self._statement(self.as_written(sql))

    def as_written(self, sql: str) -> str:
        """A prediction as it is read."""
        return sql.replace("value", "1") if self.preset.family == "spider" and "value-word" in self.official else sql

    def _statement(self, sql: str) -> str:
        if self.preset.family == "bird":
            return sql
        sql = spaced_comparisons(sql)
        if not self.keep_distinct:
            sql = without_distinct(sql)
            if "one-statement" in self.official:
                sql = first_statement(sql)
            sql = sql.rstrip("; \t\r\n")  # one semicolon or several, as where the first statement is taken
        return sql

    def same(self, predicted: Outcome, gold: Outcome, gold_sql: str) -> bool | None:
        """Whether two results are the same; None where that stays open."""
        if self.preset.family == "bird":
            return same_set(predicted.rows, gold.rows)
        return same_bag(gold.rows, predicted.rows, ordered="order by" in gold_sql.lower())


def evaluate(
    pairs: Sequence[Pair],
    predictions: Sequence[str],
    databases: Databases,
    preset: str,
    sandbox: Sandbox,
    *,
    schemas: Mapping[str, Schema] | None = None,
    difficulties: Sequence[str] | None = None,
    keep_distinct: bool = False,
    official: Collection[str] = (),
    repeats: int = REPEATS,
    self_check: bool = True,
    told: Told | None = None,
) -> Scores:
    """The scores of ``predictions``, one for each of ``pairs``, in their order.

    ``schemas`` are needed for ``spider-em`` and give Spider's levels to the other presets of Spider; ``difficulties``
    are BIRD's, one for each pair. See :class:`Rules` for the rest. Raises ``ManyoneError`` when the numbers differ, a
    database or schema is missing, or (Spider) a gold query fails.
    """
    if preset not in PRESETS:
        raise ManyoneError(f"preset {preset!r}: must be one of {', '.join(PRESETS)}")
    rules = Rules(PRESETS[preset], keep_distinct, check_official(official), repeats, self_check)
    if not pairs:
        raise ManyoneError("no gold queries: nothing to score")
    if len(predictions) != len(pairs):
        raise ManyoneError(f"{len(predictions)} predictions for {len(pairs)} gold queries: give one for each, in order")
    if difficulties is not None and len(difficulties) != len(pairs):
        raise ManyoneError(f"{len(difficulties)} difficulties for {len(pairs)} gold queries: give one for each")
    used = dict.fromkeys(pair.db_id for pair in pairs)
    if rules.preset.executes:
        _check(used, databases, "database", "give the folder that has it")
    if preset == "spider-em":
        _check(used, schemas or {}, "schema", "give tables.json or the databases")
    suites = {name: _suite(databases[name], preset) for name in used if databases.get(name)}  # exact match needs none
    reader = Reader(schemas or {}, scoped="alias-scope" not in rules.official)
    levels = difficulties or [reader.level(pair) if rules.preset.family == "spider" else "" for pair in pairs]
    tell = told or _quiet
    prints: dict[str, tuple[str, ...]] = {}
    for name, suite in suites.items():
        prints[name] = tuple(fingerprint(path) for path in suite)
        tell("fingerprints of databases", len(prints), len(suites))
    if preset == "spider-em":
        check, verdicts = _matched(pairs, predictions, rules, reader, tell)
    else:
        check, verdicts = Execution(pairs, predictions, suites, rules, sandbox, tell).run()
    levelled = [replace(v, level=level) for v, level in zip(verdicts, levels)]
    return scores_of(rules.preset, levelled, check, prints, [d.id for d in deviations(preset, rules.official)])


def failing_golds(
    pairs: Sequence[Pair], databases: Databases, sandbox: Sandbox, told: Told | None = None
) -> dict[int, str]:
    """Number of each pair whose gold query fails on a file of its database -> which query, and why.

    Under Spider's rules such a pair stops an evaluation; this tells before anything long begins.
    """
    _check(dict.fromkeys(pair.db_id for pair in pairs), databases, "database", "give the folder that has it")
    rules = Rules(PRESETS["spider-ts"])
    return Execution(pairs, [""] * len(pairs), databases, rules, sandbox, told or _quiet).failing()


def _quiet(part: str, done: int, total: int) -> None:
    """Tells nobody."""


def _check(names: Collection[str], known: Mapping[str, object], what: str, advice: str) -> None:
    for name in names:
        if not known.get(name):
            raise ManyoneError(f"no {what} for {name!r}: {advice}")


def _suite(files: Sequence[Path], preset: str) -> list[Path]:
    return list(files) if preset == "spider-ts" else list(files[:1])


# --- exact match ------------------------------------------------------------------------------------------------------


class Reader:
    """Reads queries in Spider's terms, each gold query once."""

    def __init__(self, schemas: Mapping[str, Schema], *, scoped: bool) -> None:
        self.schemas, self.scoped = schemas, scoped
        self._found: dict[tuple[str, str], Query | None] = {}

    def read(self, db_id: str, sql: str) -> Query | None:
        """The query, or None where it is outside of Spider's part of SQL."""
        key = db_id, sql
        if key not in self._found:
            try:
                self._found[key] = read_query(sql, self.schemas[db_id], scoped=self.scoped)
            except Unreadable:
                self._found[key] = None
        return self._found[key]

    def level(self, pair: Pair) -> str:
        """The gold query's level; empty without a schema."""
        if pair.db_id not in self.schemas:
            return ""
        query = self.read(pair.db_id, pair.sql)
        return UNREAD if query is None else hardness(query)


_LONGEST = 20_000  # characters of a prediction that is read for exact match


def _matched(
    pairs: Sequence[Pair], predictions: Sequence[str], rules: Rules, reader: Reader, tell: Told
) -> tuple[GoldCheck | None, list[Verdict]]:
    matchers = {name: Matcher(schema) for name, schema in reader.schemas.items()}
    verdicts = []
    failed = []
    for number, (pair, predicted) in enumerate(zip(pairs, predictions)):
        gold = reader.read(pair.db_id, pair.sql)
        text = rules.as_written(predicted)
        query = reader.read(pair.db_id, text) if len(text) <= _LONGEST else None
        if gold is None:
            failed.append(_named(number, pair, "outside of Spider's part of SQL"))
            match, reason = None, "gold unread"
        else:
            match = matchers[pair.db_id](query or Query(), gold)
            reason = "" if match.exact else "unread" if query is None else _differs(match)
        correct = match is not None and match.exact
        verdicts.append(Verdict(number, pair.db_id, pair.question, pair.sql, predicted, correct, reason,
                                float(correct), match=match))  # fmt: skip
        tell("queries compared", number + 1, len(pairs))
    check = GoldCheck(len(pairs), len(pairs) - len(failed), tuple(failed[:_NAMED])) if rules.self_check else None
    return check, verdicts


def _differs(match: Match) -> str:
    names = [name for name, score in match.clauses.items() if not score.match] or ["tables"]
    return f"differs: {', '.join(names)}"


def _named(number: int, pair: Pair, words: str) -> str:
    sql = " ".join(pair.sql.split())
    return f"{number + 1} ({pair.db_id}): {words}: {sql if len(sql) <= 120 else sql[:119] + '…'}"


# --- execution --------------------------------------------------------------------------------------------------------


@dataclass
class _Item:
    """A pair while it is judged: ``gold`` and ``predicted`` as they are run."""

    number: int
    pair: Pair
    gold: str
    predicted: str
    files: Sequence[Path]
    correct: bool = True
    reason: str = ""
    seconds: float = 0.0


class Execution:
    """Runs gold queries and predictions and compares what they give."""

    def __init__(self, pairs: Sequence[Pair], predictions: Sequence[str], suites: Databases, rules: Rules,
                 sandbox: Sandbox, tell: Told) -> None:  # fmt: skip
        self.rules, self.sandbox, self.tell = rules, sandbox, tell
        most = sandbox.limits.sql
        self.items = []
        for number, (pair, written) in enumerate(zip(pairs, predictions)):
            predicted = self._ready(rules.predicted(written)) if len(written) <= most else written
            gold = self._ready(rules.gold(pair.sql))
            self.items.append(_Item(number, pair, gold, predicted, suites[pair.db_id]))
        self.predictions = predictions

    def _ready(self, sql: str) -> str:
        return current_year(sql) if self.rules.preset.family == "spider" else sql

    def run(self) -> tuple[GoldCheck | None, list[Verdict]]:
        """The check of the gold queries and all verdicts."""
        check = self.gold_check() if self.rules.self_check else None
        self.sandbox.each(self.judge, self.items, done=lambda k: self.tell("predictions", k, len(self.items)))
        verdicts = [
            Verdict(item.number, item.pair.db_id, item.pair.question, item.pair.sql, written, item.correct, item.reason,
                    self.value(item), seconds=item.seconds)
            for item, written in zip(self.items, self.predictions)
        ]  # fmt: skip
        return check, verdicts

    def gold_check(self) -> GoldCheck:
        """Runs every gold query twice: it must run, and give the same again.

        Raises ``ManyoneError`` for a preset of Spider where one fails.
        """
        jobs = list(dict.fromkeys((item.files[0], item.gold) for item in self.items))
        found = self.sandbox.each(self.twice, jobs, done=lambda k: self.tell("gold queries", k, len(jobs)))
        problems = {job: problem for job, problem in zip(jobs, found) if problem}
        failed = [_named(item.number, item.pair, problems[key]) for item in self.items
                  if (key := (item.files[0], item.gold)) in problems]  # fmt: skip
        if failed and self.rules.preset.family == "spider":
            raise ManyoneError(_failing(len(failed), failed[0]))
        return GoldCheck(len(self.items), len(self.items) - len(failed), tuple(failed[:_NAMED]))

    def failing(self) -> dict[int, str]:
        """Number -> what is wrong, of the items whose gold query fails on one of its files, run once each."""
        jobs = list(dict.fromkeys((file, item.gold) for item in self.items for file in item.files))
        found = self.sandbox.each(self.once, jobs, done=lambda k: self.tell("gold queries", k, len(jobs)))
        problems = {job: problem for job, problem in zip(jobs, found) if problem}
        return {
            item.number: _named(item.number, item.pair, f"on {file.name}: {problems[file, item.gold]}")
            for item in self.items
            for file in reversed(item.files)
            if (file, item.gold) in problems
        }

    def once(self, job: tuple[Path, str]) -> str:
        """What is wrong with a gold query; empty where nothing is. Its result is kept, since it is asked for again."""
        outcome = self.sandbox.execute(*job, keep=True)
        return "" if outcome.ok else _why(outcome)

    def twice(self, job: tuple[Path, str]) -> str:
        """What is wrong with a gold query; empty where nothing is."""
        first = self.sandbox.execute(*job)
        if not first.ok:
            return _why(first)
        digest = _digest(first)
        del first
        return "" if _digest(self.sandbox.execute(*job, keep=True)) == digest else "gives something else each time"

    def judge(self, item: _Item) -> None:
        """Compares prediction and gold on one database after the other, until they differ."""
        for file in item.files:
            gold = self.sandbox.execute(file, item.gold, keep=True)
            if not gold.ok:
                if self.rules.preset.family == "spider":
                    raise ManyoneError(_failing(1, _named(item.number, item.pair, f"on {file}: {_why(gold)}")))
                item.reason = f"gold failed: {_why(gold)}"
            else:
                predicted = self.sandbox.execute(file, item.predicted)
                item.seconds += predicted.seconds
                item.reason = self.problem(item, predicted, gold)
            if item.reason:
                item.correct = False
                return

    def problem(self, item: _Item, predicted: Outcome, gold: Outcome) -> str:
        """Why a prediction is wrong; empty where it is right."""
        if not item.predicted.strip():
            return "empty"
        if not predicted.ok:
            return _why(predicted)
        same = self.rules.same(predicted, gold, item.gold)
        if same is None:
            return "undecided: too many orders of its columns"
        return "" if same else _difference(predicted, gold)

    def value(self, item: _Item) -> float:
        """What the item adds to the score."""
        if self.rules.preset.name != "bird-ves" or not item.correct:
            return float(item.correct)
        seconds = self.sandbox.limits.seconds * self.rules.repeats
        times = self.sandbox.race(item.files[0], item.predicted, item.gold, repeats=self.rules.repeats, seconds=seconds)
        self.tell("times", item.number + 1, len(self.items))
        return efficiency([gold / predicted for predicted, gold in times if predicted > 0])


def efficiency(ratios: Sequence[float]) -> float:
    """The root of the mean ratio of times, without ratios farther than three deviations from their mean.

    0 where nothing could be timed.
    """
    if not ratios:
        return 0.0
    mean = math.fsum(ratios) / len(ratios)
    deviation = math.sqrt(math.fsum((r - mean) ** 2 for r in ratios) / len(ratios))
    kept = [r for r in ratios if abs(r - mean) < 3 * deviation] or list(ratios)  # all are equal: none is far
    return math.sqrt(math.fsum(kept) / len(kept))


def _failing(count: int, first: str) -> str:
    more = f" and {count - 1} more" if count > 1 else ""
    return f"gold query {first}{more}: gold queries must run and give the same each time; are these their databases?"


def _why(outcome: Outcome) -> str:
    if outcome.truncated:
        return "limit: more rows than allowed"
    return f"{outcome.kind_of_error}: {outcome.error}"


def _difference(predicted: Outcome, gold: Outcome) -> str:
    if len(predicted.columns) != len(gold.columns):
        return f"result: {len(predicted.columns)} columns instead of {len(gold.columns)}"
    if len(predicted.rows) != len(gold.rows):
        return f"result: {len(predicted.rows)} rows instead of {len(gold.rows)}"
    return "result: other values"


def _digest(outcome: Outcome) -> str:
    found = hashlib.sha256()
    for row in _rows(outcome):
        found.update(row)
    return found.hexdigest()


def _rows(outcome: Outcome) -> Iterator[bytes]:
    yield repr(outcome.columns).encode(errors="backslashreplace")
    for row in outcome.rows:
        yield repr(row).encode(errors="backslashreplace")
