"""Means on the sphere as linear combinations whose coefficients follow from inner products alone.

x_1 .. x_N are the tensors (or their differences to a base), each one long vector, G their Gram matrix, n_i = |x_i| and
u_i = x_i / n_i. Every method below stays in the span of the x_i, so that one pass for G and one for the sum are enough:

    spherical interpolation (Shoemake, 1985)   sin((1-t) W)/sin W x_1 + sin(t W)/sin W x_2        interpolation
    barycentre in one tangent space            exp_m(sum w_i log_m u_i), m = sum w_i u_i / |.|     barycentre
    Karcher mean (Karcher, 1977)               m <- exp_m(mean log_m u_i) until it stays           karcher_mean
    Model Stock (arXiv 2403.19522, eq. 2)      t = N c / (1 + (N-1) c), c the mean cosine          stock_ratio

W is the angle between x_1 and x_2. All of them work in float64 on G [N, N]; no function here knows a recipe.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.merging.static.elementwise import FromGram

NamedRule = Callable[[str, Tensor], tuple[float, Sequence[float]]]


class PerTensorGram(FromGram):
    """A linear combination by a rule of (tensor's name, Gram matrix), for coefficients with options that differ by
    tensor. With ``space`` "task-vectors" the rule's coefficients are those of the differences to the base."""

    def __init__(self, rule: NamedRule, space: str) -> None:
        super().__init__(lambda gram: rule("", gram), space)
        self.coefficients = lambda name: self._of_weights(*rule(name, self.grams[name]))

    def _of_weights(self, first: float, others: Sequence[float]) -> tuple[float, Sequence[float]]:
        return (1 - sum(others) if self.space == "task-vectors" else first), others


def interpolation(gram: Tensor, t: float, *, floor: float, linear: Callable[[float], bool]) -> list[float]:
    """Coefficients of the two vectors; lengths below ``floor`` count as that, and where ``linear(cos)`` the
    interpolation is linear (the angle is too near 0 or 180 degrees)."""
    lengths = gram.diagonal().sqrt().clamp_min(floor)
    cosine = float((gram[0, 1] / lengths[0] / lengths[1]).clamp(-1, 1))
    if linear(cosine):
        return [1 - t, t]
    angle = math.acos(cosine)
    return [math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)]


def barycentre(gram: Tensor, weights: Sequence[float], eps: float = 1e-8) -> list[float]:
    """Coefficients of the weighted barycentre in the tangent space at the weighted mean, with the weighted mean length.

    Where the weighted sum of two vectors is zero they are interpolated linearly; of more it is an error.
    """
    if len(gram) == 1:
        return [1.0]
    w = torch.tensor(list(weights), dtype=torch.float64)
    lengths = gram.diagonal().sqrt()
    unit = 1 / (lengths + eps)
    mean = w * unit
    size = _length(gram, mean)
    if size < eps:
        if len(gram) == 2:
            return w.tolist()
        raise ManyoneError("multislerp: the weighted sum of the directions is zero; change the weights")
    mean = mean / size
    cosines = unit * (gram @ mean)
    tangent = w * unit - float(w @ cosines) * mean
    angle = _length(gram, tangent) + eps
    result = mean * math.cos(angle) + tangent * (math.sin(angle) / angle)
    return (result * float(lengths @ w)).tolist()


def karcher_mean(gram: Tensor, max_iter: int = 10, tol: float = 1e-5) -> list[float]:
    """Coefficients of the Karcher mean of the directions with equal weights, with the mean length.

    Vectors no longer than ``tol`` have no direction; the iteration ends when a step is shorter than ``tol``.
    """
    count = len(gram)
    if count == 1:
        return [1.0]
    lengths = gram.diagonal().sqrt()
    valid = [i for i in range(count) if float(lengths[i]) > tol]
    if not valid:
        return [0.0] * count
    share = 1 / len(valid)
    units = torch.zeros(count, count, dtype=torch.float64)  # rows: coefficients of u_i
    for i in valid:
        units[i, i] = 1 / lengths[i]
    mean = units.sum(0) * share
    size = _length(gram, mean)
    mean = units[valid[0]].clone() if size < tol else mean / size
    for _ in range(max_iter):
        tangent = torch.zeros(count, dtype=torch.float64)
        for i in valid:
            cosine = min(1.0, max(-1.0, float(units[i] @ gram @ mean)))
            angle = math.acos(cosine)
            if angle >= tol:
                tangent += share * angle / math.sin(angle) * (units[i] - cosine * mean)
        step = _length(gram, tangent)
        if step < tol:
            break
        mean = math.cos(step) * mean + math.sin(step) / step * tangent
        size = _length(gram, mean)
        if size > tol:
            mean = mean / size
    return (mean * float(lengths.mean())).tolist()


def stock_ratio(cosine: Tensor, count: int) -> Tensor:
    """Model Stock's t for ``count`` models, not clamped: below 0 where the task vectors point away from each other.

    At the pole, cos = -1/(N-1), t = 0: the base.
    """
    below = 1 + (count - 1) * cosine
    pole = below.abs() < 1e-6
    return torch.where(pole, 0.0, count * cosine / torch.where(pole, 1.0, below))


def mean_cosine(gram: Tensor, floor: float = 1e-6) -> Tensor:
    """The mean over all pairs of cos(x_i, x_j); products of lengths count as at least ``floor``."""
    lengths = gram.diagonal().sqrt()
    i, j = torch.triu_indices(len(gram), len(gram), 1)
    return (gram[i, j] / (lengths[i] * lengths[j]).clamp_min(floor)).clamp(-1, 1).mean()


def _length(gram: Tensor, coefficients: Tensor) -> float:
    return math.sqrt(max(0.0, float(coefficients @ gram @ coefficients)))
