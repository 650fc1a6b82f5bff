"""Measured results as rows of JSON lines, and their aggregates over tasks and seeds.

One row is one method on one suite with one seed under one condition::

    {"suite": "images", "seed": 0, "method": "average", "variant": "", "condition": "clean",
     "task": {"mnist": 0.93, ...},              score per task, 0..1: accuracy, success rate; may be empty
     "metrics": {"trainable_parameters": 7160928, "ms_per_sample": 1.2, ...},
     "distance": {"before": {"mnist": 0.51}, "after": {"mnist": 0.22}}}

``condition`` is ``clean``, the name of a corruption, or ``unseen`` (tasks that were not merged). ``variant`` is empty
or words joined by ``+``. Every further object (``distance`` here) is a *detail*: what the field's own figures are drawn
from, under a name of the field's choice. Numbers by task in a detail are a metric, their mean: ``distance.before``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyone.engine.documents import LARGEST_JSON, loads_json, read_text
from manyone.errors import ManyoneError
from manyone.evaluation.intervals import Interval, t_interval

SCORE = "accuracy"
"""What the figures per task are, unless a claims file says otherwise."""

Key = tuple[str, int, str, str, str]
_KNOWN = {"suite", "seed", "method", "variant", "condition", "task", "metrics"}


@dataclass(frozen=True)
class Row:
    """One measurement; see the module's description for the meaning of the fields."""

    suite: str
    seed: int
    method: str
    variant: str = ""
    condition: str = "clean"
    task: Mapping[str, float] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        """What makes a row unique."""
        return (self.suite, self.seed, self.method, self.variant, self.condition)

    def to_json(self) -> dict[str, Any]:
        """The row as JSON data."""
        data: dict[str, Any] = {"suite": self.suite, "seed": self.seed, "method": self.method, "variant": self.variant}
        data |= {"condition": self.condition, "task": dict(self.task), "metrics": dict(self.metrics)}
        return data | {name: dict(detail) for name, detail in self.details.items()}

    @staticmethod
    def from_json(data: Any, where: str) -> Row:
        """Checks and reads one row; ``where`` (file and line) opens every error message."""
        if not isinstance(data, dict):
            raise ManyoneError(f"{where}: a result row must be a JSON object")
        details = {k: v for k, v in data.items() if k not in _KNOWN and isinstance(v, dict)}
        if unknown := sorted(set(data) - _KNOWN - set(details)):
            raise ManyoneError(f"{where}: unknown key {unknown[0]!r} (known: {', '.join(sorted(_KNOWN))})")
        for name, kind in (("suite", str), ("seed", int), ("method", str)):
            if not isinstance(data.get(name), kind) or isinstance(data.get(name), bool):
                raise ManyoneError(f"{where}: {name!r} must be given as {kind.__name__}, got {data.get(name)!r}")
        for name in ("variant", "condition"):
            if not isinstance(data.get(name) or "", str):
                raise ManyoneError(f"{where}: {name!r} must be text, got {data[name]!r:.60}")
        row = Row(
            suite=data["suite"],
            seed=data["seed"],
            method=data["method"],
            variant=data.get("variant") or "",
            condition=data.get("condition") or "clean",
            task=_numbers(data.get("task"), f"{where}: task"),
            metrics=_numbers(data.get("metrics"), f"{where}: metrics"),
            details=details,
        )
        for task, value in row.task.items():
            if not 0.0 <= value <= 1.0:
                raise ManyoneError(f"{where}: the score of {task!r} is {value}, but it must lie in 0..1")
        return row


def _numbers(data: Any, where: str) -> dict[str, float]:
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ManyoneError(f"{where}: must be an object of numbers, got {type(data).__name__}")
    for name, value in data.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise ManyoneError(f"{where}.{name}: must be a finite number, got {value!r}")
    return dict(data)


def load_rows(path: Path) -> list[Row]:
    """Reads ``results.jsonl``; of rows with equal key the last one counts.

    A last line without its newline is what a killed process leaves behind; when it does not parse it is left out.
    """
    text = read_text(path, "results", largest=LARGEST_JSON)
    rows: dict[Key, Row] = {}
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            data = loads_json(line)
        except ValueError as error:
            if number == len(lines):
                continue
            raise ManyoneError(f"{path}:{number}: not JSON: {getattr(error, 'msg', error)}") from error
        row = Row.from_json(data, f"{path}:{number}")
        rows.pop(row.key, None)
        rows[row.key] = row
    return list(rows.values())


def keys_in(path: Path) -> set[Key]:
    """What the rows of a file that may not exist yet are about."""
    return {row.key for row in load_rows(path)} if path.exists() else set()


