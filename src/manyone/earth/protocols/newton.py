"""Exact logistic regression for many values of C at once: preconditioned Newton-CG along the path.

    softmax   F(W, b) = 1/n Sum_i CE(softmax(W z_i + b), y_i)   + 1/(2 C n) |W|^2       (the protocol's objective)
    sigmoid   F(W, b) = 1/n Sum_i Sum_k BCE(w_k z_i + b_k, y_ik) + 1/(2 C n) |W|^2      (K times the multi-label one)

The specified solver is L-BFGS; its optimum is the same (F is convex, unique in W), but features of images are nearly
collinear, so that L-BFGS takes hundreds to thousands of passes for coefficients that are right to 1e-3. Ours:

1. features are rotated onto the eigenvectors of their Gram matrix (``Basis``): g_1..g_r, at most min(n, D) of them;
2. Newton's direction by conjugate gradients, each product two thin matrix products;
3. preconditioner: (A x diag(g) + I / (C n))^-1 with A = mean_i(diag(p_i) - p_i p_i^T), exact at W = 0, and, once that
   has needed more than a few products, the Hessian's diagonal blocks (one a class) by Cholesky;
4. the solution for one C starts the next. The line search costs no product: logits are linear in the step.

Arrays are class by sample ([K, n]): soft-max over the first axis is many times faster than over the last.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_FEW_PRODUCTS = (
    8  # more for one direction, and r / 6 besides (building blocks costs r / 2 products): blocks are cheaper
)
_BLOCKS_EVERY = 3  # Newton steps for which the blocks of one point are good enough
_BLOCK_NUMBERS = 1 << 25  # K (r + 1)^2 above which they would not fit comfortably (256 MiB)
_MOST_PRODUCTS, _MOST_STEPS = 80, 100
_FORCING = 0.1  # how far CG reduces the residual: enough for steps that shrink tenfold and more
_WIDEST_BASIS = 2048  # the eigenvectors of wider Gram matrices cost more than they save
Preconditioner = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Basis:
    """Standardised features Z [n, D], rotated: z = Q^T Z^T [r, n]."""

    rotated: Tensor
    """float64 [r, n]."""
    axes: Tensor | None
    """Q, float64 [D, r]; None: the identity."""
    energies: Tensor
    """g, float64 [r]: mean squares of the rows of ``rotated``."""

    @classmethod
    def from_features(cls, z: Tensor, widest: float = float("inf")) -> Basis:
        """The eigenvectors of Z^T Z / n, or where n < D those of Z Z^T / n: W's minimiser lies in Z's row space.

        Above ``widest`` of them the features stay as they are.
        """
        z = z.to(torch.float64)
        n, d = z.shape
        if min(n, d) > widest:
            return cls(z.T.contiguous(), None, z.square().mean(0))
        if d <= n:
            g, q = torch.linalg.eigh(z.T @ z / n)
        else:
            g, u = torch.linalg.eigh(z @ z.T / n)
            kept = g > g[-1] * 1e-13
            g, q = g[kept], z.T @ u[:, kept] / (n * g[kept]).sqrt()
        return cls((z @ q).T.contiguous(), q, g.clamp_min(0))

    def back(self, w: Tensor) -> Tensor:
        """Coefficients [K, r] in the basis -> [K, D]."""
        return w if self.axes is None else w @ self.axes.T

    def into(self, w: Tensor) -> Tensor:
        """Coefficients [K, D] -> [K, r]: what of them lies in the basis."""
        return w if self.axes is None else w @ self.axes


@dataclass
class _Point:
    """Where the path is: coefficients in the basis, logits [K, n], and whether CG has become slow."""

    w: Tensor
    b: Tensor
    logits: Tensor
    blocks: bool = False


def logistic_path(
    z: Tensor,
    y: Tensor,
    strengths: Sequence[float],
    *,
    exclusive: bool = True,
    start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-4,
) -> list[tuple[Tensor, Tensor]]:
    """(W [K, D], b [K]) in float64 for every C of ``strengths`` (best from small to large).

    ``z`` [n, D] are standardised features, ``y`` [n, K] zeros and ones: one 1 a row where ``exclusive`` (soft-max),
    any number otherwise (sigmoids). Stops when no coefficient moves by ``tolerance``, with Newton's convergence: the
    distance to the optimum is then far smaller. ``start``: coefficients to begin with, default W = 0 and the log of the
    class shares.
    """
    return list(logistic_steps(z, y, strengths, exclusive=exclusive, start=start, tolerance=tolerance))


def logistic_steps(
    z: Tensor,
    y: Tensor,
    strengths: Sequence[float],
    *,
    exclusive: bool = True,
    start: tuple[Tensor, Tensor] | None = None,
    tolerance: float = 1e-4,
    effort: tuple[int, int] = (_MOST_STEPS, _MOST_PRODUCTS),
) -> Iterator[tuple[Tensor, Tensor]]:
    """The same, one C at a time as they are asked for: the largest are the slowest, and seldom the best.

    ``effort``: most Newton steps for one C, and products for one direction.
    """
    basis, y = Basis.from_features(z, _WIDEST_BASIS), y.T.to(torch.float64).contiguous()
    k, n = y.shape
    share = y.mean(1).clamp(0.5 / n, 1 - 0.5 / n)
    if start is not None:
        w, b = basis.into(start[0].to(torch.float64)), start[1].to(torch.float64)
    else:
        w = torch.zeros(k, len(basis.energies), dtype=torch.float64)
        b = share.log() if exclusive else torch.logit(share)
    if exclusive:
        b = b - b.mean()
    at = _Point(w, b, w @ basis.rotated + b[:, None])
    for c in strengths:
        _minimise(basis, y, 1 / (c * n), at, exclusive, tolerance, effort)
        yield basis.back(at.w), at.b.clone()


def _loss(logits: Tensor, y: Tensor, exclusive: bool) -> float:
    """Mean over samples of the cross-entropy (summed over labels where these are not exclusive)."""
    if exclusive:
        top = logits.amax(0)
        return float(((logits - top).exp().sum(0).log() + top - (logits * y).sum(0)).mean())
    return float((torch.nn.functional.softplus(logits) - logits * y).sum(0).mean())


def _minimise(
    basis: Basis, y: Tensor, penalty: float, at: _Point, exclusive: bool, tolerance: float, effort: tuple[int, int]
) -> None:
    """Newton's method from ``at``, which is moved to the minimiser for this penalty 1/(Cn)."""
    z, n = basis.rotated, y.shape[1]
    exact: Preconditioner | None = None
    for iteration in range(effort[0]):
        p = torch.softmax(at.logits, 0) if exclusive else torch.sigmoid(at.logits)
        residual = (p - y) / n
        gradient = (z @ residual.T).T + penalty * at.w, residual.sum(1)
        if at.blocks and (exact is None or iteration % _BLOCKS_EVERY == 0):
            exact = _blocks(z, p, penalty, exclusive)
        condition = exact or _factored(basis.energies, p, penalty, exclusive)
        dw, db, products = _direction(z, p, penalty, gradient, condition, exclusive, effort[1])
        at.blocks |= (
            products > _FEW_PRODUCTS + len(z) / (2 * _BLOCKS_EVERY) and len(y) * (len(z) + 1) ** 2 <= _BLOCK_NUMBERS
        )

        change = dw @ z + db[:, None]
        slope = float((gradient[0] * dw).sum() + (gradient[1] * db).sum())
        before = _loss(at.logits, y, exclusive) + penalty / 2 * float(at.w.square().sum())
        size = 1.0
        while size > 1e-6:  # Armijo; below that the loss no longer changes in float64
            after = _loss(at.logits + size * change, y, exclusive) + penalty / 2 * float(
                (at.w + size * dw).square().sum()
            )
            if after <= before + 1e-4 * size * slope + 1e-15 * abs(before):
                break
            size /= 2
        at.w, at.b, at.logits = at.w + size * dw, at.b + size * db, at.logits + size * change
        if size * max(float(basis.back(dw).abs().max()), float(db.abs().max())) < tolerance:
            return


