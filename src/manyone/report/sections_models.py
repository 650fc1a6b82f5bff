"""The section about costs."""

from __future__ import annotations

from typing import Any

from manyone.claims.numbers import COSTS, LABELS, plain, unit_of, with_interval
from manyone.claims.study import Study
from manyone.evaluation.intervals import Interval
from manyone.report import figures
from manyone.report.sections import entry_order, is_bound


def cost_groups(study: Study) -> list[dict[str, Any]]:
    """Costs in a table, and the score against stored parameters and against inference time."""
    score, unit = study.claims.score, study.claims.unit
    groups = []
    for suite in study.results.suites():
        entries = [e for e in entry_order(study, suite) if study.results.interval(suite, *e, score)]
        cost = {(e, c): study.results.interval(suite, *e, c) for e in entries for c in COSTS}
        used = [c for c in COSTS if any(cost[e, c] for e in entries)]
        entries = [e for e in entries if any(cost[e, c] for c in used)]
        if not entries:
            continue
        means = {e: study.results.interval(suite, *e, score) for e in entries}
        rows = [
            {
                "name": study.claims.name(*e),
                "score": with_interval(unit, means[e]),  # type: ignore[arg-type]
                "cells": ["–" if (v := cost[e, c]) is None else _cost(c, v) for c in used],
            }
            for e in entries
        ]
        worst = min((a.value for e, a in means.items() if a and not is_bound(study, e[0])), default=0.0)
        below = [e for e, a in means.items() if is_bound(study, e[0]) and a and a.value < worst]
        plots = []
        for c in ("stored_parameters", "ms_per_sample"):
            marks = [
                figures.Point(k, v.value, a.value, is_bound(study, e[0]))
                for k, e in enumerate(entries, 1)
                if e not in below and (v := cost[e, c]) is not None and v.value > 0 and (a := means[e]) is not None
            ]
            if len({m.x for m in marks}) > 1:
                title = f"{suite}: mean {score} against {LABELS[c]}, {len(marks)} methods; the table has the numbers"
                plots.append(figures.scatter(marks, f"{LABELS[c]} (log scale)", title, y_label=score, unit=unit))
        groups.append({"suite": suite, "columns": [LABELS[c] for c in used], "rows": rows, "plots": plots})
    return groups


def _cost(metric: str, value: Interval) -> str:
    if metric == "cpu_s":
        return "< 0.1" if value.value < 0.05 else f"{value.value:.1f}"
    return plain(unit_of(metric), value.value)