def append_rows(path: Path, rows: Iterable[Row]) -> None:
    """Adds rows to ``results.jsonl`` (made when missing); a cut last line is removed first."""
    text = "".join(json.dumps(row.to_json(), ensure_ascii=False, allow_nan=False) + "\n" for row in rows)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            file.seek(0)
            old = file.read()
            if old and not old.endswith(b"\n"):
                file.truncate(old.rfind(b"\n") + 1)
            file.write(text.encode())
    except OSError as error:
        raise ManyoneError(f"{path}: cannot write results: {error.strerror or error}") from error


def mean_over_tasks(row: Row) -> float:
    """Unweighted mean score over the row's tasks."""
    if not row.task:
        raise ManyoneError(f"the row {row.key} has no score per task")
    return math.fsum(row.task.values()) / len(row.task)


def metric_value(row: Row, metric: str, score: str = SCORE) -> float | None:
    """The row's value of ``metric``, or None when the row does not carry it.

    With ``score`` "accuracy", ``accuracy`` is the mean over tasks and ``accuracy.TASK`` one task. ``DETAIL.NAME`` is
    the mean over tasks of a detail's numbers; everything else is looked up in ``metrics``.
    """
    if metric == score:
        return mean_over_tasks(row) if row.task else None
    head, _, tail = metric.partition(".")
    if head == score:
        return row.task.get(tail)
    if tail and head in row.details:  # without a dot it is a metric, which may have the name of a detail
        values = _numbers(row.details[head].get(tail), f"the row {row.key}: {metric}")
        return math.fsum(values.values()) / len(values) if values else None
    return row.metrics.get(metric)


class Results:
    """Rows with look-up; order of suites, methods, tasks and conditions is the order of first appearance.

    ``score`` names the figures per task.
    """

    def __init__(self, rows: Iterable[Row], score: str = SCORE) -> None:
        self.score = score
        self.rows = {row.key: row for row in rows}
        self._by_names: dict[tuple[str | None, ...], list[Row]] = {}
        for row in self:
            self._by_names.setdefault((row.suite, row.method, row.variant, row.condition), []).append(row)

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows.values())

    def __len__(self) -> int:
        return len(self.rows)

    def select(
        self,
        suite: str | None = None,
        method: str | None = None,
        variant: str | None = None,
        condition: str | None = None,
    ) -> list[Row]:
        """Rows that agree with every name given."""
        wanted = (suite, method, variant, condition)
        if None not in wanted:
            return self._by_names.get(wanted, [])

        def agrees(r: Row) -> bool:
            return all(w in (None, h) for w, h in zip(wanted, (r.suite, r.method, r.variant, r.condition)))

        return [r for r in self if agrees(r)]

    def suites(self) -> list[str]:
        """Names of the suites."""
        return list(dict.fromkeys(r.suite for r in self))

    def entries(self, suite: str, condition: str | None = "clean") -> list[tuple[str, str]]:
        """(method, variant) pairs of a suite."""
        return list(dict.fromkeys((r.method, r.variant) for r in self.select(suite, condition=condition)))

    def conditions(self, suite: str) -> list[str]:
        """Conditions of a suite, ``clean`` first and ``unseen`` last."""
        names = dict.fromkeys(r.condition for r in self.select(suite))
        rank = {"clean": 0, "unseen": 2}
        return sorted(names, key=lambda c: rank.get(c, 1))

    def tasks(self, suite: str, condition: str = "clean") -> list[str]:
        """Task names of a suite."""
        return list(dict.fromkeys(t for r in self.select(suite, condition=condition) for t in r.task))

    def scored(self, suite: str) -> bool:
        """Whether any row of the suite has figures per task."""
        return any(r.task for r in self.select(suite))

    def seeds(self, suite: str | None = None) -> list[int]:
        """Seeds in ascending order."""
        return sorted({r.seed for r in self.select(suite)})

    def values(self, suite: str, method: str, variant: str, metric: str, condition: str = "clean") -> dict[int, float]:
        """``metric`` by seed."""
        found = {r.seed: metric_value(r, metric, self.score) for r in self.select(suite, method, variant, condition)}
        return {seed: value for seed, value in sorted(found.items()) if value is not None}

    def interval(self, suite: str, method: str, variant: str, metric: str, condition: str = "clean") -> Interval | None:
        """Mean and 95 % interval of ``metric`` over seeds, or None without rows."""
        values = self.values(suite, method, variant, metric, condition)
        return t_interval(list(values.values())) if values else None
