"""What the teams study draws of all its jobs together: learning curves, graphs, gates, messages against score, scores.

Reads the records and rows that the study's jobs wrote; draws what is there.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from manyone.claims.figure import Figure
from manyone.claims.rows import Row, load_rows
from manyone.evaluation.intervals import t_interval
from manyone.teams.recipes.figures import draw_graph
from manyone.teams.study.settings import ARMS, SETTINGS

NAMES = {
    "commformer": "CommFormer",
    "random": "random fixed graph",
    "commformer-fc": "CommFormer (FC)",
    "mat": "MAT",
    "no-comm": "no communication",
    "mappo": "MAPPO",
    "gate": "CommFormer + gate",
    "ippo": "IPPO",
    "mat-dec": "MAT-dec",
}
DRAWN = ("commformer", "gate", "random", "commformer-fc", "no-comm", "mappo", "mat")
"""Arms with a learning curve on the page; the first ``COLOURS`` that a suite has."""
COLOURS = 6
SWEEP = ("s0.2", "commformer", "s0.6", "s0.8", "commformer-fc")
"""Arms that differ in density alone, from few links to all."""
POINTS = 30

Records = Mapping[tuple[str, str], list[dict[str, Any]]]
"""(suite, arm) to its records, one a seed."""


def overview(scale: str, suites: Sequence[str], seeds: Sequence[int], folder: Path) -> list[Figure]:
    """Every figure that the records and rows in ``folder`` allow."""
    records: dict[tuple[str, str], list[dict[str, Any]]] = {}
    rows: list[Row] = []
    for suite in suites:
        for part in SETTINGS[scale][suite].arms:
            for seed in seeds:
                stem = folder / f"{suite}-{seed}-{part}"
                record, found = stem.with_name(f"{stem.name}.record.json"), stem.with_name(f"{stem.name}.jsonl")
                if record.exists():
                    text = record.read_text(encoding="utf-8")
                    records.setdefault((suite, part), []).append(json.loads(text))
                if found.exists():
                    rows += load_rows(found)
    figures = list(score_matrix(suites, rows))
    for suite in suites:
        figures += learning(scale, suite, records)
    for suite in suites:
        figures += messages(suite, rows)
        figures += receiving(suite, records)
    for suite in suites:
        figures += graphs(scale, suite, records)
    return figures


def label(part: str) -> str:
    """How the page calls an arm."""
    if part in NAMES:
        return NAMES[part]
    arm = ARMS[part]
    return f"{NAMES.get(arm.method, arm.method)}, {arm.variant or part}"


# --- scores -----------------------------------------------------------------------------------------------------------


def score_matrix(suites: Sequence[str], rows: Sequence[Row]) -> Iterator[Figure]:
    """Tasks x methods: mean scores over seeds."""
    parts = [p for p in ARMS if p in NAMES or not ARMS[p].variant]
    means = {(s, p): _mean(_scores(s, p, rows)) for s in suites for p in parts}
    used = [p for p in parts if any(means[s, p] is not None for s in suites)]
    if not used:
        return
    values = [[means[s, p] for p in used] for s in suites]
    data = {"rows": list(suites), "columns": [label(p) for p in used], "values": values, "unit": "%"}
    yield Figure("matrix", "Scores by task and method", data, "Means over seeds.", "Tasks and methods")


def _scores(suite: str, part: str, rows: Sequence[Row], metric: str = "") -> list[float]:
    """The score, or ``metric``, of an arm by seed, all agents playing."""
    arm = ARMS[part]
    own = [r for r in rows if (r.suite, r.method, r.variant, r.condition) == (suite, arm.method, arm.variant, "clean")]
    return [r.metrics[metric] if metric else r.task[suite] for r in sorted(own, key=lambda r: r.seed)]


def _mean(values: Sequence[float]) -> float | None:
    return math.fsum(values) / len(values) if values else None


# --- learning ---------------------------------------------------------------------------------------------------------


def learning(scale: str, suite: str, records: Records) -> Iterator[Figure]:
    """Score and, where it is something else, return in training over environment steps, with intervals over seeds."""
    parts = [p for p in DRAWN if (suite, p) in records][:COLOURS]
    for metric in ("score", "return"):
        series = {label(p): c for p in parts if (c := _curve(records[suite, p], metric))}
        if series and not (metric == "return" and SETTINGS[scale][suite].bounds == (0.0, 1.0)):
            data = {"series": series, "x_label": "environment steps", "y_label": metric}
            text = "Episodes that ended in training (actions are drawn); means and 95 % intervals over seeds."
            yield Figure("lines", f"{suite}: {metric} in training", data, text, "Learning")


def _curve(records: Sequence[Mapping[str, Any]], metric: str) -> dict[str, list[float]]:
    """Means of at most ``POINTS`` pieces of the training with their interval over seeds; empty without data."""
    if not records:
        return {}
    length = min(len(r["curves"]["env_steps"]) for r in records)
    size = max(1, math.ceil(length / POINTS))
    curve: dict[str, list[float]] = {"x": [], "y": [], "low": [], "high": []}
    for start in range(0, length, size):
        piece = slice(start, min(start + size, length))
        means = [_mean([v for v in r["curves"][metric][piece] if v is not None]) for r in records]
        if any(m is None for m in means):
            continue
        interval = t_interval([m for m in means if m is not None])
        curve["x"].append(float(records[0]["curves"]["env_steps"][piece.stop - 1]))
        curve["y"].append(interval.value)
        curve["low"].append(interval.low)
        curve["high"].append(interval.high)
    if not all(map(math.isfinite, (*curve["low"], *curve["high"]))):
        del curve["low"], curve["high"]
    return curve if curve["y"] else {}


# --- messages ---------------------------------------------------------------------------------------------------------


def messages(suite: str, rows: Sequence[Row]) -> Iterator[Figure]:
    """Links used a step against the score: the sweep of densities as a line, everything else as marks."""
    found = {p: (_scores(suite, p, rows, "links"), _scores(suite, p, rows)) for p in ARMS}
    points = {p: (_mean(x), t_interval(y)) for p, (x, y) in found.items() if x}
    swept = [p for p in SWEEP if p in points]
    if len(swept) < 2:
        return
    chosen = [points[p] for p in swept]
    line: dict[str, list[float]] = {"x": [x or 0.0 for x, _ in chosen], "y": [y.value for _, y in chosen]}
    if all(math.isfinite(y.low) and math.isfinite(y.high) for _, y in chosen):
        line |= {"low": [y.low for _, y in chosen], "high": [y.high for _, y in chosen]}
    others = [p for p in ("gate", "random", "no-comm") if p in points]
    marks = [{"x": points[p][0] or 0.0, "y": points[p][1].value, "label": label(p)} for p in others]
    series = {"CommFormer by density": line}
    data = {"series": series, "marks": marks, "x_label": "links used a step", "y_label": "score"}
    text = "Up and to the left is better. Means and 95 % intervals over seeds; the line's last point has all links."
    yield Figure("lines", f"{suite}: score against links", data, text, "Messages")


def receiving(suite: str, records: Records) -> Iterator[Figure]:
    """The share of agents that receive, over training, with the gate."""
    curve = _curve(records.get((suite, "gate"), []), "receive_rate")
    if curve:
        series = {label("gate"): curve}
        data = {"series": series, "x_label": "environment steps", "y_label": "share of agents that receive"}
        text = "The gate is held open at first, until the policy uses messages; then its budget loss is ramped up."
        yield Figure("lines", f"{suite}: receive rate in training", data, text, "Messages")


# --- graphs -----------------------------------------------------------------------------------------------------------


def graphs(scale: str, suite: str, records: Records) -> Iterator[Figure]:
    """How often each link is in the learned graph, over seeds, as a picture."""
    found = [r["graph"] for r in records.get((suite, "commformer"), [])]
    if not found:
        return
    often = np.mean(np.array(found), axis=0)
    names = [str(k + 1) for k in range(len(often))]
    picture = draw_graph(often > 0, names, often)
    text = f"Links of {len(found)} seeds; the wider an arrow, the more seeds chose it. Agents in the task's order."
    data = {"data": picture, "width": 320}
    yield Figure("image", f"{suite}: who learned to listen to whom", data, text, "Graphs")
