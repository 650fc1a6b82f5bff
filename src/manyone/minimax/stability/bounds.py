"""Upper bounds on argument stability and on generalisation gaps, as plain functions of constants.

Setting: m clients with n samples, every client makes ``steps`` = TK local steps of size eta with a batch drawn
uniformly with replacement, doubly stochastic mixing, neighbouring data sets that differ in ONE sample of ONE client.
G bounds the norm of a sample's gradient in z = (x, y), L its Lipschitz constant. One local step expands distances by at
most c, a hit on the replaced sample (b/n expected a step, each moving its client by at most 2 eta G / b) adds the
rest, and mixing never increases the clients' summed distance, hence

    E delta_avg^{s+1} <= c E delta_avg^s + 2 eta G / (m n)

whatever the topology and however TK is cut into rounds; delta_mean <= delta_avg. The closed forms below are this
recursion solved for four classes of problems. From stability eps to gaps: Lei et al. (ICML 2021).
Public: ``expansion``, ``recursion``, ``strongly_convex_concave``, ``convex_concave``, ``nonconvex_nonconcave``,
``decaying_rate``, ``own_factor``, ``weak_pd_gap``, ``primal_gap``, ``strong_pd_gap``.
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor

from manyone.errors import ManyoneError

Class = Literal["SC-SC", "C-C", "NC-NC"]


def expansion(kind: Class, eta: float, lipschitz: float, mu: float = 0.0) -> float:
    """c: how much one step z - eta G(z; xi) may expand distances.

    SC-SC (strong convexity-concavity ``mu``, eta <= mu/L^2): sqrt(1 - 2 mu eta + L^2 eta^2); C-C: sqrt(1 + eta^2 L^2);
    NC-NC: 1 + eta L.
    """
    _positive(eta=eta, lipschitz=lipschitz)
    if kind == "SC-SC":
        if not 0 < mu <= lipschitz or eta > mu / lipschitz**2:
            raise ManyoneError(f"SC-SC needs 0 < mu <= L and eta <= mu/L^2, got mu {mu}, L {lipschitz}, eta {eta}")
        return math.sqrt(1 - 2 * mu * eta + (lipschitz * eta) ** 2)
    if kind == "C-C":
        return math.sqrt(1 + (eta * lipschitz) ** 2)
    if kind == "NC-NC":
        return 1 + eta * lipschitz
    raise ManyoneError(f"class {kind!r}: choose 'SC-SC', 'C-C' or 'NC-NC'")


def recursion(c: float, eta: float, gradient: float, m: int, n: int, steps: int) -> float:
    """The bound on E delta_avg after ``steps`` steps: 2 eta G / (m n) times 1 + c + ... + c^{steps-1}."""
    _positive(eta=eta, gradient=gradient, m=m, n=n)
    once = 2 * eta * gradient / (m * n)
    if math.isclose(c, 1.0, rel_tol=1e-15):
        return once * steps
    try:
        return once * math.expm1(steps * math.log(c)) / (c - 1)
    except OverflowError:
        return math.inf


def strongly_convex_concave(gradient: float, mu: float, m: int, n: int) -> float:
    """4 G / (mu m n) for eta <= mu/L^2: free of T, K and the topology."""
    _positive(gradient=gradient, mu=mu, m=m, n=n)
    return 4 * gradient / (mu * m * n)


def convex_concave(gradient: float, lipschitz: float, eta: float, m: int, n: int, steps: int) -> float:
    """(2 G eta TK / (m n)) exp(L^2 eta^2 TK / 2)."""
    _positive(gradient=gradient, lipschitz=lipschitz, eta=eta, m=m, n=n)
    exponent = 0.5 * (lipschitz * eta) ** 2 * steps
    return 2 * gradient * eta * steps / (m * n) * (math.exp(exponent) if exponent < 700 else math.inf)


def nonconvex_nonconcave(gradient: float, lipschitz: float, eta: float, m: int, n: int, steps: int) -> float:
    """(2 G / (L m n)) ((1 + eta L)^{TK} - 1): exponential in eta TK."""
    return recursion(expansion("NC-NC", eta, lipschitz), eta, gradient, m, n, steps)


def decaying_rate(c0: float, lipschitz: float, m: int, n: int, steps: int) -> float:
    """The order (TK)^{c0 L / (1 + c0 L)} / (n m^{1 / (1 + c0 L)}) of the gap for eta_s = c0 / (s + 1), NC-NC.

    A rate without its constant: only ratios of it mean something.
    """
    _positive(c0=c0, lipschitz=lipschitz, m=m, n=n, steps=steps)
    q = c0 * lipschitz
    return steps ** (q / (1 + q)) / (n * m ** (1 / (1 + q)))


def own_factor(weights: Tensor, rounds: int, client: int = 0) -> float:
    """m times the mean over rounds of (W^k)_{ii}, k = 1..rounds: about how much larger delta_own is than delta_mean.

    1 for exact averaging, m for isolated clients: the part of the stability that the topology does govern. (Exact for
    steps that expand nothing and hits spread evenly over the rounds.)
    """
    if rounds < 1:
        raise ManyoneError(f"rounds = {rounds}: must be at least 1")
    power, total = torch.eye(len(weights), dtype=torch.float64), 0.0
    for _ in range(rounds):
        power = weights.double() @ power
        total += float(power[client, client])
    return len(weights) * total / rounds


def weak_pd_gap(epsilon: float, gradient: float) -> float:
    """sqrt(2) G eps bounds the weak primal-dual generalisation gap."""
    return math.sqrt(2) * gradient * epsilon


def primal_gap(epsilon: float, gradient: float, lipschitz: float, rho: float) -> float:
    """sqrt(2) (1 + L / rho) G eps bounds the primal generalisation gap when f(x, .) is rho-strongly concave."""
    _positive(rho=rho)
    return math.sqrt(2) * (1 + lipschitz / rho) * gradient * epsilon


def strong_pd_gap(epsilon: float, gradient: float, lipschitz: float, rho: float) -> float:
    """The same for the strong primal-dual gap of a rho-SC-SC problem."""
    return primal_gap(epsilon, gradient, lipschitz, rho)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ManyoneError(f"{name} = {value}: must be positive")
