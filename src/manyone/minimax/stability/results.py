"""From the results of a sweep to rows of a study and to lines for people.

Public: ``rows_of``, ``trends``, ``LETTERS``, ``SLOPES``, ``ALGORITHMS``, ``TRENDS``, ``MEASURES``, ``DERIVED``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from manyone.claims.rows import Row
from manyone.evaluation.intervals import paired_difference
from manyone.minimax.stability.laboratory import PointResult, leave_one_out_choice, log_slope, summarise
from manyone.minimax.stability.sweep import Entry

LETTERS = {"rounds": "t", "local-steps": "k", "clients": "m", "samples": "n", "step-size": "eta"}
"""What is swept -> the letter of its variants."""
SLOPES = ("clients", "samples")
"""Sweeps that also get a row with the slope of log delta_mean."""
ALGORITHMS = {"local-sgda": "server", "local-dsgda": "ring"}
"""The two algorithms -> the topology that stands for each where settings are compared."""
TRENDS = ("rounds", "samples", "clients")
"""What every setting is swept over, with either algorithm: rows of the methods ALGORITHM-SWEEP."""
MEASURES = ("delta_mean", "delta_avg", "delta_own", "gap", "pd_gap", "weak_gap", "plain_gap", "error", "excess")
"""What gets a slope there: distances, generalisation gaps, optimisation error and excess population risk."""
DERIVED = {"bounded": 0.0, "linear": 1.0, "clients": -1.0, "samples": -1.0}
"""Slopes that the derivations predict, the right sides of claims."""
_DISTANCES = ("delta_mean", "delta_avg", "delta_own")


def rows_of(suite: str, seed: int, entries: Sequence[Entry], results: Sequence[PointResult]) -> list[Row]:
    """One row an entry with means over replicas; medians of distances; the slopes of the sweeps in SLOPES."""
    rows = []
    for entry, result in zip(entries, results, strict=True):
        metrics = {name: float(values.mean()) for name, values in result.final.items()} | dict(result.together)
        metrics |= {f"{name}_median": float(result.final[name].median()) for name in _DISTANCES}
        reference = _reference(entry, entries, results)
        if reference is not None:
            metrics |= {f"{name}_ratio": metrics[name] / float(reference.final[name].mean()) for name in _DISTANCES
                        if float(reference.final[name].mean()) > 0}  # fmt: skip
        metrics = {name: value for name, value in metrics.items() if math.isfinite(value)}
        rows.append(Row(suite, seed, entry.method, entry.variant, entry.condition, {}, metrics))
    return rows + _summaries(suite, seed, entries, results)


def _reference(entry: Entry, entries: Sequence[Entry], results: Sequence[PointResult]) -> PointResult | None:
    """What a row's ratios compare with: the complete graph, or K = 1 of the same budget."""
    wanted = {"topology": "complete"}.get(entry.method, "k1" if entry.method.startswith("budget") else None)
    for other, result in zip(entries, results, strict=True):
        if (other.method, other.variant, other.condition) == (entry.method, wanted, entry.condition):
            return result
    return None


def _summaries(suite: str, seed: int, entries: Sequence[Entry], results: Sequence[PointResult]) -> list[Row]:
    """Slopes over a sweep, the derived slope -1 beside them, and the choice of K for the trade-off."""

    rows = []
    for method in SLOPES:
        own = [(float(e.variant.removeprefix(LETTERS[method])), r.final["delta_mean"])
               for e, r in zip(entries, results, strict=True) if e.method == method]  # fmt: skip
        if len(own) >= 3 and all(float(values.mean()) > 0 for _, values in own):
            slope = log_slope([x for x, _ in own], torch.stack([v for _, v in own]), resamples=1)
            rows.append(Row(suite, seed, method, "slope", "clean", {}, {"slope": slope.value}))
            rows.append(Row(suite, seed, "derived", method, "clean", {}, {"slope": -1.0}))
    trade = [(e, r) for e, r in zip(entries, results, strict=True) if e.method == "trade-off"]
    if trade and len(trade[0][1].final["risk_test"]) > 1:
        risks = torch.stack([r.final["risk_test"] for _, r in trade])
        chosen, risk = leave_one_out_choice(risks)
        ks = torch.tensor([float(e.variant.removeprefix("k")) for e, _ in trade])
        metrics = {"risk_test": float(risk.mean()), "chosen_k": float(ks[chosen].mean())}
        rows.append(Row(suite, seed, "trade-off", "chosen", "clean", {}, metrics))
    return rows + _trend_rows(suite, seed, entries, results)


