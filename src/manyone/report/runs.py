"""Ordinary run folders as a page: final metrics side by side, curves, configurations and where they differ.

A run that wrote ``figures.json`` (:func:`manyone.claims.figure.save_figures`) has its figures on the page as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from manyone.claims.figure import Figure, load_figures
from manyone.claims.numbers import significant
from manyone.engine.files import stays_inside
from manyone.engine.run import read_config, read_metrics
from manyone.errors import ManyoneError
from manyone.evaluation.intervals import t_interval
from manyone.report import figures
from manyone.report.sections import flatten
from manyone.report.sections_figures import figure_sections

FIGURES = "figures.json"
"""The file of a run folder that holds its own figures."""
SEEDS = "seeds.json"
"""The file of a folder that holds runs with several seeds, ``seed-K/``."""


@dataclass(frozen=True)
class RunRecord:
    """One run folder as read from disk. ``lines`` are the lines of metrics.jsonl, ``figures`` its own figures."""

    name: str
    config: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    figures: Sequence[Figure] = ()

    @property
    def final(self) -> dict[str, float]:
        """Metrics of the last line of kind ``final``, or of the last ``eval`` line when the run has not finished."""
        for kind in ("final", "eval"):
            found = [line for line in self.lines if line.get("kind") == kind]
            if found:
                return _numeric(found[-1])
        return {}

    @property
    def finished(self) -> bool:
        """Whether a final evaluation was recorded."""
        return any(line.get("kind") == "final" for line in self.lines)

    def curve(self, kind: str, metric: str) -> list[tuple[float, float]]:
        """(step, value) pairs of one metric."""
        found = [(line.get("step"), _numeric(line).get(metric)) for line in self.lines if line.get("kind") == kind]
        return [(float(s), v) for s, v in found if isinstance(s, int | float) and v is not None and math.isfinite(v)]


def _numeric(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    result: dict[str, float] = {}
    for key, value in line.items():
        if not prefix and key in ("step", "kind", "time"):
            continue
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            result |= _numeric(value, f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            result[name] = float(value)
    return result


def read_run(folder: Path) -> RunRecord:
    """Reads config.yaml and metrics.jsonl of a run folder; a cut last line of metrics is left out."""
    for path in (folder / name for name in ("config.yaml", "metrics.jsonl", FIGURES)):
        if not stays_inside(path, folder):
            raise ManyoneError(f"{path}: a link out of the run folder, which would end up on the page: copy the file")
    config, lines = read_config(folder), [record for record, _ in read_metrics(folder)]
    figures = load_figures(folder / FIGURES) if (folder / FIGURES).is_file() else []
    return RunRecord(folder.resolve().name, config, lines, figures)


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
        seeds.append((folder.resolve().name, seeds_table(over_seeds(finals))))
    names = _unique([r.name for r in runs])
    configs = [dict(flatten(r.config)) for r in runs]
    keys = list(dict.fromkeys(k for c in configs for k in c))
    different = {k for k in keys if len({c.get(k) for c in configs}) > 1}
    metrics = list(dict.fromkeys(m for r in runs for m in r.final))
    plots = []
    for kind in ("train", "eval"):
        of_kind = dict.fromkeys(m for r in runs for line in r.lines if line.get("kind") == kind for m in _numeric(line))
        for metric in of_kind:
            series = {n: c for n, r in zip(names, runs) if len(c := r.curve(kind, metric)) > 1}
            if series:
                words = "; ".join(f"{n} {figures.describe([y for _, y in c])}" for n, c in series.items())
                styles = {n: names.index(n) for n in series}
                plot = figures.lines(series, f"{metric} over steps: {words}", styles=styles, zero=False)
                plots.append({"kind": kind, "metric": metric, "plot": plot})
    own = [f if len(runs) == 1 else replace(f, section=f"{n}: {f.section}") for n, r in zip(names, runs)
           for f in r.figures]  # fmt: skip
    drawn = figure_sections(own)
    toc = [("results", "Results")] * bool(metrics) + [(section["id"], section["title"]) for section in drawn]
    toc += [("plots", "Curves")] * bool(plots) + [("config", "Configuration")]
    return {
        "title": names[0] if len(runs) == 1 else f"{len(runs)} runs side by side",
        "names": names,
        "unfinished": [n for n, r in zip(names, runs) if not r.finished],
        "heat": heat_of(names, runs),
        "seeds": [(name, rows) for name, rows in seeds if rows],
        "metrics": [(m, [_cell(r.final.get(m)) for r in runs]) for m in metrics],
        "figures": drawn,
        "plots": plots,
        "options": [(k, [c.get(k, "–") for c in configs], k in different and len(runs) > 1) for k in keys],
        "toc": toc,
    }


def heat_of(names: Sequence[str], runs: Sequence[RunRecord]) -> dict[str, Any] | None:
    """Runs x tasks from final metrics called ``accuracy/TASK`` or ``success/TASK``; None when there are none."""
    prefix = next((p for p in ("accuracy/", "success/") if any(m.startswith(p) for r in runs for m in r.final)), "")
    if not prefix:
        return None
    tasks = list(dict.fromkeys(m.removeprefix(prefix) for r in runs for m in r.final if m.startswith(prefix)))
    finals = [r.final for r in runs]
    rows = []
    for name, final in zip(names, finals):
        own = [final.get(prefix + t) for t in tasks]
        known = [v for v in own if v is not None]
        mean = math.fsum(known) / len(known) if len(known) == len(tasks) else None
        rows.append((name, [mean, *own]))
    result = []
    for name, values in rows:
        cells = []
        for k, v in enumerate(values):
            column = [x for _, other in rows if (x := other[k]) is not None]
            low, high = (min(column), max(column)) if column else (0.0, 1.0)
            shade = 0 if v is None else round(60 * (v - low) / ((high - low) or 1.0))
            best = v is not None and len(rows) > 1 and v == high
            cells.append({"text": "–" if v is None else f"{100 * v:.1f}", "shade": shade, "best": best})
        result.append({"name": name, "bound": False, "cells": cells})
    return {"tasks": tasks, "rows": result, "score": prefix.rstrip("/").capitalize()}


def _cell(value: float | None) -> str:
    return "–" if value is None else significant(value, 4)


def _unique(names: Sequence[str]) -> list[str]:
    """The same names, numbered where they repeat."""
    return [n if names.count(n) == 1 else f"{n} ({names[: k + 1].count(n)})" for k, n in enumerate(names)]
