"""What a run is, for its page: recipe and data, method, paper, the command that repeats it, the model and its loading;
and where its result lies among its reference points."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from manyone.claims.numbers import COUNT, plain, significant
from manyone.engine.card import loading_lines
from manyone.recipes.recipe import Label
from manyone.recipes.references import Standing, standings
from manyone.recipes.repeat import command_of
from manyone.recipes.table import RECIPES
from manyone.report.figures import place_strip
from manyone.report.record import RunRecord

_NAMED = 4  # tasks that a title names


def title_of(run: RunRecord) -> str:
    """Recipe and data: ``wemoe on mini6``."""
    data = data_of(run.options)
    return f"{run.recipe or run.name} on {data}" if data else run.recipe or run.name


def data_of(options: Mapping[str, Any]) -> str:
    """What a run works on, by the names that the options give; of places their last part. Nothing if they say none."""
    for name in ("env", "suite"):
        if options.get(name):
            return str(options[name])
    for name in ("data", "tasks", "gold", "recipe", "model"):
        value = options.get(name)
        if isinstance(value, str) and value:
            return _short(value)
        if isinstance(value, list | tuple) and value:
            names = [_short(str(one)) for one in value]
            return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")
    experts = options.get("experts")
    return f"{len(experts)} experts of {_short(str(options.get('base')))}" if isinstance(experts, list) else ""


def _short(word: str) -> str:
    name, equals, _ = word.partition("=")
    return name if equals and "/" not in name else PurePath(word.rstrip("/")).name or word


def story_of(run: RunRecord) -> dict[str, Any]:
    """Everything that the head of the page and the section on repeating say of one run."""
    recipe = RECIPES.get(run.recipe)
    home = run.path / "model"
    has_model = home.is_dir()
    return {
        "name": run.name,
        "recipe": run.recipe,
        "method": recipe.summary if recipe else "",
        "paper": run.about.papers.get(run.recipe),
        "command": command_of(run.recipe, run.options) or "",
        "model": str(home) if has_model else "",
        "loading": "\n".join(loading_lines(home)) if has_model else "",
    }


def heading(label: Label) -> str:
    """The label with its unit."""
    return label.text if label.unit in ("", COUNT) else f"{label.text}, {label.unit}"


def cell(label: Label, value: float | None) -> str:
    """A value in the label's unit, without it."""
    if value is None:
        return "–"
    return plain(label.unit, value) if label.unit in ("%", COUNT) else significant(value, 4)


def places_of(names: Sequence[str], runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """For each metric that reference points have: a strip a run, and the points that it has in common."""
    found: dict[str, list[tuple[str, RunRecord, Standing]]] = {}
    for name, run in zip(names, runs):
        for one in standings(run.references, run.final):
            found.setdefault(one.metric, []).append((name, run, one))
    return [_place(metric, rows) for metric, rows in found.items()]


def _place(metric: str, rows: Sequence[tuple[str, RunRecord, Standing]]) -> dict[str, Any]:
    label = rows[0][1].about.label(metric)
    every = [v for _, _, one in rows for v in (one.value, *(p.metrics[metric] for p in one.points))]
    low, high = min(every), max(every)
    points = [_points(label, one) for _, _, one in rows]
    common = all(one == points[0] for one in points)
    shown = []
    for (name, _, one), own in zip(rows, points):
        marks = [(point.name, point.metrics[metric], bool(point.end)) for point in one.points]
        said = f"{heading(label)}: {name} {cell(label, one.value)}; " + ", ".join(f"{n} {v}" for n, v in own)
        shown.append({
            "name": name if len(rows) > 1 else "this run", "value": cell(label, one.value), "words": one.words,
            "strip": place_strip(one.value, marks, low, high, said), "points": [] if common else own,
        })  # fmt: skip
    return {"title": heading(label), "raw": metric, "rows": shown, "points": points[0] if common else []}


def _points(label: Label, one: Standing) -> list[tuple[str, str]]:
    """The points and their values, the worst first."""
    ordered = sorted(one.points, key=lambda point: point.metrics[one.metric], reverse=label.better == "less")
    return [(point.name, cell(label, point.metrics[one.metric])) for point in ordered]


def unmeasured(runs: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """The points that were not measured, and how to get them."""
    return list(dict.fromkeys((point.name, point.how) for run in runs for point in run.references if point.how))
