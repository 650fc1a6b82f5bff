"""A study's own figures and its measures (metrics without a place in the other sections), ready to be set."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from manyone.claims.figure import Figure, mime
from manyone.claims.numbers import after, plain, with_interval
from manyone.claims.study import Study
from manyone.report import plots
from manyone.report.sections import entry_order, words

NARROW = 12  # most columns of a matrix that shares its line with others


def figure_sections(figures: Sequence[Figure]) -> list[dict[str, Any]]:
    """The figures under their headings, in the order in which these first appear."""
    titles = dict.fromkeys(f.section for f in figures)
    sections, taken = [], set()
    for title in titles:
        own = [f for f in figures if f.section == title]
        groups = [
            {"wide": wide, "figures": [_set(f) for f in members]}
            for wide, members in itertools.groupby(own, key=_is_wide)
        ]
        name = "figures-" + (re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-") or "more")
        number = next(k for k in itertools.count(1) if (name if k == 1 else f"{name}-{k}") not in taken)
        name = name if number == 1 else f"{name}-{number}"
        taken.add(name)
        sections.append({"id": name, "title": title, "groups": groups})
    return sections


def _is_wide(figure: Figure) -> bool:
    return figure.kind == "table" or (figure.kind == "matrix" and len(figure.data["columns"]) > NARROW)


def _set(figure: Figure) -> dict[str, Any]:
    shown: dict[str, Any] = {"kind": figure.kind, "title": figure.title, "caption": figure.caption, "key": []}
    return shown | _SETTERS[figure.kind](figure.data, figure)


def _matrix(data: Mapping[str, Any], figure: Figure) -> dict[str, Any]:
    unit = data.get("unit", "")
    known = [v for line in data["values"] for v in line if v is not None]
    low, top = min(known, default=0.0), data.get("reach") or max((abs(v) for v in known), default=1.0) or 1.0
    floor = low if low > 0 and "reach" not in data else 0.0  # all of one sign: the smallest has no shade

    def cell(v: float | None) -> dict[str, Any]:
        if v is None:
            return {"text": "", "shade": 0, "negative": False}
        shade = min(round(60 * max(abs(v) - floor, 0.0) / ((top - floor) or 1.0)), 60)
        return {"text": _short(unit, v, top), "shade": shade, "negative": v < 0}

    return {
        "columns": data["columns"],
        "rows": [(name, [cell(v) for v in line]) for name, line in zip(data["rows"], data["values"])],
        "outlined": data["columns"].index(data["outlined"]) if data.get("outlined") else -1,
    }


def _short(unit: str, v: float, top: float) -> str:
    """A matrix cell: two decimals where the largest cell has an everyday size, so that columns stay narrow."""
    if unit in ("", "count") and v == int(v) and abs(v) < 1e4:
        return plain("count", v)
    if unit == "%" or not 0.1 <= top < 10:
        return plain(unit, v)
    return f"{round(v, 2) or 0.0:.2f}".replace("-", "−")  # no −0.00


def _lines(data: Mapping[str, Any], figure: Figure) -> dict[str, Any]:
    series = data["series"]
    said = "; ".join(plots.in_words(name, c["y"]) for name, c in series.items())
    options = {k: data[k] for k in ("x_label", "y_label", "log_x", "log_y", "marks") if k in data}
    styles = plots.styles(series)
    key = [(style, name) for name, style in styles.items()] if len(series) > 1 else []
    return {"plot": plots.curves(series, f"{figure.title}: {said}", **options), "key": key}


def _bars(data: Mapping[str, Any], figure: Figure) -> dict[str, Any]:
    unit = data.get("unit", "")
    said = ", ".join(f"{n} {plain(unit, v)}{after(unit)}" for n, v in zip(data["names"], data["values"]))
    options = {k: data[k] for k in ("low", "high", "before", "unit") if k in data}
    return {"plot": plots.bars(data["names"], data["values"], f"{figure.title}: {said}", **options)}


def _image(data: Mapping[str, Any], figure: Figure) -> dict[str, Any]:
    alt = f"{figure.title}. {figure.caption}".strip()
    return {"data": data["data"], "mime": mime(data["data"]), "alt": alt, "width": int(data.get("width") or 0)}


def _table(data: Mapping[str, Any], figure: Figure) -> dict[str, Any]:
    def cell(v: Any) -> str:
        if isinstance(v, int | float) and not isinstance(v, bool):
            return plain("count" if v == int(v) and abs(v) < 1e4 else "", v)
        return "–" if v is None else str(v)

    return {"columns": data["columns"], "rows": [[cell(v) for v in line] for line in data["rows"]]}


_SETTERS = {"matrix": _matrix, "lines": _lines, "bars": _bars, "image": _image, "table": _table}


def measure_tables(study: Study) -> list[dict[str, Any]]:
    """Methods x the metrics that the claims file lists, per suite and condition, wherever rows carry them."""
    tables = []
    for suite in study.results.suites():
        for condition in study.results.conditions(suite):
            entries = entry_order(study, suite, condition)
            found = {
                (e, metric): study.results.interval(suite, *e, metric, condition)
                for e in entries
                for metric in study.claims.metrics
            }
            used = [m for m in study.claims.metrics if any(found[e, m] for e in entries)]
            rows = []
            for e in (e for e in entries if any(found[e, m] for m in used)):
                cells = ["–" if (v := found[e, m]) is None else with_interval(study.claims.unit_of(m), v) for m in used]
                rows.append({"name": study.claims.name(*e), "cells": cells})
            if rows:
                seeds = len({r.seed for r in study.results.select(suite, condition=condition)})
                columns = [_column(study, m) for m in used]
                where = "" if condition == "clean" else f", {words(condition)}"
                tables.append({"suite": suite, "condition": where, "columns": columns, "rows": rows, "seeds": seeds})
    return tables


def _column(study: Study, metric: str) -> str:
    """Label with the unit."""
    unit = after(study.claims.unit_of(metric)).strip()
    label = study.claims.metrics[metric].label
    return f"{label}, {unit}" if unit else label
