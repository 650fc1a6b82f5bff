"""A game whose primal risk satisfies the Polyak-Lojasiewicz inequality without being convex.

    f(x, y; g) = (a/2) ||x||^2 + wave sum_j sin^2 x_j + b x^T y - (c/2) ||y||^2 + g_x^T x - g_y^T y

is c-strongly concave in y, whose best response is y = (b x - g_y)/c, hence

    R(x) = sum_j (k/2) x_j^2 + wave sin^2 x_j + t_j x_j + g_yj^2 / (2c),     k = a + b^2/c,  t = g_x - (b/c) g_y

With k = 2, wave = 3 and t = 0 every term is x^2 + 3 sin^2 x, the example of Karimi, Nutini, Schmidt ("Linear
Convergence of Gradient and Proximal-Gradient Methods Under the Polyak-Lojasiewicz Condition", 2016): it curves down to
-4, and satisfies the inequality with mu >= 1/32. With wave = 0 it is a quadratic, strongly convex-concave.
Coordinates do not meet, so every minimum is found one coordinate at a time, and all risks and gaps are exact.
Public: ``WaveGame``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.arguments import number, whole
from manyone.minimax.problems.constants import Constants, Exact
from manyone.minimax.problems.problem import Batch, Problem
from manyone.weights.checkpoint import Weights

_GRID = 4001
_NEWTON = 8


class WaveGame(Problem):
    """``dim`` numbers for x and as many for y; samples: the field ``g`` [N, 2 dim]. Starts at x = ``start``, y = 0."""

    stackable = True

    def __init__(
        self, dim: int, *, a: float = 1.0, b: float = 1.0, c: float = 1.0, wave: float = 3.0, start: float = 2.0
    ) -> None:
        self.dim = whole("WaveGame: dim", dim, 1)
        self.a, self.b, self.c, self.wave, self.origin = (
            number(f"WaveGame: {n}", v) for n, v in (("a", a), ("b", b), ("c", c), ("wave", wave), ("start", start))
        )
        if a <= 0 or c <= 0 or wave < 0:
            raise ManyoneError(f"WaveGame: a = {a} and c = {c} must be above 0, wave = {wave} at least 0")

    def init(self, seed: int) -> tuple[Weights, Weights]:
        return {"x": torch.full((self.dim,), self.origin)}, {"y": torch.zeros(self.dim)}

    def loss(self, x: Weights, y: Weights, batch: Batch, noise: Tensor | None = None) -> Tensor:
        return self._value(x["x"], y["y"], batch["g"].mean(-2))

    def stacked_gradient(self, z: Tensor, batch: Batch, noise: Tensor | None = None) -> Tensor:
        x, y = z[:, : self.dim], z[:, self.dim :]
        g = batch["g"].mean(-2)
        of_x = self.a * x + self.wave * torch.sin(2 * x) + self.b * y + g[:, : self.dim]
        return torch.cat([of_x, self.b * x - self.c * y - g[:, self.dim :]], 1)

    # exact quantities on a data set: g [N, 2 dim]; states z [..., P]

    @property
    def exact(self) -> Exact:
        return "gaps"

    def value(self, z: Tensor, data: Mapping[str, Tensor]) -> Tensor:
        """F at ``z`` on ``data``: [...]."""
        return self._value(z[..., : self.dim], z[..., self.dim :], data["g"].mean(0).to(z))

    def best_response_y(self, z: Tensor, data: Mapping[str, Tensor]) -> Tensor:
        """The y [..., dim] that maximises F(x, .) on ``data``."""
        return (self.b * z[..., : self.dim] - data["g"].mean(0).to(z)[self.dim :]) / self.c

    def best_response_x(self, y: Tensor, data: Mapping[str, Tensor]) -> Tensor:
        """The x [dim] that minimises F(., y) on ``data``."""
        return self._lowest(self.a, self.b * y + data["g"].mean(0).to(y)[: self.dim])

    def primal_risk(self, z: Tensor, data: Mapping[str, Tensor]) -> Tensor:
        """R(x) on ``data``: [...]."""
        return self.value(torch.cat([z[..., : self.dim], self.best_response_y(z, data)], -1), data)

    def pd_gap(self, z: Tensor, data: Mapping[str, Tensor]) -> Tensor:
        """max_y' F(x, y') - min_x' F(x', y) on ``data`` for one state [P]."""
        y = z[self.dim :]
        return self.primal_risk(z, data) - self.value(torch.cat([self.best_response_x(y, data), y]), data)

    def weak_pd_gap(self, z: Tensor, data: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """max_y' mean_r F_r(x_r, y') - min_x' mean_r F_r(x', y_r) for states ``z`` [R, P] and as many data sets."""
        x, y = z[:, : self.dim], z[:, self.dim :]
        g = torch.stack([d["g"].mean(0) for d in data]).to(z)
        best = ((self.b * x - g[:, self.dim :]) / self.c).mean(0)
        lowest = self._lowest(self.a, (self.b * y + g[:, : self.dim]).mean(0))
        return (self._value(x, best.expand_as(y), g) - self._value(lowest.expand_as(x), y, g)).mean()

    def saddle(self, data: Mapping[str, Tensor]) -> Tensor:
        """(argmin R, its best response) [P] on ``data``: a saddle point where f is convex in x there."""
        g = data["g"].mean(0)
        x = self._lowest(self.curving, self._tilt(g))
        return torch.cat([x, (self.b * x - g[self.dim :]) / self.c])

    def least_risk(self, data: Mapping[str, Tensor]) -> Tensor:
        """min_x R(x) on ``data``."""
        return self.primal_risk(self.saddle(data), data)

    @property
    def convex(self) -> bool:
        """Whether f is convex in x."""
        return self.a >= 2 * self.wave

    @property
    def curving(self) -> float:
        """k, the curvature of R without its wave."""
        return self.a + self.b**2 / self.c

    def constants(self, data: Mapping[str, Tensor]) -> Constants:
        """What bounds know of it; ``pl`` is measured on a grid that holds every point where R' can be small."""
        steep, flat = self.a + 2 * self.wave, self.a - 2 * self.wave
        norms = [
            float(torch.linalg.matrix_norm(torch.tensor([[one, self.b], [self.b, -self.c]], dtype=torch.float64), 2))
            for one in (steep, flat)
        ]
        mu = max(0.0, min(flat, self.c))
        return Constants(max(norms), self.c, mu, self.curving - 2 * self.wave, self._pl(data))

    def _pl(self, data: Mapping[str, Tensor]) -> float:
        """inf R'^2 / (2 (R - min R)) of the worst coordinate: the constant of a sum is the least of its terms'."""
        tilt = self._tilt(data["g"].double().mean(0))
        lowest = self._lowest(self.curving, tilt)
        reach = 4 * (float(tilt.abs().max()) + self.wave + math.pi) / self.curving
        x = torch.linspace(-reach, reach, _GRID, dtype=torch.float64)[:, None]
        slope = self.curving * x + self.wave * torch.sin(2 * x) + tilt
        above = self._one(x, self.curving, tilt) - self._one(lowest, self.curving, tilt)
        far = (x - lowest).abs() > 1e-3  # nearer, both vanish and their ratio is the curvature at the minimum
        near = self.curving + 2 * self.wave * torch.cos(2 * lowest)
        ratio = torch.where(far, slope.square() / (2 * above.clamp_min(1e-300)), near)
        return float(ratio.min())

    def _tilt(self, g: Tensor) -> Tensor:
        return g[: self.dim] - self.b / self.c * g[self.dim :]

    def _value(self, x: Tensor, y: Tensor, g: Tensor) -> Tensor:
        value = 0.5 * self.a * x.square() + self.wave * x.sin().square() + self.b * x * y - 0.5 * self.c * y.square()
        return (value + g[..., : self.dim] * x - g[..., self.dim :] * y).sum(-1)

    def _one(self, x: Tensor, k: float, tilt: Tensor) -> Tensor:
        return 0.5 * k * x.square() + self.wave * x.sin().square() + tilt * x

    def _lowest(self, k: float, tilt: Tensor) -> Tensor:
        """argmin of (k/2) x^2 + wave sin^2 x + t x for every t of ``tilt`` [dim]: the best of a grid, then Newton."""
        reach = float(tilt.abs().max() + self.wave) / k
        grid = torch.linspace(-reach - 1, reach + 1, _GRID, dtype=tilt.dtype, device=tilt.device)[:, None]
        x = grid[self._one(grid, k, tilt).argmin(0), 0]
        for _ in range(_NEWTON):
            second = k + 2 * self.wave * torch.cos(2 * x)
            x = x - (k * x + self.wave * torch.sin(2 * x) + tilt) / second.clamp_min(1e-3)
        return x
