"""What the page says: every section of a study as plain data, ready to be set. An empty section is an empty list."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from manyone.evaluation.intervals import Interval, paired_difference, t_interval
from manyone.report import figures
from manyone.report.claims import Claim, Finding, Published
from manyone.report.numbers import COSTS, LABELS, difference, percent, plain, quantity, with_interval
from manyone.report.results import Row
from manyone.report.study import Curve, Study

MARKS = {"holds": "✓", "within noise": "≈", "does not hold": "✗", "not tested": "–"}
CSS = {"holds": "good", "within noise": "unsure", "does not hold": "bad", "not tested": "none"}


def entry_order(study: Study, suite: str, condition: str | None = "clean") -> list[tuple[str, str]]:
    """(method, variant) pairs of a suite in the claims file's order of methods, unknown methods before the experts."""
    rank = {name: k for k, name in enumerate(study.claims.methods)}
    bounds = [name for name, m in study.claims.methods.items() if m.role == "bound"]
    last = rank[bounds[-1]] if bounds else len(rank)
    found = study.results.entries(suite, condition)
    return sorted(found, key=lambda e: (rank.get(e[0], last - 0.5), e[1] != "", found.index(e)))


def is_bound(study: Study, method: str) -> bool:
    """Whether ``method`` is a bound (base, experts) and no merged model."""
    return method in study.claims.methods and study.claims.methods[method].role == "bound"


# --- claims -----------------------------------------------------------------------------------------------------------


def published_text(p: Published) -> str:
    """``72.2 against 68.0 % (CLIP ViT-B/32, Hugging Face checkpoints)``."""
    where = f"{p.setting}, {p.family} checkpoints" if p.family else p.setting
    memory = ", from memory" if p.from_memory else ""
    if p.left is None and p.right is None:
        return f"{p.text} ({where}{memory})"
    unit = " %" if p.unit == "%" else f" {p.unit}"
    shown = [f"{v:g}" if p.unit != "%" else f"{v:.1f}" for v in (p.left, p.right) if v is not None]
    half = "" if len(shown) == 2 else "; the other side is not quoted"
    return f"{' against '.join(shown)}{unit} ({where}{memory}{half})" + (f" {p.text}" if p.text else "")


def rule_text(claim: Claim) -> str:
    """What the verdict compares, in words."""
    unit = (lambda m: f"{100 * m:g} points") if claim.metric.startswith("accuracy") else (lambda m: f"{m:g}")
    return {
        "greater": "difference above 0",
        "less": "difference below 0",
        "at_least": f"difference at least {unit(-claim.margin) if claim.margin else '0'}".replace("-", "−"),
        "within": f"difference between −{unit(claim.margin)} and +{unit(claim.margin)}",
        "at_most_ratio": f"ratio at most {claim.ratio:g}",
        "closest_to": "nearer to the reference than every competitor",
    }[claim.comparison]


def measured_text(study: Study, f: Finding) -> str:
    """Both sides and what the rule looked at."""
    if f.estimate is None or f.left is None or f.right is None or f.rival is None:
        return f.reason
    claim, metric = f.claim, f.claim.metric
    unit = " %" if metric.startswith("accuracy") else ""
    names = study.claims.name(claim.left.method, claim.left.variant), study.claims.name(f.rival.method, f.rival.variant)
    left, right = with_interval(metric, f.left), with_interval(metric, f.right)
    if names[0] == names[1]:
        names = (f"{names[0]}, after", "before") if metric.startswith("bias") else names
    text = f"{names[0]} {left}{unit}, {names[1]} {right}{unit}"
    if claim.comparison == "at_most_ratio":
        text += f"; ratio {plain('ratio', f.estimate.value)}"
    elif claim.comparison == "closest_to":
        text += f"; nearer than the strongest competitor by {difference(metric, f.estimate)}"
    else:
        text += f"; difference {difference(metric, f.estimate)}"
    return text + (f" ({f.reason})" if f.reason else "")


