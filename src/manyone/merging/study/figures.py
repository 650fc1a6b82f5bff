"""The merging study's own pictures: routing per sample and per batch, routing weights, feature bias, adaptation."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from manyone.claims.claims import Claims
from manyone.claims.figure import Figure
from manyone.claims.numbers import difference, with_interval
from manyone.claims.rows import Results
from manyone.evaluation.intervals import paired_difference, t_interval

Curves = Mapping[tuple[str, str, str], Mapping[int, Sequence[Mapping[str, float]]]]
"""By (suite, method, variant) and seed: points {"step", "entropy", "marginal_entropy"} of an adaptation, in nats."""

LADDER = (
    "Mean entropy of the predictions, in nats, means over seeds. Adaptation by certainty can only move a merged model "
    "towards the experts where every step down the ladder is surer: base, merged model, expert. Tasks where the order "
    "is another one are marked."
)
GRANULARITY = (
    "Per sample, each input gets its own mixture of experts. Per batch, the routing weights are averaged over the "
    "batch first; a batch with inputs of one task then tells the router which task it is, a batch of mixed tasks does "
    "not. In brackets: difference to routing per sample, in points."
)
ROUTING = (
    "Mean weight that the router of each block gives to each expert’s task vector, on inputs of one task, with routing "
    "per sample. The column of that task’s own expert is outlined. Weights are free: they may be negative and need not "
    "sum to 1."
)
BIAS = (
    "Mean absolute distance between the merged model’s feature and the expert’s feature on the same inputs, before "
    "(hollow) and after (filled) the correction. Lower is better."
)
ADAPTATION = (
    "Both entropies on the unlabelled adaptation inputs, one line per seed. Entropy of single predictions should fall; "
    "when the marginal entropy (of the mean prediction) falls with it, predictions collapse onto few classes."
)


def draw(results: Results, claims: Claims, curves: Curves) -> list[Figure]:
    """All pictures of the study; the text of a section stands at its first figure."""
    figures = []
    for title, text, drawn in (
        ("Entropy ladder", LADDER, ladder(results, claims)),
        ("Routing per sample and per batch", GRANULARITY, granularity(results, claims)),
        ("Routing weights per task", ROUTING, routing(results, claims)),
        ("Representation bias", BIAS, bias(results, claims)),
        ("Adaptation", ADAPTATION, adaptation(claims, curves)),
    ):
        for k, (kind, name, data) in enumerate(drawn):
            figures.append(Figure(kind, name, data, text if k == 0 else "", title))
    return figures


Drawn = Iterator[tuple[Any, str, dict[str, Any]]]


def ladder(results: Results, claims: Claims) -> Drawn:
    """Entropies per task of the rows that have them, in the order of the ladder."""
    for suite in results.suites():
        rungs = [
            (claims.name(method, variant), _entropies(results, suite, method, variant))
            for method, variant in (("pretrained", ""), ("task-arithmetic", "tuned"), ("expert", ""))
        ]
        if not all(values for _, values in rungs):
            continue
        rows = []
        for task in rungs[0][1]:
            down = [values[task] for _, values in rungs]
            name = task if down == sorted(down, reverse=True) else f"{task} (not in order)"
            rows.append([name, *(f"{v:.2f}" for v in down)])
        yield "table", suite, {"columns": ["Task", *(name for name, _ in rungs)], "rows": rows}


def _entropies(results: Results, suite: str, method: str, variant: str) -> dict[str, float]:
    found = [r.details["entropy"] for r in results.select(suite, method, variant, "clean") if r.details.get("entropy")]
    return {t: math.fsum(row[t] for row in found) / len(found) for t in found[0]} if found else {}


def granularity(results: Results, claims: Claims) -> Drawn:
    """Routing per sample beside routing per batch (of one task, and of mixed tasks), wherever both were measured."""
    for suite in results.suites():
        rows = []
        for method, variant in results.entries(suite, None):
            for condition in () if "batch" in variant.split("+") else results.conditions(suite):
                sample = results.values(suite, method, variant, claims.score, condition)
                words = [word for word in variant.split("+") if word]
                others = ["+".join([*words, *kind]) for kind in (("batch",), ("batch", "mixed"))]
                beside = [results.values(suite, method, other, claims.score, condition) for other in others]
                cells = [_beside(claims.unit, sample, values) for values in beside]
                if sample and any(cells):
                    own = with_interval(claims.unit, t_interval(list(sample.values())))
                    rows.append([claims.name(method, variant), condition, own, *cells])
        if rows:
            columns = ["Method", "Condition", "per sample", "per batch of one task", "per batch of mixed tasks"]
            yield "table", suite, {"columns": columns, "rows": rows}


def _beside(unit: str, sample: Mapping[int, float], other: Mapping[int, float]) -> str:
    """Mean of ``other`` and its paired difference to ``sample``; empty when they share no seed."""
    seeds = sorted(set(sample) & set(other))
    if not seeds:
        return ""
    gap = paired_difference([other[s] for s in seeds], [sample[s] for s in seeds])
    mean = with_interval(unit, t_interval(list(other.values())))
    return f"{mean}; {difference(unit, gap)}".replace(" points", "")


def routing(results: Results, claims: Claims) -> Drawn:
    """Mean routing weights (blocks x experts) on every task's inputs, mean over seeds."""
    for suite in results.suites():
        for method, variant in results.entries(suite):
            rows = [r for r in results.select(suite, method, variant, "clean") if r.details.get("routing")]
            if not rows or "batch" in variant.split("+"):
                continue
            grids = {t: _mean([r.details["routing"][t] for r in rows]) for t in rows[0].details["routing"]}
            width = len(next(iter(grids.values()))[0])
            tasks = list(rows[0].task)
            experts = tasks if len(tasks) == width else [f"expert {k + 1}" for k in range(width)]
            reach = max(abs(v) for grid in grids.values() for line in grid for v in line) or 1.0
            for task, grid in grids.items():
                blocks = [f"block {k}" for k in range(len(grid))]
                data = {"rows": blocks, "columns": experts, "values": grid, "reach": reach}
                data |= {"outlined": task} if task in experts else {}
                yield "matrix", f"{claims.name(method, variant)} on {suite}, inputs of {task}", data


