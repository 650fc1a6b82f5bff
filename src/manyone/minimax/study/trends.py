"""The classes of problems in tables: what theory predicts over T, n and m, and the slopes that were measured.

Public: ``trends_table``, ``bounds_table``, ``constants_table``, ``NAMES``.
"""

from __future__ import annotations

from collections.abc import Sequence

from manyone.claims.figure import Figure
from manyone.claims.numbers import minus, significant
from manyone.claims.rows import Results, Row
from manyone.minimax.stability.results import ALGORITHMS

_SECTION = "Settings"
NAMES = {
    "c-sc": "C-SC, linear AUC", "sc-sc": "SC-SC, linear AUC with ridges", "pl-sc-auc": "PL-SC, overparameterised AUC",
    "pl-sc-wave": "PL-SC, wave game", "nc-sc": "NC-SC, MLP AUC", "nc-nc": "NC-NC, GAN",
}  # fmt: skip
_ALGORITHMS = {"local-sgda": "Local-SGDA", "local-dsgda": "Local-DSGDA"}
_MEASURES = {
    "delta_mean": "δ_mean", "delta_avg": "δ_avg", "delta_own": "δ_own", "gap": "primal gap",
    "pd_gap": "strong PD gap", "weak_gap": "weak PD gap", "plain_gap": "plain gap", "error": "optimisation error",
    "excess": "excess population risk",
}  # fmt: skip
_OVER_T = {
    "c-sc": "grows, at most like T", "sc-sc": "bounded", "pl-sc-auc": "bounded once optimised",
    "pl-sc-wave": "bounded once optimised", "nc-sc": "grows", "nc-nc": "exponential",
}  # fmt: skip
_BOUNDS = (
    ("delta_avg", "bound", "recursion"),
    ("delta_avg", "bound_ever", "4G/(μmn)"),
    ("gap", "bound_gap", "√2(1+L/ρ)Gδ"),
    ("pd_gap", "bound_pd", "√2(1+L/μ)Gδ"),
    ("weak_gap", "bound_weak", "√2Gδ"),
)
_LARGE = 1e6


def trends_table(rows: Sequence[Row]) -> Figure:
    """Setting x algorithm x measure: predicted trend, late slope over T, slopes over n and m, intervals over seeds."""
    results = Results(rows)
    lines = []
    for suite in results.suites():
        for algorithm, measure in ((a, m) for a in ALGORITHMS for m in _MEASURES):
            cells = [_slope(results, suite, f"{algorithm}-{sweep}", measure, late) for sweep, late in
                     (("rounds", True), ("samples", False), ("clients", False))]  # fmt: skip
            if any(cell != "–" for cell in cells):
                t, n, m = _predicted(suite, measure)
                lines.append(
                    [NAMES[suite], _ALGORITHMS[algorithm], _MEASURES[measure], t, cells[0], n, cells[1], m, cells[2]]
                )
    columns = ["setting", "algorithm", "measure", "T, predicted", "late slope", "n, predicted", "slope",
               "m, predicted", "slope "]  # fmt: skip
    text = (
        "Slopes of logarithms of means over replicas with 95 % intervals over seeds; over T without its smallest "
        "value. Predicted: what the bounds allow at most. – : a mean is not above 0, or the measure has no closed form."
    )
    return Figure(
        "table",
        "Classes of problems: predicted and measured trends",
        {"columns": columns, "rows": lines},
        text,
        _SECTION,
    )


def bounds_table(rows: Sequence[Row]) -> Figure:
    """Bounds beside measured values at T = 100, with their looseness."""
    results, lines = Results(rows), []
    for suite in results.suites():
        for algorithm in ALGORITHMS:
            for measure, bound, name in _BOUNDS:
                own, above = (results.interval(suite, f"{algorithm}-rounds", "t100", key) for key in (measure, bound))
                if own is not None and above is not None and own.value > 0:
                    ratio = f"{_large(above.value / own.value)} times"
                    head = [NAMES[suite], _ALGORITHMS[algorithm], _MEASURES[measure]]
                    lines.append([*head, significant(own.value), name, _large(above.value), ratio])
    columns = ["setting", "algorithm", "measure", "measured", "bound", "its value", "looseness"]
    text = (
        "At T = 100, means over seeds. G is the largest gradient of a training sample at the start and the end, L "
        "exact; bounds on gaps start from the measured distance δ_mean. Networks have no L in closed form."
    )
    return Figure("table", "Bounds beside measured values", {"columns": columns, "rows": lines}, text, _SECTION)


def constants_table(rows: Sequence[Row]) -> Figure:
    """L, rho, mu, and the measured PL constant and least curvature of the primal risk."""
    results, lines = Results(rows), []
    names = ("lipschitz", "rho", "mu", "pl", "curvature", "gradient")
    for suite in results.suites():
        values = [results.interval(suite, "local-sgda-rounds", "t100", name) for name in names]
        if all(v is not None for v in values):
            lines.append([NAMES[suite], *(minus(f"{v.value:.3g}") for v in values if v is not None)])
    columns = ["setting", "L", "ρ", "μ", "PL constant", "least curvature of R_S", "G"]
    text = (
        "Of the training samples at T = 100, means over seeds. The PL constant is the largest μ with "
        "‖∇R_S‖² ≥ 2μ(R_S − min R_S): of a quadratic the least eigenvalue that is not 0, of the wave game by a grid."
    )
    return Figure("table", "Constants of the classes", {"columns": columns, "rows": lines}, text, _SECTION)


def _slope(results: Results, suite: str, method: str, measure: str, late: bool) -> str:
    key = "late_slope" if late else "slope"
    found = results.interval(suite, method, "slope", key if measure == "delta_mean" else f"{key}_{measure}")
    if found is None:
        return "–"
    reach = "" if found.n < 2 else f" ± {found.high - found.value:.2f}"
    return minus(f"{found.value:.2f}") + reach


def _predicted(suite: str, measure: str) -> tuple[str, str, str]:
    if measure in ("error", "excess"):
        return "falls", "–" if measure == "error" else "falls", "falls"
    own = "−1 to 0" if measure == "delta_own" else "−1"
    falls = "falls" if suite == "pl-sc-auc" else "−1"
    return _OVER_T[suite], falls, own if falls == "−1" else falls


def _large(x: float) -> str:
    return significant(x) if x < _LARGE else f"{x:.0e}".replace("e+0", "e").replace("e+", "e")
