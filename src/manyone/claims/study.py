"""A study: everything that a report shows of one field, in memory and in a folder; and several of them as one report.

Folder of a study: ``results.jsonl`` (rows), ``claims.toml`` (a copy of the claims that were tested) and ``study.json``
(the rest). Folder of a report: one such folder for each field, and a ``study.json`` that lists them.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from dataclasses import field as dataclass_field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

from manyone.claims.claims import Claims, Finding, Passage, assess, passages
from manyone.claims.figure import Figure, read_json
from manyone.claims.file import parse_claims
from manyone.claims.rows import Results, Row, load_rows
from manyone.errors import ManyoneError
from manyone.fields import FIELDS

__all__ = ["Figure", "Job", "Report", "Study", "SuiteInfo", "TaskInfo"]


class Job(NamedTuple):
    """One part of the work for one suite and seed; a study module says what its parts are."""

    suite: str
    seed: int
    part: str

    @property
    def file(self) -> str:
        """The stem of the job's files: ``<suite>-<seed>-<part>``."""
        return f"{self.suite}-{self.seed}-{self.part}"

    def __str__(self) -> str:
        return f"{self.suite} seed {self.seed}, {self.part}"


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
class Study:
    """One field's content of a report page; empty parts leave no trace on the page."""

    title: str
    scale: str
    rows: Sequence[Row]
    claims_text: str = ""
    suites: Sequence[SuiteInfo] = ()
    configs: Mapping[str, Any] = dataclass_field(default_factory=dict)
    commands: Sequence[str] = ()
    environment: Mapping[str, str] = dataclass_field(default_factory=dict)
    notes: Sequence[str] = ()
    made: str = ""
    figures: Sequence[Figure] = ()
    field: str = ""
    chosen: Sequence[str] = ()
    """The suites that were asked for; none: all that the claims name."""
    seconds: float | None = None
    """How long the runs took that made the rows, together, whichever commands began them; None: not known."""

    @property
    def short(self) -> str:
        """What contents and tables call the study: the field's own short name, or what there is in its place."""
        return self.claims.short or self.field.replace("-", " ").capitalize() or self.title

    @cached_property
    def results(self) -> Results:
        """The rows with look-up."""
        return Results(self.rows, self.claims.score)

    @cached_property
    def claims(self) -> Claims:
        """The parsed claims; an empty set when no claims are given."""
        return parse_claims(self.claims_text, "claims") if self.claims_text else Claims()

    def findings(self) -> list[Finding]:
        """Every claim tested at the study's scale, on the suites of ``chosen`` where only they were asked for."""
        found = assess(self.claims, self.results, self.scale)
        return [one for one in found if not self.chosen or one.suite in self.chosen]

    def passages(self) -> list[Passage]:
        """Every gate on every suite that was measured and where a claim needs it."""
        found = passages(self.claims, self.results, self.scale)
        return [one for one in found if not self.chosen or one.suite in self.chosen]

    def save(self, folder: Path) -> None:
        """Writes ``study.json``, ``claims.toml`` and ``results.jsonl``."""
        rest = {
            "format": 3,
            "title": self.title,
            "scale": self.scale,
            "suites": [asdict(s) for s in self.suites],
            "configs": dict(self.configs),
            "commands": list(self.commands),
            "environment": dict(self.environment),
            "notes": list(self.notes),
            "made": self.made,
            "field": self.field,
            "chosen": list(self.chosen),
            "seconds": self.seconds,
            "figures": [f.to_json() for f in self.figures],
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
        rest = _json(path)
        if "fields" in rest:
            fields = ", ".join(rest["fields"])
            raise ManyoneError(f"{folder}: holds a report on {fields}: name one of these folders in it")
        try:
            claims_text = (folder / "claims.toml").read_text(encoding="utf-8")
        except OSError as error:
            raise ManyoneError(f"{error.filename}: cannot read the study: {error.strerror}") from error
        try:
            study = Study(
                title=rest["title"],
                scale=rest["scale"],
                rows=load_rows(folder / "results.jsonl"),
                claims_text=claims_text,
                suites=[
                    SuiteInfo(s["name"], s["kind"], tuple(TaskInfo(**t) for t in s["tasks"]), tuple(s["notes"]))
                    for s in rest["suites"]
                ],
                configs=rest["configs"],
                commands=rest["commands"],
                environment=rest["environment"],
                notes=rest["notes"],
                made=rest["made"],
                field=rest.get("field", "merging"),  # format 1 knew one field
                figures=[Figure.from_json(f, str(path)) for f in rest.get("figures", ())],
                chosen=rest.get("chosen", ()),
                seconds=None if rest.get("seconds") is None else float(rest["seconds"]),
            )
            return study if rest.get("format", 1) >= 3 else _with_former_figures(study, rest.get("curves", ()))
        except (KeyError, TypeError, ValueError) as error:
            raise ManyoneError(f"{path}: not a study of this version: {error}") from error


@dataclass(frozen=True)
class Report:
    """One page about several fields, a chapter each; with one study the page is that study's alone."""

    title: str
    studies: tuple[Study, ...]

    def save(self, folder: Path) -> None:
        """Writes every study into ``folder/<field>`` and ``study.json``, which lists them in order."""
        for study in self.studies:
            study.save(folder / study.field)
        rest = {"format": 2, "title": self.title, "fields": [s.field for s in self.studies]}
        try:
            (folder / "study.json").write_text(json.dumps(rest, ensure_ascii=False) + "\n", encoding="utf-8")
        except OSError as error:
            raise ManyoneError(f"{folder}: cannot write the study: {error.strerror or error}") from error

    @staticmethod
    def load(folder: Path) -> Report:
        """Reads a folder that :meth:`save` wrote, or the folder of one study."""
        rest = _json(folder / "study.json")
        if "fields" not in rest:
            study = Study.load(folder)
            return Report(study.title, (study,))
        return Report(rest["title"], tuple(Study.load(folder / field) for field in rest["fields"]))


def _with_former_figures(study: Study, curves: Sequence[Mapping[str, Any]]) -> Study:
    """A study of format 1 or 2 with what the page then drew of its rows and ``curves``, as the field draws it."""
    module = importlib.import_module(f"manyone.{study.field}.study.study") if study.field in FIELDS else None
    draw = getattr(module, "former_figures", None)
    return (
        study if draw is None else replace(study, figures=[*draw(study.results, study.claims, curves), *study.figures])
    )


def _json(path: Path) -> dict[str, Any]:
    rest = read_json(path, "the study")
    if not isinstance(rest, dict):
        raise ManyoneError(f"{path}: not a study of this version: it holds no JSON object")
    return rest
