"""What the page says: every section of a study as plain data, ready to be set. An empty section is an empty list."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from manyone.claims.claims import Claim, Finding, Published
from manyone.claims.numbers import after, difference, plain, with_interval
from manyone.claims.study import Study
from manyone.report import figures

MARKS = {"holds": "✓", "within noise": "≈", "does not hold": "✗", "not in its regime": "○", "not tested": "–"}
CSS = {
    "holds": "good",
    "within noise": "unsure",
    "does not hold": "bad",
    "not in its regime": "none",
    "not tested": "none",
}


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


def published_text(p: Published, families: str) -> str:
    """``72.2 against 68.0 % (CLIP ViT-B/32, Hugging Face checkpoints)``."""
    where = f"{p.setting}, {p.family} {families}".rstrip() if p.family else p.setting
    memory = ", from memory" if p.from_memory else ""
    if p.left is None and p.right is None:
        return f"{p.text} ({where}{memory})"
    unit = " %" if p.unit == "%" else f" {p.unit}"
    shown = [f"{v:g}" if p.unit != "%" else f"{v:.1f}" for v in (p.left, p.right) if v is not None]
    half = "" if len(shown) == 2 else "; the other side is not quoted"
    return f"{' against '.join(shown)}{unit} ({where}{memory}{half})" + (f" {p.text}" if p.text else "")


def rule_text(study: Study, claim: Claim) -> str:
    """What the verdict compares, in words."""
    own = study.claims.unit_of(claim.metric)
    unit = (lambda m: f"{100 * m:g} points") if own == "%" else (lambda m: f"{m:g}{after(own)}")
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
    unit = study.claims.unit_of(metric)
    names = study.claims.name(claim.left.method, claim.left.variant), study.claims.name(f.rival.method, f.rival.variant)
    left, right = with_interval(unit, f.left), with_interval(unit, f.right)
    if names[0] == names[1]:
        names = (f"{names[0]}, after", "before") if metric.startswith("bias") else names
    text = f"{names[0]} {left}{after(unit)}, {names[1]} {right}{after(unit)}"
    if claim.comparison == "at_most_ratio":
        text += f"; ratio {plain('', f.estimate.value)}"
    elif claim.comparison == "closest_to":
        text += f"; nearer than the strongest competitor by {difference(unit, f.estimate)}"
    else:
        text += f"; difference {difference(unit, f.estimate)}"
    return text + (f" ({f.reason})" if f.reason else "")


def claim_rows(study: Study, found: Sequence[Finding]) -> list[dict[str, Any]]:
    """One row per claim with its findings on every suite."""
    by_claim: dict[str, list[Finding]] = {}
    for f in found:
        by_claim.setdefault(f.claim.id, []).append(f)
    reach = strip_reach(study, found)
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
                "rule": rule_text(study, claim),
                "published": [published_text(p, study.claims.families) for p in claim.published],
                "sources": list(dict.fromkeys(p.source for p in claim.published)),
                "findings": [
                    {
                        "suite": f.suite,
                        "verdict": f.verdict,
                        "css": CSS[f.verdict],
                        "mark": MARKS[f.verdict],
                        "text": measured_text(study, f),
                        "strip": _strip(study, f, gaps, reach),
                    }
                    for f in by_claim[claim.id]
                ],
            }
        )
    return rows


def _has_strip(study: Study, f: Finding) -> bool:
    in_percent = f.claim.metric == study.claims.score and study.claims.unit == "%"
    return in_percent and f.claim.comparison != "at_most_ratio" and f.estimate is not None


def has_strips(study: Study, found: Sequence[Finding]) -> bool:
    """Whether any finding is drawn as a strip."""
    return any(_has_strip(study, f) for f in found)


def strip_reach(study: Study, found: Sequence[Finding]) -> float:
    """End of the strips in points: covers every difference measured, and intervals up to twice as wide."""
    shown = [f.estimate for f in found if _has_strip(study, f) and f.estimate]
    means = [abs(100 * i.value) for i in shown]
    ends = [abs(100 * e) for i in shown for e in (i.low, i.high)]
    widest = max(means, default=1.0)
    return figures.reach_of([widest, min(max((e for e in ends if math.isfinite(e)), default=widest), 2 * widest)])


def _strip(study: Study, f: Finding, gaps: Sequence[float], reach: float) -> Any:
    if not _has_strip(study, f) or f.estimate is None:
        return ""
    shown = gaps if f.claim.comparison != "closest_to" else []
    return figures.interval_bar(100 * f.estimate.value, 100 * f.estimate.low, 100 * f.estimate.high, reach, shown)


def counts(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """How many tests got which verdict."""
    tally = {v: sum(f.verdict == v for f in found) for v in MARKS}
    return [{"verdict": v, "n": n, "css": CSS[v], "mark": MARKS[v]} for v, n in tally.items()]


def summary(study: Study, found: Sequence[Finding]) -> dict[str, Any]:
    """The opening: a sentence per suite, and the findings that need saying first."""
    score, unit = study.claims.score, study.claims.unit
    lines = []
    for suite in study.results.suites():
        entries = entry_order(study, suite)
        mean = {e: study.results.interval(suite, *e, score) for e in entries}
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
                "best": (study.claims.name(*best), with_interval(unit, mean[best])),  # type: ignore[arg-type]
                "bounds": [(study.claims.name(*e), with_interval(unit, mean[e])) for e in bounds],  # type: ignore[arg-type]
            }
        )
    failed = [f for f in found if f.verdict == "does not hold"]
    fallen = {(r.suite, r.method, r.variant) for r in study.results if r.metrics.get("fell_back")}
    return {
        "suites": lines,
        "counts": counts(found),
        "tests": len(found),
        "failed": [(f.claim.statement, f.suite, f.claim.id) for f in failed],
        "missing": [(f.claim.statement, f.reason) for f in found if f.verdict == "not tested"],
        "fell_back": sorted(f"{study.claims.name(m, v)} on {suite}" for suite, m, v in fallen),
        "one_seed": [s for s in study.results.suites() if len(study.results.seeds(s)) == 1],
        "stand_ins": [
            f"{t.name} stands in for {t.stand_in_for} ({s.name})"
            for s in study.suites
            for t in s.tasks
            if t.stand_in_for
        ],
    }


# --- scores -----------------------------------------------------------------------------------------------------------


def has_bounds(study: Study) -> bool:
    """Whether any row is a bound."""
    return any(is_bound(study, r.method) for r in study.results)


def heat_maps(study: Study) -> list[dict[str, Any]]:
    """Methods x tasks, one table per suite; shades run from a column's worst merged model to its best row."""
    score, unit = study.claims.score, study.claims.unit
    tables = []
    for suite in study.results.suites():
        tasks = study.results.tasks(suite)
        entries = [e for e in entry_order(study, suite) if study.results.interval(suite, *e, score)]
        if not tasks or not entries:
            continue
        values = {
            (e, t): study.results.interval(suite, *e, score if t is None else f"{score}.{t}")
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
                        "text": "" if own is None else plain(unit, own.value) if t else with_interval(unit, own),
                        "shade": 0 if own is None else max(0, round(60 * (own.value - low) / ((high - low) or 1.0))),
                        "best": own is not None and not is_bound(study, e[0]) and own.value == max(merged, default=-1),
                    }
                )
            rows.append({"name": study.claims.name(*e), "bound": is_bound(study, e[0]), "cells": cells})
        tables.append({"suite": suite, "tasks": tasks, "rows": rows, "seeds": len(study.results.seeds(suite))})
    return tables


