"""Ordinary run folders as a page: what ran, where its result lies, final metrics, curves, how to repeat it, and the
configurations and where they differ.

A run that wrote ``figures.json`` (:func:`manyone.claims.figure.save_figures`) has its figures on the page as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from manyone.claims.numbers import significant
from manyone.errors import ManyoneError
from manyone.evaluation.intervals import t_interval
from manyone.report.curves import curves_of
from manyone.report.record import RunRecord, read_run
from manyone.report.sections import flatten
from manyone.report.sections_figures import figure_sections
from manyone.report.story import cell, heading, places_of, story_of, title_of, unmeasured

_MOST = 16  # final metrics that are all shown at once
SEEDS = "seeds.json"
"""The file of a folder that holds runs with several seeds, ``seed-K/``."""


def over_seeds(finals: Mapping[int, Mapping[str, float]]) -> dict[str, dict[str, Any]]:
    """Metric -> mean, 95 % interval and values over the seeds whose runs recorded it; no ends from one seed alone."""
    found = {}
    for name in dict.fromkeys(name for final in finals.values() for name in final):
        values = {seed: final[name] for seed, final in finals.items() if name in final}
        interval = t_interval(list(values.values()))
        ends = {"low": interval.low, "high": interval.high} if len(values) > 1 else {"low": None, "high": None}
        found[name] = {"mean": interval.value, **ends, "values": values}
    return found


def seeds_table(metrics: Mapping[str, Mapping[str, Any]]) -> list[dict[str, str]]:
    """:func:`over_seeds` in words, one row a metric."""
    return [
        {
            "metric": name,
            "mean": significant(found["mean"], 4),
            "95 % interval": f"{_cell(found['low'])} to {_cell(found['high'])}" if found["low"] is not None else "–",
            "seeds": str(len(found["values"])),
        }
        for name, found in metrics.items()
    ]


def _labelled(rows: Sequence[Mapping[str, str]], run: RunRecord) -> list[dict[str, str]]:
    """The rows with each metric's label before its name."""
    return [{"figure": run.about.label(row["metric"]).text, **row} for row in rows]


def runs_context(folders: Sequence[Path]) -> dict[str, Any]:
    """Everything that the page of these runs shows; a folder of several seeds stands for its runs."""
    if not folders:
        raise ManyoneError("name at least one run folder to report on")
    runs, seeds = [], []
    for folder in map(Path, folders):
        if not (folder / SEEDS).is_file():
            runs.append(read_run(folder))
            continue
        begun = {int(f.name.removeprefix("seed-")): read_run(f) for f in folder.glob("seed-*") if f.is_dir()}
        if not begun:
            raise ManyoneError(f"{folder}: none of its runs has begun: manyone resume {folder}")
        runs += [begun[seed] for seed in sorted(begun)]
        finals = {seed: begun[seed].final for seed in sorted(begun) if begun[seed].finished}
        if rows := _labelled(seeds_table(over_seeds(finals)), next(iter(begun.values()))):
            seeds.append((folder.resolve().name, rows))
    names = _unique([r.name for r in runs])
    configs = [dict(flatten(r.config)) for r in runs]
    keys = list(dict.fromkeys(k for c in configs for k in c))
    different = {k for k in keys if len({c.get(k) for c in configs}) > 1}
    heat = heat_of(names, runs)
    main, rest = metric_rows(runs, heat["prefix"] if heat else "")
    plots = curves_of(names, runs)
    own = [f if len(runs) == 1 else replace(f, section=f"{n}: {f.section}") for n, r in zip(names, runs)
           for f in r.figures]  # fmt: skip
    drawn = figure_sections(own)
    places = places_of(names, runs)
    stories = list({r.recipe: story_of(r) for r in reversed(runs)}.values())[::-1]
    results = bool(main or rest or places)
    toc = [("results", "Results")] * results + [(section["id"], section["title"]) for section in drawn]
    toc += [("plots", "Curves")] * bool(plots) + [("repeat", "Repeat it"), ("config", "Configuration")]
    return {
        "title": title_of(runs[0]) if len(runs) == 1 else f"{len(runs)} runs side by side",
        "names": names,
        "unfinished": [n for n, r in zip(names, runs) if not r.finished],
        "stories": stories,
        "repeats": [story_of(r) | {"name": n} for n, r in zip(names, runs)],
        "results": results,
        "places": places,
        "unmeasured": unmeasured(runs),
        "heat": heat,
        "seeds": seeds,
        "metrics": main,
        "more_metrics": rest,
        "figures": drawn,
        "plots": plots,
        "options": [(k, [c.get(k, "–") for c in configs], k in different and len(runs) > 1) for k in keys],
        "toc": toc,
    }


