"""What bounds know of a problem, and what a problem must have for its gaps to be computed exactly.

Public: ``Constants``, ``Exact``, ``Solved``, ``Valued``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor

Exact = Literal["nothing", "risk", "gaps"]
Samples = Mapping[str, Tensor]


@dataclass(frozen=True)
class Constants:
    """``lipschitz``: of a sample's gradient in z; ``rho``: f is rho-strongly concave in y; ``mu``: f is mu-strongly
    convex-concave (0: it is not).

    Of the primal risk R on a data set: ``curvature``, the least eigenvalue of its Hessian anywhere (below 0: not
    convex, 0: convex but not strongly), and ``pl``, the largest mu with ||grad R||^2 >= 2 mu (R - min R) everywhere,
    its Polyak-Lojasiewicz constant.
    """

    lipschitz: float
    rho: float
    mu: float
    curvature: float
    pl: float


class Valued(Protocol):
    """A problem whose primal risk is exact."""

    def value(self, z: Tensor, data: Samples) -> Tensor:
        """F at the states ``z`` [..., P] on ``data``: [...]."""

    def primal_risk(self, z: Tensor, data: Samples) -> Tensor:
        """R(x) = max_y F(x, y) on ``data``: [...]."""


class Solved(Valued, Protocol):
    """A problem whose gaps are exact; ``convex``: every sample's f is convex in x, whatever y."""

    @property
    def convex(self) -> bool: ...

    def pd_gap(self, z: Tensor, data: Samples) -> Tensor:
        """max_y' F(x, y') - min_x' F(x', y) for one state [P]."""

    def weak_pd_gap(self, z: Tensor, data: Sequence[Samples]) -> Tensor:
        """max_y' mean_r F_r(x_r, y') - min_x' mean_r F_r(x', y_r) for states [R, P]."""

    def least_risk(self, data: Samples) -> Tensor:
        """min_x R(x)."""

    def constants(self, data: Samples) -> Constants:
        """What bounds know of it on ``data``."""
