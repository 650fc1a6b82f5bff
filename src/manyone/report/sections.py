"""What the page says: every section of a study as plain data, ready to be set. An empty section is an empty list."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from manyone.claims.claims import Finding
from manyone.claims.numbers import plain, with_interval
from manyone.claims.study import Study

MARKS = {"holds": "✓", "within noise": "≈", "does not hold": "✗", "not in its regime": "○", "not tested": "–"}
CSS = {
    "holds": "good",
    "within noise": "unsure",
    "does not hold": "bad",
    "not in its regime": "none",
    "not tested": "none",
}
MEANING = {
    "holds": "measured as claimed",
    "within noise": "the seeds do not tell",
    "does not hold": "measured otherwise",
    "not in its regime": "the mechanism cannot operate there",
    "not tested": "rows are missing",
}
SCALES = {
    "smoke": "takes minutes and shows that everything works",
    "laptop": "takes hours and compares orderings, not levels",
    "paper": "uses the published settings",
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


# --- the opening ------------------------------------------------------------------------------------------------------


def counts(found: Sequence[Finding]) -> list[dict[str, Any]]:
    """How many tests got which verdict, and what each says."""
    tally = {v: sum(f.verdict == v for f in found) for v in MARKS}
    return [{"verdict": v, "n": n, "css": CSS[v], "mark": MARKS[v], "means": MEANING[v]} for v, n in tally.items()]


def counts_in_words(found: Sequence[Finding]) -> str:
    """``22 hold, 1 within noise``: the verdicts that there are."""
    words = {"holds": "hold", "does not hold": "do not hold"}
    tally = {v: sum(f.verdict == v for f in found) for v in MARKS}
    return ", ".join(f"{n} {v if n == 1 else words.get(v, v)}" for v, n in tally.items() if n)


def suites_of(found: Sequence[Finding]) -> list[str]:
    """The suites that were tested, each once."""
    return list(dict.fromkeys(f.suite for f in found))


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