def condition_tables(study: Study) -> list[dict[str, Any]]:
    """Mean score under every condition, for the methods that were measured under more than one."""
    score, unit = study.claims.score, study.claims.unit
    tables = []
    for suite in study.results.suites():
        conditions = study.results.conditions(suite)
        if not study.results.scored(suite) or conditions in ([], ["clean"]):
            continue
        rows = []
        for e in entry_order(study, suite, None):
            found = [study.results.interval(suite, *e, score, c) for c in conditions]
            if any(v is not None for c, v in zip(conditions, found) if c != "clean"):
                cells = ["–" if v is None else with_interval(unit, v) for v in found]
                rows.append({"name": study.claims.name(*e), "bound": is_bound(study, e[0]), "cells": cells})
        groups: dict[tuple[str, ...], list[str]] = {}
        for c in conditions:
            groups.setdefault(tuple(study.results.tasks(suite, c)), []).append(words(c))
        notes = [f"{', '.join(names)}: {', '.join(tasks)}" for tasks, names in groups.items()]
        tables.append({"suite": suite, "conditions": [words(c) for c in conditions], "rows": rows, "notes": notes})
    return tables


def words(name: str) -> str:
    """A condition's name as words."""
    return name.replace("-", " ").replace("_", " ").replace("gaussian", "Gaussian").replace("jpeg", "JPEG")


# --- configuration ----------------------------------------------------------------------------------------------------


def flatten(config: Any, prefix: str = "") -> list[tuple[str, str]]:
    """A nested configuration as (dotted name, value) pairs."""
    if isinstance(config, Mapping):
        return [pair for k, v in config.items() for pair in flatten(v, f"{prefix}.{k}" if prefix else str(k))]
    if isinstance(config, list | tuple):
        return [(prefix, ", ".join(str(v) for v in config) or "none")]
    return [(prefix, "none" if config is None else str(config))]
