"""What the page of an evaluation shows: scores by level and clause, why predictions are wrong, what all rests on."""

from __future__ import annotations

from manyone.claims.figure import Figure
from manyone.recipes.running import percent
from manyone.sql.scoring.presets import DEVIATIONS
from manyone.sql.scoring.verdicts import Scores, Verdict

_SHOWN = 60  # wrong predictions on the page, at most
_WIDE = 300  # characters of a query there


def figures_of(scores: Scores) -> list[Figure]:
    """All figures of an evaluation."""
    found = [_levels(scores), *_clauses(scores), *_reasons(scores), *_wrong(scores)]
    return [*found, _rests_on(scores), _deviations(scores), *_databases(scores)]


def _levels(scores: Scores) -> Figure:
    rows = {**scores.levels, "all": scores.interval}
    text = f"{scores.preset.name}: {scores.preset.score} with 95 % intervals; n: " + ", ".join(
        f"{level} {interval.n}" for level, interval in rows.items()
    )
    data = {"names": list(rows), "values": [i.value for i in rows.values()], "unit": "%"}
    if scores.interval.n > 1:
        ends = [[None if x != x else x for x in side] for side in zip(*((i.low, i.high) for i in rows.values()))]
        data |= {"low": ends[0], "high": ends[1]}
    return Figure("bars", scores.preset.score.capitalize(), data, text, "Score")


def _clauses(scores: Scores) -> list[Figure]:
    if not scores.clauses:
        return []
    levels = list(scores.clauses)
    clauses = list(next(iter(scores.clauses.values())))
    values = [[scores.clauses[level][clause][2] for level in levels] for clause in clauses]
    return [Figure("matrix", "F1 of the clauses", {"rows": clauses, "columns": levels, "values": values, "unit": "%"},
                   "As Spider's script averages them: 100 too where a clause never stands in either query.",
                   "Score")]  # fmt: skip


def _reasons(scores: Scores) -> list[Figure]:
    wrong = scores.reasons()
    rows = [[reason, count] for reason, count in wrong.items()]
    return [Figure("table", "Why predictions are wrong", {"columns": ["reason", "predictions"], "rows": rows},
                   section="Predictions")] if rows else []  # fmt: skip


def _wrong(scores: Scores) -> list[Figure]:
    wrong = [v for v in scores.verdicts if not v.correct]
    rows = [[v.number + 1, v.db_id, v.level, v.question, _cut(v.gold), _cut(v.predicted), v.reason]
            for v in _spread(wrong)]  # fmt: skip
    columns = ["number", "database", "level", "question", "gold", "predicted", "reason"]
    text = f"{len(rows)} of {len(wrong)}, spread over the file; all are in verdicts.jsonl."
    return (
        [Figure("table", "Wrong predictions", {"columns": columns, "rows": rows}, text, "Predictions")] if rows else []
    )


def _spread(verdicts: list[Verdict]) -> list[Verdict]:
    """At most ``_SHOWN`` of them, evenly spaced."""
    step = max(1, -(-len(verdicts) // _SHOWN))
    return verdicts[::step]


def _cut(sql: str) -> str:
    text = " ".join(sql[: 4 * _WIDE].encode("utf-8", "backslashreplace").decode().split())
    return text if len(text) <= _WIDE else text[: _WIDE - 1] + "…"


def _rests_on(scores: Scores) -> Figure:
    check = scores.gold_check
    said = "not run (--no-self-check)" if check is None else f"{check.correct} of {check.count} right"
    rows = [["gold queries as predictions", said],
            *[["gold query that fails", line] for line in (check.failed if check else ())],
            ["interval", f"{percent(scores.interval.low)} to {percent(scores.interval.high)} %"]]  # fmt: skip
    return Figure("table", "What the score rests on", {"columns": ["", "found"], "rows": rows}, section="Rules")


def _deviations(scores: Scores) -> Figure:
    rows = [[d.id, d.official, d.here, d.why] for d in DEVIATIONS if d.id in scores.deviations]
    columns = ["id", "official program", "here", "why"]
    return Figure("table", "Rules that differ", {"columns": columns, "rows": rows}, section="Rules")


def _databases(scores: Scores) -> list[Figure]:
    rows = [[name, len(digests), digests[0]] for name, digests in scores.fingerprints.items()]
    columns = ["database", "files", "SHA-256 of the first"]
    text = "Scores of the same predictions differ where these do."
    return [Figure("table", "Databases", {"columns": columns, "rows": rows}, text, "Rules")] if rows else []