def _trend_rows(suite: str, seed: int, entries: Sequence[Entry], results: Sequence[PointResult]) -> list[Row]:
    """For each algorithm and sweep the slopes of logarithms, of the whole sweep and (``late_``) of all but its first
    point: ``slope`` is that of delta_mean. Measures that are not above 0 everywhere have none."""
    rows = []
    for name, sweep in ((f"{a}-{s}", s) for a in ALGORITHMS for s in TRENDS):
        own = [(float(e.variant.removeprefix(LETTERS[sweep])), r) for e, r in zip(entries, results, strict=True)
               if e.method == name]  # fmt: skip
        if len(own) < 3:
            continue
        own.sort(key=lambda pair: pair[0])
        metrics = {}
        for measure in MEASURES:
            values = [_mean(r, measure) for _, r in own]
            if any(v is None or not 0 < v < math.inf for v in values):
                continue
            for key, first in (("slope", 0), ("late_slope", 1)):
                table = torch.tensor([[v] for v in values[first:]], dtype=torch.float64)
                slope = log_slope([x for x, _ in own[first:]], table, resamples=1).value
                metrics[key if measure == "delta_mean" else f"{key}_{measure}"] = slope
        rows.append(Row(suite, seed, name, "slope", "clean", {}, metrics))
    if rows:
        rows += [Row(suite, seed, "derived", name, "clean", {}, {"slope": value, "late_slope": value})
                 for name, value in DERIVED.items()]  # fmt: skip
    return rows


def _mean(result: PointResult, measure: str) -> float | None:
    """Over replicas, or of all of them at once."""
    if measure in result.together:
        return result.together[measure]
    return float(result.final[measure].mean()) if measure in result.final else None


def trends(entries: Sequence[Entry], results: Sequence[PointResult]) -> list[str]:
    """One line a sweep, "NAME  what was measured" with 95 % intervals over replicas."""
    lines = []
    for method, letter in LETTERS.items():
        own = [(float(e.variant.removeprefix(letter)), r) for e, r in zip(entries, results) if e.method == method]
        own.sort(key=lambda pair: pair[0])
        if len(own) < 2:
            continue
        first, last = own[0][1].final, own[-1][1].final
        change = paired_difference(last["delta_mean"].tolist(), first["delta_mean"].tolist())
        text = f"delta_mean at {letter} = {own[-1][0]:g} minus {letter} = {own[0][0]:g}: {change.value:+.2e} "
        text += f"[{change.low:+.2e}, {change.high:+.2e}]"
        if all(float(r.final["delta_mean"].mean()) > 0 for _, r in own):
            slope = log_slope([x for x, _ in own], torch.stack([r.final["delta_mean"] for _, r in own]))
            text += f"; slope of its logarithm {slope.value:+.2f} [{slope.low:+.2f}, {slope.high:+.2f}]"
        if "gap" in first:
            gap = paired_difference(last["gap"].tolist(), first["gap"].tolist())
            text += f"; primal gap {gap.value:+.2e} [{gap.low:+.2e}, {gap.high:+.2e}]"
        lines.append(f"{method}  {text}")
    for entry, result in zip(entries, results):
        if entry.method == "topology":
            parts = [f"{name} {summarise(result.final[name]).mean:.2e}" for name in ("delta_mean", "delta_own")]
            kind = "iid" if entry.condition == "clean" else entry.condition
            lines.append(f"{entry.variant}, {kind}  {', '.join(parts)}")
    return lines