def _mean(grids: Sequence[Sequence[Sequence[float]]]) -> list[list[float]]:
    """The mean of the matrices that have the first one's shape."""
    shape = [len(line) for line in grids[0]]
    same = [grid for grid in grids if [len(line) for line in grid] == shape]
    return [[math.fsum(g[b][k] for g in same) / len(same) for k in range(w)] for b, w in enumerate(shape)]


def bias(results: Results, claims: Claims) -> Drawn:
    """Distance to the experts' features before and after the correction, per task, mean over seeds."""
    for suite in results.suites():
        for method, variant in results.entries(suite):
            rows = [r.details["bias"] for r in results.select(suite, method, variant, "clean") if r.details.get("bias")]
            tasks = [t for t in rows[0]["before"] if all(t in r["after"] for r in rows)] if rows else []
            if tasks:
                means = {
                    when: [math.fsum(r[when][t] for r in rows) / len(rows) for t in tasks]
                    for when in ("before", "after")
                }
                before, after = ([*m, math.fsum(m) / len(m)] for m in (means["before"], means["after"]))
                data = {"names": [*tasks, "mean"], "values": after, "before": before}
                yield "bars", f"{claims.name(method, variant)} on {suite}", data


def adaptation(claims: Claims, curves: Curves) -> Drawn:
    """Entropy and marginal entropy over the steps of an adaptation, all seeds in one plot."""
    for (suite, method, variant), seeds in curves.items():
        series = {}
        for key, name in (("entropy", "entropy"), ("marginal_entropy", "marginal entropy")):
            for seed, points in seeds.items():
                line = [(p["step"], p[key]) for p in points if key in p and "step" in p]
                if line:
                    x, y = ([float(v) for v in values] for values in zip(*line))
                    series[f"{name}, seed {seed}"] = {"x": x, "y": y, "group": name}
        if series:
            data = {"series": series, "x_label": "step", "y_label": "nats"}
            yield "lines", f"{claims.name(method, variant)} on {suite}", data