def claim_rows(study: Study, found: Sequence[Finding]) -> list[dict[str, Any]]:
    """One row per claim with its findings on every suite."""
    by_claim: dict[str, list[Finding]] = {}
    for f in found:
        by_claim.setdefault(f.claim.id, []).append(f)
    reach = strip_reach(found)
    rows = []
    for claim in (c for c in study.claims.claims if c.id in by_claim):
        paper = study.claims.papers.get(claim.paper)
        gaps = [p.left - p.right for p in claim.published if p.left is not None and p.right is not None]
        rows.append(
            {
                "id": claim.id,
                "statement": claim.statement,
                "paper": paper,
                "note": claim.note,
                "rule": rule_text(claim),
                "published": [published_text(p) for p in claim.published],
                "sources": list(dict.fromkeys(p.source for p in claim.published)),
                "findings": [
                    {
                        "suite": f.suite,
                        "verdict": f.verdict,
                        "css": CSS[f.verdict],
                        "mark": MARKS[f.verdict],
                        "text": measured_text(study, f),
                        "strip": _strip(f, gaps, reach),
                    }
                    for f in by_claim[claim.id]
                ],
            }
        )
    return rows


def _has_strip(f: Finding) -> bool:
    return f.claim.metric == "accuracy" and f.claim.comparison != "at_most_ratio" and f.estimate is not None


def strip_reach(found: Sequence[Finding]) -> float:
    """End of the strips in points: covers every difference measured, and intervals up to twice as wide."""
    means = [abs(100 * f.estimate.value) for f in found if _has_strip(f) and f.estimate]
    ends = [abs(100 * e) for f in found if _has_strip(f) and f.estimate for e in (f.estimate.low, f.estimate.high)]
    widest = max(means, default=1.0)
    return figures.reach_of([widest, min(max((e for e in ends if math.isfinite(e)), default=widest), 2 * widest)])


def _strip(f: Finding, gaps: Sequence[float], reach: float) -> Any:
    if not _has_strip(f) or f.estimate is None:
        return ""
    shown = gaps if f.claim.comparison != "closest_to" else []
    return figures.interval_bar(100 * f.estimate.value, 100 * f.estimate.low, 100 * f.estimate.high, reach, shown)


