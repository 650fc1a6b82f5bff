"""The curves of runs: each metric once, noisy ones smoothed before what was measured, related ones side by side."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from manyone.recipes.recipe import About, Label
from manyone.report import figures
from manyone.report.record import RunRecord
from manyone.report.story import heading

Curve = Sequence[tuple[float, float]]
_TRAINING, _EVALUATION = ("train",), ("eval", "final")
_FEWEST = 40  # points of a curve that is smoothed
_PARTS = 25  # a window of the running mean is this part of the curve
_NOISE = 0.06  # of the curve's range, the mean step of one that is noisy
_TOGETHER = 6  # curves in one picture: as many as there are styles


def curves_of(names: Sequence[str], runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """Pictures of everything that the runs logged while they went on, and that no figure of their own shows."""
    return _of_one(runs[0]) if len(runs) == 1 else _side_by_side(names, runs)


def _of_one(run: RunRecord) -> list[dict[str, Any]]:
    """Training and evaluation of a metric in one picture; metrics of one kind (``loss/TASK``) together."""
    shown: list[dict[str, Any]] = []
    grouped: dict[str, list[str]] = {}
    for metric in run.metrics_of("train", "eval"):
        if _left_out(run, metric):
            continue
        if "/" in metric:
            grouped.setdefault(metric.rpartition("/")[0], []).append(metric)
            continue
        own = {"training": run.curve(metric, *_TRAINING), "evaluation": run.curve(metric, *_EVALUATION)}
        shown.append(_picture(run.about.label(metric), metric, {n: c for n, c in own.items() if _moves(c)}))
    for prefix, metrics in grouped.items():
        for start in range(0, len(metrics), _TOGETHER):
            part = metrics[start : start + _TOGETHER]
            kinds = _TRAINING if any(_moves(run.curve(m, *_TRAINING)) for m in part) else _EVALUATION
            own = {m.removeprefix(f"{prefix}/"): c for m in part if _moves(c := run.curve(m, *kinds))}
            if len(own) == 1:
                (metric,) = (m for m in part if m.removeprefix(f"{prefix}/") in own)
                shown.append(_picture(run.about.label(metric), metric, own))
            elif own:
                shown.append(_picture(_of_group(run.about, prefix), f"{prefix}/*", own))
    return [one for one in shown if one["series"]]


def _side_by_side(names: Sequence[str], runs: Sequence[RunRecord]) -> list[dict[str, Any]]:
    """A picture for each metric and kind, a curve a run."""
    shown = []
    for word, kinds in (("training", _TRAINING), ("evaluation", _EVALUATION)):
        for metric in dict.fromkeys(m for run in runs for m in run.metrics_of(kinds[0])):
            own = {
                n: c
                for n, run in zip(names, runs)
                if not _left_out(run, metric) and _moves(c := run.curve(metric, *kinds))
            }
            if own:
                label = next(run.about.label(metric) for run in runs)
                styles = {n: names.index(n) for n in own}
                shown.append(_picture(label, metric, own, styles, f" ({word})"))
    return shown


def _left_out(run: RunRecord, metric: str) -> bool:
    return bool(run.figures) and run.about.draws(metric)


def _moves(curve: Curve) -> bool:
    """Whether there is anything to see: two points that differ."""
    return len({y for _, y in curve}) > 1


def _of_group(about: About, prefix: str) -> Label:
    label = about.label(f"{prefix}/*")
    return label._replace(text=label.text.replace("*", "each task"))


def _picture(
    label: Label, metric: str, series: Mapping[str, Curve], styles: Mapping[str, int] | None = None, word: str = ""
) -> dict[str, Any]:
    """One picture; ``series``: the names of its curves with their styles, where there are several."""
    smooth = {name: smoothed(curve) for name, curve in series.items()}
    faint = {name: curve for name, curve in series.items() if smooth[name][1]}
    windows = sorted({window for _, window in smooth.values() if window})
    said = ""
    if windows:
        said = f"Line: running mean of {' or '.join(map(str, windows))} points; faint: every point as it was logged."
    words = "; ".join(f"{n} {figures.describe([y for _, y in c])}" for n, c in series.items())
    plot = ""
    if series:
        plot = figures.lines({n: c for n, (c, _) in smooth.items()}, f"{label.text} over steps: {words}", styles=styles,
                             zero=False, faint=faint)  # fmt: skip
    named = [(k if styles is None else styles[n], n) for k, n in enumerate(series)]
    return {
        "title": f"{heading(label)}{word}", "raw": metric, "plot": plot, "caption": said, "series": named,
        "key": named if styles is None and (len(named) > 1 or "/" in metric) else [],
    }  # fmt: skip


def smoothed(curve: Curve) -> tuple[Curve, int]:
    """(the curve, 0), or of a noisy one (its running mean, the points of a window, narrower at the ends)."""
    n = len(curve)
    ys = [y for _, y in curve]
    span = max(ys, default=0.0) - min(ys, default=0.0)
    if n < _FEWEST or span == 0:
        return curve, 0
    step = math.fsum(abs(b - a) for a, b in itertools.pairwise(ys)) / (n - 1)
    if step < _NOISE * span:
        return curve, 0
    half = max(1, round(n / _PARTS) // 2)
    sums = [0.0]
    for y in ys:
        sums.append(sums[-1] + y)
    means = []
    for k, (x, _) in enumerate(curve):
        reach = min(half, k, n - 1 - k)
        means.append((x, (sums[k + reach + 1] - sums[k - reach]) / (2 * reach + 1)))
    return means, 2 * half + 1