def metric_rows(runs: Sequence[RunRecord], shown: str = "") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The final metrics with their labels: (all, or of very many those of the whole run, the rest).

    An interval stands behind its value. Metrics that begin with ``shown`` have a table of their own.
    """
    finals = [r.final for r in runs]
    names = list(dict.fromkeys(name for final in finals for name in final))
    ends = {end for name in names for end in ends_of(name) if end in names}
    twice = {name for name in names if _is_the_mean(name, names, finals)}
    rows = []
    for name in names:
        if name in ends | twice or (shown and name.startswith(shown)):
            continue
        if shown == f"{name}/" and not ends.intersection(ends_of(name)):
            continue  # the mean stands there too
        label = next(r.about.label(name) for r, final in zip(runs, finals) if name in final)
        cells = []
        for final in finals:
            low, high = (final.get(end) for end in ends_of(name))
            interval = "" if low is None or high is None else f"{cell(label, low)} to {cell(label, high)}"
            cells.append((cell(label, final.get(name)), interval))
        rows.append({"title": heading(label), "raw": name, "cells": cells})
    main = [row for row in rows if "/" not in str(row["raw"])] if len(rows) > _MOST else rows
    return main or rows, [row for row in rows if row not in main] if main else []


def _is_the_mean(name: str, names: Sequence[str], finals: Sequence[Mapping[str, float]]) -> bool:
    """Whether ``return/TASK`` is of the only task, so that it says what ``return`` says."""
    whole, slash, _ = name.partition("/")
    alone = slash and sum(other.startswith(f"{whole}/") for other in names) == 1
    return bool(alone) and all(final.get(whole) == final.get(name) for final in finals)


def ends_of(metric: str) -> tuple[str, str]:
    """What the ends of the metric's interval are called."""
    head, slash, rest = metric.partition("/")
    return f"{head}_low{slash}{rest}", f"{head}_high{slash}{rest}"


def heat_of(names: Sequence[str], runs: Sequence[RunRecord]) -> dict[str, Any] | None:
    """Runs x tasks from final metrics called ``accuracy/TASK`` or ``success/TASK``; None when there are none.

    Reference points of all runs that have the same metrics stand below them.
    """
    prefix = next((p for p in ("accuracy/", "success/") if any(m.startswith(p) for r in runs for m in r.final)), "")
    if not prefix:
        return None
    tasks = list(dict.fromkeys(m.removeprefix(prefix) for r in runs for m in r.final if m.startswith(prefix)))
    common = [one for one in runs[0].references if all(one in r.references for r in runs)]
    points = [(p.name, p.metrics, True) for p in common if any(prefix + t in p.metrics for t in tasks)]
    rows = []
    for name, found, bound in [*((n, r.final, False) for n, r in zip(names, runs)), *points]:
        own = [found.get(prefix + t) for t in tasks]
        known = [v for v in own if v is not None]
        mean = math.fsum(known) / len(known) if len(known) == len(tasks) else None
        rows.append((name, [mean, *own], bound))
    result = []
    for name, values, bound in rows:
        cells = []
        for k, v in enumerate(values):
            column = [x for _, other, _ in rows if (x := other[k]) is not None]
            low, high = (min(column), max(column)) if column else (0.0, 1.0)
            shade = 0 if v is None else round(60 * (v - low) / ((high - low) or 1.0))
            best = v is not None and len(runs) > 1 and not bound and v == max(
                x for _, other, point in rows if not point and (x := other[k]) is not None
            )  # fmt: skip
            cells.append({"text": "–" if v is None else f"{100 * v:.1f}", "shade": shade, "best": best})
        result.append({"name": name, "bound": bound, "cells": cells})
    return {"tasks": tasks, "rows": result, "score": prefix.rstrip("/").capitalize(), "prefix": prefix}


def _cell(value: float | None) -> str:
    return "–" if value is None else significant(value, 4)


def _unique(names: Sequence[str]) -> list[str]:
    """The same names, numbered where they repeat."""
    return [n if names.count(n) == 1 else f"{n} ({names[: k + 1].count(n)})" for k, n in enumerate(names)]