def counts(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """How many tests got which verdict."""
    tally = {v: sum(f.verdict == v for f in found) for v in MARKS}
    return [{"verdict": v, "n": n, "css": CSS[v], "mark": MARKS[v]} for v, n in tally.items()]


def summary(study: Study, found: Sequence[Finding]) -> dict[str, Any]:
    """The page's opening: a sentence per suite, and the findings that need saying first."""
    lines = []
    for suite in study.results.suites():
        entries = entry_order(study, suite)
        mean = {e: study.results.interval(suite, *e, "accuracy") for e in entries}
        merged = [e for e in entries if not is_bound(study, e[0]) and mean[e] is not None]
        bounds = [e for e in entries if is_bound(study, e[0]) and mean[e] is not None]
        if not merged:
            continue
        best = max(merged, key=lambda e: mean[e].value)  # type: ignore[union-attr]
        lines.append(
            {
                "suite": suite,
                "tasks": len(study.results.tasks(suite)),
                "seeds": len(study.results.seeds(suite)),
                "best": (study.claims.name(*best), with_interval("accuracy", mean[best])),  # type: ignore[arg-type]
                "bounds": [(study.claims.name(*e), with_interval("accuracy", mean[e])) for e in bounds],  # type: ignore[arg-type]
            }
        )
    failed = [f for f in found if f.verdict == "does not hold"]
    fallen = {(r.suite, r.method, r.variant) for r in study.results if r.metrics.get("fell_back")}
    fallen |= {(c.suite, c.method, c.variant) for c in study.curves if c.fell_back}
    return {
        "suites": lines,
        "counts": counts(found),
        "tests": len(found),
        "failed": [(f.claim.statement, f.suite, f.claim.id) for f in failed],
        "missing": [(f.claim.statement, f.reason) for f in found if f.verdict == "not tested"],
        "fell_back": sorted(f"{study.claims.name(m, v)} on {suite}" for suite, m, v in fallen),
        "one_seed": [s["suite"] for s in lines if s["seeds"] == 1],
        "stand_ins": [
            f"{t.name} stands in for {t.stand_in_for} ({s.name})"
            for s in study.suites
            for t in s.tasks
            if t.stand_in_for
        ],
    }


# --- accuracy ---------------------------------------------------------------------------------------------------------


def heat_maps(study: Study) -> list[dict[str, Any]]:
    """Methods x tasks, one table per suite; shades run from a column's worst merged model to its best row."""
    tables = []
    for suite in study.results.suites():
        tasks = study.results.tasks(suite)
        entries = [e for e in entry_order(study, suite) if study.results.interval(suite, *e, "accuracy")]
        if not tasks or not entries:
            continue
        values = {
            (e, t): study.results.interval(suite, *e, "accuracy" if t is None else f"accuracy.{t}")
            for e in entries
            for t in [None, *tasks]
        }
        rows = []
        for e in entries:
            cells = []
            for t in [None, *tasks]:
                own = values[e, t]
                column = {x: v.value for x in entries if (v := values[x, t]) is not None}
                merged = [v for x, v in column.items() if not is_bound(study, x[0])]
                low, high = min(merged, default=0.0), max(column.values())
                cells.append(
                    {
                        "text": "" if own is None else percent(own.value) if t else with_interval("accuracy", own),
                        "shade": 0 if own is None else max(0, round(60 * (own.value - low) / ((high - low) or 1.0))),
                        "best": own is not None and not is_bound(study, e[0]) and own.value == max(merged, default=-1),
                    }
                )
            rows.append({"name": study.claims.name(*e), "bound": is_bound(study, e[0]), "cells": cells})
        tables.append({"suite": suite, "tasks": tasks, "rows": rows, "seeds": len(study.results.seeds(suite))})
    return tables


def condition_tables(study: Study) -> list[dict[str, Any]]:
    """Mean accuracy under every condition, for the methods that were measured under more than one."""
    tables = []
    for suite in study.results.suites():
        conditions = study.results.conditions(suite)
        if conditions in ([], ["clean"]):
            continue
        rows = []
        for e in entry_order(study, suite, None):
            found = [study.results.interval(suite, *e, "accuracy", c) for c in conditions]
            if any(v is not None for c, v in zip(conditions, found) if c != "clean"):
                cells = ["–" if v is None else with_interval("accuracy", v) for v in found]
                rows.append({"name": study.claims.name(*e), "bound": is_bound(study, e[0]), "cells": cells})
        groups: dict[tuple[str, ...], list[str]] = {}
        for c in conditions:
            groups.setdefault(tuple(study.results.tasks(suite, c)), []).append(_words(c))
        notes = [f"{', '.join(names)}: {', '.join(tasks)}" for tasks, names in groups.items()]
        tables.append({"suite": suite, "conditions": [_words(c) for c in conditions], "rows": rows, "notes": notes})
    return tables


def _words(name: str) -> str:
    return name.replace("-", " ").replace("_", " ").replace("gaussian", "Gaussian").replace("jpeg", "JPEG")


def granularity_tables(study: Study) -> list[dict[str, Any]]:
    """Routing per sample beside routing per batch (of one task, and of mixed tasks), wherever both were measured."""
    tables = []
    for suite in study.results.suites():
        rows = []
        for method, base in entry_order(study, suite, None):
            if "batch" in base.split("+"):
                continue
            for condition in study.results.conditions(suite):
                sample = study.results.values(suite, method, base, "accuracy", condition)
                cells = []
                for words in (("batch",), ("batch", "mixed")):
                    variant = "+".join([*(w for w in base.split("+") if w), *words])
                    other = study.results.values(suite, method, variant, "accuracy", condition)
                    cells.append(_beside(sample, other))
                if sample and any(cells):
                    own = with_interval("accuracy", t_interval(list(sample.values())))
                    name = study.claims.name(method, base)
                    rows.append({"name": name, "condition": _words(condition), "sample": own, "cells": cells})
        if rows:
            tables.append({"suite": suite, "rows": rows})
    return tables


def _beside(sample: Mapping[int, float], other: Mapping[int, float]) -> str:
    """Mean of ``other`` and its paired difference to ``sample``; empty when they share no seed."""
    seeds = sorted(set(sample) & set(other))
    if not seeds:
        return ""
    gap = paired_difference([other[s] for s in seeds], [sample[s] for s in seeds])
    mean = with_interval("accuracy", t_interval(list(other.values())))
    return f"{mean}; {difference('accuracy', gap)}".replace(" points", "")
        " points", ""
    )


