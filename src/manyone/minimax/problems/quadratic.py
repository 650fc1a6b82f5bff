"""Quadratic and bilinear games: the problems on which everything can be computed by hand.

    f_i(x, y; g) = x^T A_i x / 2 + x^T B_i y - y^T C_i y / 2 + g_x^T x - g_y^T y        (A_i, C_i symmetric)

so that the saddle field G = (grad_x f, -grad_y f) is M_i z + g with M_i = [[A, B], [-B^T, C]].
Public: ``QuadraticGame``, ``bilinear``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.problems.problem import Batch, Problem
from manyone.weights.checkpoint import Weights


class QuadraticGame(Problem):
    """A common game (a [p, p], b [p, q], c [q, q]) or one per client (a leading axis m).

    Samples: the field ``g`` [N, P], the linear term of a sample in the order (x, y); without it g = 0. ``start``
    gives (x, y); zeros when left out.
    """

    stackable = True

    def __init__(self, a: Tensor, b: Tensor, c: Tensor, start: tuple[Tensor, Tensor] | None = None) -> None:
        self.uses_client = a.ndim == 3
        self.a, self.b, self.c = (v if v.ndim == 3 else v[None] for v in (a, b, c))
        _, p, q = self.b.shape
        if self.a.shape[1:] != (p, p) or self.c.shape[1:] != (q, q) or len({len(self.a), len(self.b), len(self.c)}) > 1:
            raise ManyoneError(
                "a quadratic game needs a [p, p], b [p, q], c [q, q] (or one of each per client), "
                f"got {list(a.shape)}, {list(b.shape)}, {list(c.shape)}"
            )
        if not torch.equal(self.a, self.a.mT) or not torch.equal(self.c, self.c.mT):
            raise ManyoneError("a quadratic game needs symmetric a and c")
        self.origin = start if start is not None else (torch.zeros(p).to(b), torch.zeros(q).to(b))

    def init(self, seed: int) -> tuple[Weights, Weights]:
        return {"x": self.origin[0]}, {"y": self.origin[1]}

    def loss(self, x: Weights, y: Weights, batch: Batch, noise: Tensor | None = None) -> Tensor:
        u, v = x["x"], y["y"]
        a, b, c = (self._of(value, batch, u) for value in (self.a, self.b, self.c))
        value = 0.5 * _form(u, a, u) + _form(u, b, v) - 0.5 * _form(v, c, v)
        if "g" in batch:
            g = batch["g"].mean(-2)
            value = value + (g[..., : u.shape[-1]] * u).sum(-1) - (g[..., u.shape[-1] :] * v).sum(-1)
        return value

    def stacked_gradient(self, z: Tensor, batch: Batch, noise: Tensor | None = None) -> Tensor:
        p = self.b.shape[1]
        u, v = z[:, :p], z[:, p:]
        a, b, c = (self._of(value, batch, z) for value in (self.a, self.b, self.c))
        of_x = (a @ u[..., None] + b @ v[..., None]).squeeze(-1)
        of_y = (b.mT @ u[..., None] - c @ v[..., None]).squeeze(-1)
        if "g" in batch:
            g = batch["g"].mean(-2)
            of_x, of_y = of_x + g[:, :p], of_y - g[:, p:]
        return torch.cat([of_x, of_y], 1)

    def jacobian(self, client: int = 0) -> Tensor:
        """M_i [P, P]."""
        i = client if self.uses_client else 0
        a, b, c = self.a[i], self.b[i], self.c[i]
        return torch.cat([torch.cat([a, b], 1), torch.cat([-b.T, c], 1)], 0)

    def saddle(self, g: Tensor) -> Tensor:
        """The saddle point [P] of the clients' mean objective; ``g`` [m, P] are their mean linear terms."""
        m = torch.stack([self.jacobian(i) for i in range(len(self.a))]).mean(0)
        return torch.linalg.solve(m, -g.mean(0).to(m))

    def _of(self, value: Tensor, batch: Batch, like: Tensor) -> Tensor:
        value = value.to(like)
        if not self.uses_client:
            return value[0]
        return value.index_select(0, batch["client"].reshape(-1)).reshape(*batch["client"].shape, *value.shape[1:])


def bilinear(b: Tensor, start: tuple[Tensor, Tensor]) -> QuadraticGame:
    """f = x^T B y from ``start``. Simultaneous steps diverge on it for every step size; extragradient does not."""
    p, q = b.shape[-2:]
    zeros = b.new_zeros(*b.shape[:-2], p, p), b.new_zeros(*b.shape[:-2], q, q)
    return QuadraticGame(zeros[0], b, zeros[1], start)


def _form(u: Tensor, matrix: Tensor, v: Tensor) -> Tensor:
    return (u * (matrix @ v[..., None]).squeeze(-1)).sum(-1)
