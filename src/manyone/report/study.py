"""A study: everything that one report page shows, in memory and in a folder.

Folder: ``results.jsonl`` (rows), ``claims.toml`` (a copy of the claims that were tested) and ``study.json`` (the rest).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from manyone.errors import ManyoneError
from manyone.report.claims import Claims, Finding, assess, parse_claims
from manyone.report.results import Results, Row, load_rows


@dataclass(frozen=True)
class TaskInfo:
    """Where a task's data come from; sizes are numbers of samples."""

    name: str
    classes: int
    train: int
    val: int
    test: int
    source: str = ""
    licence: str = ""
    stand_in_for: str | None = None


@dataclass(frozen=True)
class SuiteInfo:
    """A suite as the report shows it; ``unseen`` names tasks that were evaluated but not merged."""

    name: str
    kind: str
    tasks: tuple[TaskInfo, ...]
    notes: tuple[str, ...] = ()

    @staticmethod
    def of(suite: Any) -> SuiteInfo:
        """From a :class:`manyone.data.tasks.Suite`."""
        tasks = [
            TaskInfo(t.name, len(t.classes), len(t.train), len(t.val), len(t.test), t.source, t.licence, t.stand_in_for)
            for t in suite.tasks
        ]
        return SuiteInfo(suite.name, suite.kind, tuple(tasks), tuple(suite.notes))


@dataclass(frozen=True)
class Curve:
    """What test-time adaptation saw: points {"step", "entropy", "marginal_entropy", ...}, entropies in nats."""

    suite: str
    seed: int
    method: str
    points: tuple[Mapping[str, float], ...]
    variant: str = ""
    fell_back: bool = False


@dataclass(frozen=True)
class Study:
    """The content of a report page; empty parts leave no trace on the page."""

    title: str
    scale: str
    rows: Sequence[Row]
    claims_text: str = ""
    suites: Sequence[SuiteInfo] = ()
    curves: Sequence[Curve] = ()
    configs: Mapping[str, Any] = field(default_factory=dict)
    commands: Sequence[str] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    made: str = ""

    @cached_property
    def results(self) -> Results:
        """The rows with look-up."""
        return Results(self.rows)

    @cached_property
    def claims(self) -> Claims:
        """The parsed claims; an empty set when no claims are given."""
        return parse_claims(self.claims_text, "claims") if self.claims_text else Claims("", (), {}, {})

    def findings(self) -> list[Finding]:
        """Every claim tested at the study's scale."""
        return assess(self.claims, self.results, self.scale)

    def save(self, folder: Path) -> None:
        """Writes ``study.json``, ``claims.toml`` and ``results.jsonl``."""
        rest = {
            "format": 1,
            "title": self.title,
            "scale": self.scale,
            "suites": [asdict(s) for s in self.suites],
            "curves": [asdict(c) for c in self.curves],
            "configs": dict(self.configs),
            "commands": list(self.commands),
            "environment": dict(self.environment),
            "notes": list(self.notes),
            "made": self.made,
        }
        rows = "".join(json.dumps(r.to_json(), ensure_ascii=False, allow_nan=False) + "\n" for r in self.rows)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "claims.toml").write_text(self.claims_text, encoding="utf-8")
            (folder / "results.jsonl").write_text(rows, encoding="utf-8")
            text = json.dumps(rest, ensure_ascii=False, indent=1, default=str)
            (folder / "study.json").write_text(text + "\n", encoding="utf-8")
        except OSError as error:
            raise ManyoneError(f"{folder}: cannot write the study: {error.strerror or error}") from error

    @staticmethod
    def load(folder: Path) -> Study:
        """Reads a folder that :meth:`save` wrote."""
        path = folder / "study.json"
        try:
            rest = json.loads(path.read_text(encoding="utf-8"))
            claims_text = (folder / "claims.toml").read_text(encoding="utf-8")
        except OSError as error:
            raise ManyoneError(f"{error.filename}: cannot read the study: {error.strerror}") from error
        except json.JSONDecodeError as error:
            raise ManyoneError(f"{path}: not JSON: {error.msg}") from error
        try:
            return Study(
                title=rest["title"],
                scale=rest["scale"],
                rows=load_rows(folder / "results.jsonl"),
                claims_text=claims_text,
                suites=[
                    SuiteInfo(s["name"], s["kind"], tuple(TaskInfo(**t) for t in s["tasks"]), tuple(s["notes"]))
                    for s in rest["suites"]
                ],
                curves=[Curve(**(c | {"points": tuple(c["points"])})) for c in rest["curves"]],
                configs=rest["configs"],
                commands=rest["commands"],
                environment=rest["environment"],
                notes=rest["notes"],
                made=rest["made"],
            )
        except (KeyError, TypeError) as error:
            raise ManyoneError(f"{path}: not a study of this version: {error}") from error