# --- inside the models ------------------------------------------------------------------------------------------------


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
                    [
                        {"text": f"{v:.2f}".replace("-", "−"), "shade": round(60 * abs(v) / top), "negative": v < 0}
                        for v in line
                    ]
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
        "before": plain("bias", before),
        "after": plain("bias", after),
        "change": change,
        "before_width": round(100 * before / top, 1),
        "after_width": round(100 * after / top, 1),
    }


def cost_groups(study: Study) -> list[dict[str, Any]]:
    """Costs in a table, and accuracy against stored parameters and against inference time."""
    groups = []
    for suite in study.results.suites():
        entries = [e for e in entry_order(study, suite) if study.results.interval(suite, *e, "accuracy")]
        cost = {(e, c): study.results.interval(suite, *e, c) for e in entries for c in COSTS}
        used = [c for c in COSTS if any(cost[e, c] for e in entries)]
        entries = [e for e in entries if any(cost[e, c] for c in used)]
        if not entries:
            continue
        accuracy = {e: study.results.interval(suite, *e, "accuracy") for e in entries}
        rows = [
            {
                "name": study.claims.name(*e),
                "accuracy": with_interval("accuracy", accuracy[e]),  # type: ignore[arg-type]
                "cells": ["–" if (v := cost[e, c]) is None else _cost(c, v) for c in used],
            }
            for e in entries
        ]
        worst = min((a.value for e, a in accuracy.items() if a and not is_bound(study, e[0])), default=0.0)
        below = [e for e, a in accuracy.items() if is_bound(study, e[0]) and a and a.value < worst]
        plots = []
        for c in ("stored_parameters", "ms_per_sample"):
            marks = [
                figures.Point(k, v.value, a.value, is_bound(study, e[0]))
                for k, e in enumerate(entries, 1)
                if e not in below and (v := cost[e, c]) is not None and v.value > 0 and (a := accuracy[e]) is not None
            ]
            if len({m.x for m in marks}) > 1:
                title = f"{suite}: mean accuracy against {LABELS[c]}, {len(marks)} methods; the table has the numbers"
                plots.append(figures.scatter(marks, f"{LABELS[c]} (log scale)", title))
        groups.append({"suite": suite, "columns": [LABELS[c] for c in used], "rows": rows, "plots": plots})
    return groups


def _cost(metric: str, value: Interval) -> str:
    return quantity(value.value) if metric.endswith("parameters") else plain(metric, value.value)


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
                    label = f"{_words(name)}, seed {c.seed}"
                    series[label], styles[label] = line, style
                    words.append(f"{label} {figures.describe([y for _, y in line])}")
        if series:
            name = study.claims.name(method, variant)
            title = f"{name} on {suite}, in nats: " + "; ".join(words)
            plot = figures.lines(series, title, y_label="nats", styles=styles)
            fell = sorted(c.seed for c in curves if c.fell_back)
            result.append({"suite": suite, "name": name, "plot": plot, "fell_back": fell})
    return result


def flatten(config: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested configuration as (dotted name, value) pairs."""
    if isinstance(config, Mapping):
        return [pair for k, v in config.items() for pair in flatten(v, f"{prefix}.{k}" if prefix else str(k))]
    if isinstance(config, list | tuple):
        return [(prefix, ", ".join(str(v) for v in config) or "none")]
    return [(prefix, "none" if config is None else str(config))]
