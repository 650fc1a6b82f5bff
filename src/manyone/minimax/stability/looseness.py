"""The bounds beside the measured values: how far apart they are at the constants of this problem on these samples.

``bound`` is the derived bound on E delta_avg after TK steps: the recursion of ``bounds`` with the problem's L and mu,
and with G, the largest gradient of a training sample at the start and at the end of the run (G along the whole run is
not known). The bounds on gaps start from the MEASURED distance, so that their looseness is that of the step from
stability to generalisation alone:

    primal gap <= sqrt(2) (1 + L/rho) G eps,   weak PD gap <= sqrt(2) G eps,
    strong PD gap <= sqrt(2) (1 + L/min(rho, mu)) G eps     (strongly convex-concave only)

Public: ``bounds_of``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from torch import Tensor

from manyone.minimax.problems.constants import Solved
from manyone.minimax.problems.problem import Problem
from manyone.minimax.stability import bounds


def bounds_of(
    problem: Problem, settings: Mapping[str, Any], final: Mapping[str, Tensor], steps: int
) -> dict[str, float]:
    """``bound``, ``bound_gap``, ``bound_weak`` and, strongly convex-concave, ``bound_pd`` and ``bound_ever`` (4 G / (mu
    m n), free of T) with ``step_limit``: eta L^2 / mu, at most 1 where the bound holds. Empty where L is not known."""
    eta = settings["eta_x"]
    if problem.exact != "gaps" or eta != settings["eta_y"] or not isinstance(eta, int | float):
        return {}
    lipschitz, gradient, rho, mu = (float(final[n].max()) for n in ("lipschitz", "gradient", "rho", "mu"))
    epsilon = float(final["delta_mean"].mean())
    kind = _class(problem, mu, lipschitz, eta)
    m, n = settings["clients"], settings["samples"]
    c = bounds.expansion(kind, eta, lipschitz, mu)
    found = {"bound": bounds.recursion(c, eta, gradient, m, n, steps)}
    if epsilon > 0:
        found["bound_gap"] = bounds.primal_gap(epsilon, gradient, lipschitz, rho)
        found["bound_weak"] = bounds.weak_pd_gap(epsilon, gradient)
    if mu > 0:
        found["step_limit"] = eta * lipschitz**2 / mu
        found["bound_ever"] = bounds.strongly_convex_concave(gradient, mu, m, n)
        if epsilon > 0:
            found["bound_pd"] = bounds.strong_pd_gap(epsilon, gradient, lipschitz, min(rho, mu))
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _class(problem: Problem, mu: float, lipschitz: float, eta: float) -> bounds.Class:
    """The class whose recursion holds: steps above mu / L^2 contract nothing, strongly convex or not."""
    if mu > 0 and eta <= mu / lipschitz**2:
        return "SC-SC"
    return "C-C" if cast(Solved, problem).convex else "NC-NC"
