"""Sections about the models themselves: routing weights, representation bias, costs, adaptation curves."""

from __future__ import annotations

import math
from typing import Any

from manyone.claims.numbers import COSTS, LABELS, minus, plain, unit_of, with_interval
from manyone.claims.rows import Row
from manyone.claims.study import Curve, Study
from manyone.evaluation.intervals import Interval
from manyone.report import figures
from manyone.report.sections import entry_order, is_bound


def routing_grids(study: Study) -> list[dict[str, Any]]:
    """Mean routing weights per task (blocks x experts), for sample routing, mean over seeds."""
    groups = []
    for suite in study.results.suites():
        for method, variant in entry_order(study, suite):
            rows = [r for r in study.results.select(suite, method, variant, "clean") if r.routing]
            if not rows or "batch" in variant.split("+"):
                continue
            experts = list(rows[0].task)
            grids: list[dict[str, Any]] = []
            for task in rows[0].routing:
                same = [r.routing[task] for r in rows if task in r.routing and _shape(r, task) == _shape(rows[0], task)]
                blocks, width = _shape(rows[0], task)
                mean = [[math.fsum(m[b][k] for m in same) / len(same) for k in range(width)] for b in range(blocks)]
                grids.append({"task": task, "mean": mean})
            width = len(grids[0]["mean"][0])
            heads = experts if len(experts) == width else [f"expert {k + 1}" for k in range(width)]
            top = max(abs(v) for g in grids for line in g["mean"] for v in line) or 1.0
            for g in grids:
                g["blocks"] = [
                    [{"text": minus(f"{v:.2f}"), "shade": round(60 * abs(v) / top), "negative": v < 0} for v in line]
                    for line in g["mean"]
                ]
                g["own"] = heads.index(g["task"]) if g["task"] in heads else -1
            name = study.claims.name(method, variant)
            groups.append({"suite": suite, "name": name, "experts": heads, "grids": grids, "seeds": len(rows)})
    return groups


def _shape(row: Row, task: str) -> tuple[int, int]:
    return len(row.routing[task]), len(row.routing[task][0])


def bias_groups(study: Study) -> list[dict[str, Any]]:
    """Distance to the experts' features before and after, per task, mean over seeds."""
    groups = []
    for suite in study.results.suites():
        for method, variant in entry_order(study, suite):
            rows = [
                r for r in study.results.select(suite, method, variant, "clean") if {"before", "after"} <= set(r.bias)
            ]
            tasks = [t for t in (rows[0].bias["before"] if rows else {}) if all(t in r.bias["after"] for r in rows)]
            if not tasks:
                continue
            mean = {
                (when, t): math.fsum(r.bias[when].get(t, math.nan) for r in rows) / len(rows)
                for when in ("before", "after")
                for t in tasks
            }
            top = max(mean.values()) or 1.0
            lines = [_bias_line(t, mean["before", t], mean["after", t], top) for t in tasks]
            both = [math.fsum(mean[when, t] for t in tasks) / len(tasks) for when in ("before", "after")]
            lines.append(_bias_line("mean", both[0], both[1], top))
            groups.append({"suite": suite, "name": study.claims.name(method, variant), "lines": lines})
    return [{"suite": s, "figures": [g for g in groups if g["suite"] == s]} for s in {g["suite"]: 1 for g in groups}]


def _bias_line(task: str, before: float, after: float, top: float) -> dict[str, Any]:
    change = f"{100 * (after / before - 1):+.0f} %".replace("-", "−") if before else "–"
    return {
        "task": task,
        "before": plain("", before),
        "after": plain("", after),
        "change": change,
        "before_width": round(100 * before / top, 1),
        "after_width": round(100 * after / top, 1),
    }


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


def curve_groups(study: Study) -> list[dict[str, Any]]:
    """Entropy and marginal entropy over the steps of adaptation, all seeds of a method in one plot."""
    groups: dict[tuple[str, str, str], list[Curve]] = {}
    for c in study.curves:
        if c.points:
            groups.setdefault((c.suite, c.method, c.variant), []).append(c)
    result = []
    for (suite, method, variant), curves in groups.items():
        series, styles, words = {}, {}, []
        for style, name in enumerate(("entropy", "marginal_entropy")):
            for c in curves:
                line = [(float(p["step"]), float(p[name])) for p in c.points if name in p and "step" in p]
                if line:
                    label = f"{name.replace('_', ' ')}, seed {c.seed}"
                    series[label], styles[label] = line, style
                    words.append(f"{label} {figures.describe([y for _, y in line])}")
        if series:
            name = study.claims.name(method, variant)
            title = f"{name} on {suite}, in nats: " + "; ".join(words)
            plot = figures.lines(series, title, y_label="nats", styles=styles)
            fell = sorted(c.seed for c in curves if c.fell_back)
            result.append({"suite": suite, "name": name, "plot": plot, "fell_back": fell})
    return result