def _direction(
    z: Tensor,
    p: Tensor,
    penalty: float,
    gradient: tuple[Tensor, Tensor],
    condition: Preconditioner,
    exclusive: bool,
    most: int,
) -> tuple[Tensor, Tensor, int]:
    """(dW, db, products used): H (dW, db) = -gradient by preconditioned conjugate gradients."""
    n = p.shape[1]
    curvature = p / n if exclusive else p * (1 - p) / n
    rw, rb = -gradient[0], -gradient[1]
    dw, db = torch.zeros_like(rw), torch.zeros_like(rb)
    pw, pb = condition(rw, rb)
    first = now = float((rw * pw).sum() + (rb * pb).sum())
    for products in range(1, most + 1):
        if now <= 0:  # the gradient is zero to rounding
            return dw, db, products
        u = curvature * (pw @ z + pb[:, None])
        if exclusive:
            u -= p * u.sum(0)
        hw, hb = (z @ u.T).T + penalty * pw, u.sum(1)
        step = now / float((pw * hw).sum() + (pb * hb).sum())
        dw, db, rw, rb = dw + step * pw, db + step * pb, rw - step * hw, rb - step * hb
        zw, zb = condition(rw, rb)
        new = float((rw * zw).sum() + (rb * zb).sum())
        if new <= _FORCING**2 * first:
            break
        pw, pb, now = zw + new / now * pw, zb + new / now * pb, new
    return dw, db, products


def _factored(energies: Tensor, p: Tensor, penalty: float, exclusive: bool) -> Preconditioner:
    """(A x diag(g) + penalty)^-1 with A the mean curvature: right when curvature and features are independent."""
    if not exclusive:
        a = (p * (1 - p)).mean(1)
        inverse = 1 / (a[:, None] * energies + penalty)
        return lambda w, b: (w * inverse, b / a.clamp_min(1e-300))
    a, u = torch.linalg.eigh(torch.diag(p.mean(1)) - p @ p.T / p.shape[1])
    kept = a > 1e-12 * a[-1].clamp_min(1e-300)  # not the direction in which all classes move together: F is flat in it
    inverse = kept[:, None] / (a.clamp_min(0)[:, None] * energies + penalty)
    above = torch.where(kept, 1 / a.where(kept, torch.ones_like(a)), 0.0)
    return lambda w, b: (u @ ((u.T @ w) * inverse), u @ ((u.T @ b) * above))


def _blocks(z: Tensor, p: Tensor, penalty: float, exclusive: bool) -> Preconditioner:
    """Solves with the Hessian's blocks of (w_k, b_k): Z diag(p_k (1 - p_k)) Z^T / n + penalty."""
    wide = torch.cat([z, torch.ones_like(z[:1])])
    factors = torch.empty(len(p), len(wide), len(wide), dtype=z.dtype)
    for k, weight in enumerate((p * (1 - p) / p.shape[1]).sqrt()):
        weighted = wide * weight
        block = weighted @ weighted.T
        block.diagonal()[:-1] += penalty
        block.diagonal().add_(1e-14 * block.diagonal().max())  # the bias has no penalty
        factors[k] = torch.linalg.cholesky(block)

    def solve(w: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
        found = torch.cholesky_solve(torch.cat([w, b[:, None]], 1)[..., None], factors)[..., 0]
        if exclusive:
            found = found - found.mean(0)
        return found[:, :-1], found[:, -1]

    return solve
