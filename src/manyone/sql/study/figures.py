"""What the text-to-SQL study draws: right answers by hardness and clause, errors that add up, cost against accuracy."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from manyone.claims.figure import Figure
from manyone.claims.rows import Row, load_rows
from manyone.data.sql.sandbox import Outcome
from manyone.sql.scoring.hardness import LEVELS
from manyone.sql.study.answers import CLAUSES, Answers

SECTION = "Text-to-SQL"
PUBLISHED = Path(__file__).with_name("published.toml")
_WRONG = 10  # predictions side by side with gold
_ROWS, _CELLS = 3, 60  # of a result in that table: rows, and characters
Name = tuple[str, str]
"""Method and variant."""


def rows_of(paths: Iterable[Path]) -> list[Row]:
    """The rows of those files that are there."""
    return [row for path in paths if path.exists() for row in load_rows(path)]


def of_suite(suite: str, rows: Sequence[Row]) -> list[Figure]:
    """All figures for which there are rows."""
    arms: dict[Name, list[Row]] = {}
    for row in rows:
        if row.condition == "clean":
            arms.setdefault((row.method, row.variant), []).append(row)
    drawn = [
        _by(suite, arms, "hardness", LEVELS, "EX by hardness", "Share of generated test questions answered right, by "
            "how hard Spider's rules call the gold query; mean over seeds."),
        _by(suite, arms, "clause", CLAUSES, "EX by clause", "Share of generated test questions answered right among "
            "those whose gold query has the clause; mean over seeds."),
        _exposure(suite, arms),
        _rewriting(suite, arms),
        _cost(suite, arms),
    ]  # fmt: skip
    return [figure for figure in drawn if figure is not None]


def _by(
    suite: str, arms: Mapping[Name, Sequence[Row]], detail: str, order: Sequence[str], title: str, caption: str
) -> Figure | None:
    found = {_name(arm): _means(own, lambda row: {k: v["ex"] for k, v in row.details.get(detail, {}).items()})
             for arm, own in arms.items()}  # fmt: skip
    found = {name: values for name, values in found.items() if values}
    columns = [name for name in order if any(name in values for values in found.values())]
    if not columns:
        return None
    data = {"rows": list(found), "columns": columns, "unit": "%",
            "values": [[values.get(column) for column in columns] for values in found.values()]}  # fmt: skip
    return Figure("matrix", f"{suite}: {title}", data, caption, SECTION)


def _exposure(suite: str, arms: Mapping[Name, Sequence[Row]]) -> Figure | None:
    series = {}
    for arm, own in arms.items():
        curves = [row.details["exposure"]["percent"] for row in own if "exposure" in row.details]
        length = min(map(len, curves), default=0)
        if length:
            means = [math.fsum(curve[i] for curve in curves) / len(curves) for i in range(length)]
            series[_name(arm)] = {"x": list(range(1, length + 1)), "y": means}
    if not series:
        return None
    data = {"series": series, "x_label": "tokens of the answer", "y_label": "ExAccErr (%)"}
    caption = (
        "Excess accumulated error up to each length, mean over seeds: how much more a student errs behind its own "
        "words than behind the teacher's."
    )
    return Figure("lines", f"{suite}: excess accumulated error", data, caption, SECTION)


def _rewriting(suite: str, arms: Mapping[Name, Sequence[Row]]) -> Figure | None:
    series = {}
    for arm, own in arms.items():
        found = _means(own, lambda row: {int(k): v for k, v in _training(row).items()})
        if found:
            series[_name(arm)] = {"x": sorted(found), "y": [100 * found[x] for x in sorted(found)]}
    if not series:
        return None
    data = {"series": series, "x_label": "step", "y_label": "rewritten tokens that differ from gold (%)"}
    caption = "Share of the chosen tokens that the student really changes: the imperfection dries up as it learns."
    return Figure("lines", f"{suite}: rewriting error", data, caption, SECTION)


def _training(row: Row) -> Mapping[str, float]:
    found: Mapping[str, float] = row.details.get("training", {}).get("rewrite_error", {})
    return found


def _cost(suite: str, arms: Mapping[Name, Sequence[Row]]) -> Figure | None:
    series = {}
    for arm, own in arms.items():
        timed = [row.metrics for row in own if "cpu_s" in row.metrics]
        if timed:
            seconds, right = (math.fsum(m[name] for m in timed) / len(timed) for name in ("cpu_s", "ex"))
            series[_name(arm)] = {"x": [seconds], "y": [100 * right]}
    if not series:
        return None
    marks = [{"x": curve["x"][0], "y": curve["y"][0], "label": name} for name, curve in series.items()]
    data = {"series": series, "x_label": "processor seconds of the training", "y_label": "EX (%)", "marks": marks}
    caption = "What the training took, as measured, against right answers; mean over seeds."
    return Figure("lines", f"{suite}: cost against accuracy", data, caption, SECTION)


def wrong_answers(suite: str, answers: Answers) -> list[Figure]:
    """Ten wrong predictions with gold and both results, as different in their questions as the list allows."""
    wrong = [i for i in answers.numbers(False) if not answers.ex[i].correct]
    if not wrong:
        return []
    chosen = [wrong[k * len(wrong) // min(_WRONG, len(wrong))] for k in range(min(_WRONG, len(wrong)))]
    rows = []
    for i in chosen:
        verdict = answers.ex[i]
        predicted, gold = answers.outcomes(i)
        rows.append([verdict.db_id, verdict.question, verdict.gold, verdict.predicted, _result(gold),
                     _result(predicted), verdict.reason])  # fmt: skip
    data = {"columns": ["database", "question", "gold", "prediction", "gold gives", "prediction gives", "why wrong"],
            "rows": rows}  # fmt: skip
    caption = f"{len(rows)} of {len(wrong)} wrong answers of the first seed's student, evenly from the list."
    return [Figure("table", f"{suite}: wrong answers of KID", data, caption, SECTION)]


def published() -> list[Figure]:
    """The paper's main table and its ablations, as printed."""
    found = tomllib.loads(PUBLISHED.read_text(encoding="utf-8"))
    return [Figure("table", table["title"], {"columns": table["columns"], "rows": table["rows"]}, table["caption"],
                   "Published figures") for table in found["tables"]]  # fmt: skip


def _result(outcome: Outcome) -> str:
    if outcome.kind_of_error is not None:
        return f"error: {outcome.error}"[:_CELLS]
    shown = "; ".join(", ".join("NULL" if v is None else str(v) for v in row) for row in outcome.rows[:_ROWS])
    text = shown[:_CELLS] + ("…" if len(shown) > _CELLS else "")
    more = len(outcome.rows) - _ROWS
    return (text or "no rows") + (f" … {more} more" if more > 0 else "")


def _name(arm: Name) -> str:
    return " ".join(filter(None, arm))


def _means(rows: Sequence[Row], values: Callable[[Row], Mapping[Any, float]]) -> dict[Any, float]:
    """The mean over the rows of each value that all of them have."""
    found = [own for row in rows if (own := values(row))]
    keys = [key for key in found[0] if all(key in own for own in found)] if found else []
    return {key: math.fsum(own[key] for own in found) / len(found) for key in keys}
