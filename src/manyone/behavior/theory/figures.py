"""What can be drawn of a laboratory: bounds and gaps over the horizon, and how exact the identity is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from torch import Tensor

from manyone.behavior.theory.laboratory import LOWERED, TheoryLaboratory, tight_rows
from manyone.claims.figure import Figure

_RATES, _EXACT = "Rates", "The identity"
_LABEL = "horizon 1/(1 - γ)"
_BOUNDS = {
    "gap": "gap of returns",
    "corollary_1_least": "Corollary 1, q less its state's least",
    "corollary_1": "Corollary 1",
    "theorem_1_student": "Theorem 1, states of the student",
    "theorem_1_teacher": "Theorem 1, states of the teacher",
}
_CASES = {
    "cliff": "every mistake costs a whole future of size 1/(1 - γ): the gap grows quadratically",
    "rare": "a reward about once in 1/(1 - γ) steps: the gap grows linearly, and only Corollary 1 says so",
}
WEIGHTS = dict(zip(LOWERED, ("q", "max(q, 0)", "|q|")))
"""The names of ``LOWERED`` -> the weights in symbols."""


def figures_of(laboratory: TheoryLaboratory) -> list[Figure]:
    """Figures of a laboratory that has measured everything."""
    rows = laboratory.rows()
    tight = {name: tight_rows(name, laboratory.setting) for name in _CASES}
    found = [_per_objective(rows, tight)]
    for name, words in _CASES.items():
        caption = f"{words}. {laboratory.setting.mistakes:g} mistakes a step; Corollary 1 is an equality."
        found.append(_over_horizon(f"A tight case: {name}", tight[name], caption))
    caption = f"Medians over {laboratory.setting.pairs:,} random MDPs, {laboratory.setting.teacher} teacher."
    found.append(_over_horizon("Random MDPs", rows, caption))
    return [*found, *_histograms(laboratory), _negative(rows)]


def _horizons(rows: Sequence[Mapping[str, float]]) -> list[float]:
    return [1 / (1 - row["gamma"]) for row in rows]


def _curve(rows: Sequence[Mapping[str, float]], values: Sequence[float]) -> dict[str, list[float]]:
    """Points by rising horizon that a logarithmic axis can show."""
    points = sorted((x, y) for x, y in zip(_horizons(rows), values) if y > 0)
    return {"x": [x for x, _ in points], "y": [y for _, y in points]}


def _per_objective(rows: Sequence[Mapping[str, float]], tight: Mapping[str, Sequence[Mapping[str, float]]]) -> Figure:
    """The largest gap where an objective is 1: what a teacher's student may lose by what it was trained on."""
    series = {
        "2/(1 - γ)²: Theorem 1": _curve(rows, [2 * x**2 for x in _horizons(rows)]),
        "per E D_TV, cliff": _curve(tight["cliff"], [row["gap"] / row["pbc_teacher"] for row in tight["cliff"]]),
        "per E D_TV, random MDPs": _curve(rows, [row["gap_per_pbc"] for row in rows]),
        "1/(1 - γ): Corollary 1": _curve(rows, _horizons(rows)),
        "per E Σ q |π* - π|, cliff": _curve(tight["cliff"], [row["gap"] / row["av_pbc"] for row in tight["cliff"]]),
        "per E Σ q |π* - π|, random MDPs": _curve(rows, [row["gap_per_av_pbc"] for row in rows]),
    }
    caption = "What a value of 1 of an objective allows the gap to be: quadratic for PBC's, linear for Av-PBC's."
    data = {"series": series, "x_label": _LABEL, "y_label": "gap / objective", "log_x": True, "log_y": True}
    return Figure("lines", "Gap of returns in parts of the objective", data, caption, _RATES)


def _over_horizon(title: str, rows: Sequence[Mapping[str, float]], caption: str) -> Figure:
    series = {label: _curve(rows, [row[name] for row in rows]) for name, label in _BOUNDS.items()}
    data = {"series": series, "x_label": _LABEL, "y_label": "gap and its bounds", "log_x": True, "log_y": True}
    return Figure("lines", title, data, caption, _RATES)


def _histograms(laboratory: TheoryLaboratory) -> list[Figure]:
    own = "With the student's occupancy, as Theorem 2 says: rounding."
    other = "With the teacher's occupancy instead, which is no identity."
    return [
        _histogram("Residuals of Theorem 2", laboratory.residuals("identity"), own),
        _histogram("Residuals with the wrong occupancy", laboratory.residuals("misplaced"), other),
    ]


def _histogram(title: str, residuals: Tensor, caption: str) -> Figure:
    """Counts by decade; residuals of exactly 0 are in the lowest."""
    lowest = -18
    decades = [max(lowest, math.floor(math.log10(r))) if r > 0 else lowest for r in residuals.flatten().tolist()]
    shown = range(min(decades), max(decades) + 1)
    names = [f"below 1e{d + 1}" if d == lowest else f"1e{d} to 1e{d + 1}" for d in shown]
    data = {"names": names, "values": [float(decades.count(d)) for d in shown], "unit": "count"}
    return Figure("bars", title, data, f"{caption} In parts of the largest return, pairs in each decade.", _EXACT)


def _negative(rows: Sequence[Mapping[str, float]]) -> Figure:
    """How often Corollary 1 is wrong once values may be negative."""
    shares = [sum(row[f"{name}_fails"] for row in rows) / len(rows) for name in LOWERED]
    caption = (
        "The same MDPs with rewards less their mean: gaps stay as they were, values fall below 0. Setting negative "
        "weights to 0 keeps a student from being pushed away from the teacher; only |q| keeps the bound."
    )
    data = {"names": [f"weights {words}" for words in WEIGHTS.values()], "values": shares, "unit": "%"}
    return Figure("bars", "Where Corollary 1 fails with negative values", data, caption, _EXACT)
