"""AUC maximisation as a saddle problem (Ying, Wen, Lyu 2016), and the margin form of deep AUC (Yuan et al. 2021).

Score h(xi), label +1/-1, p = P(label = +1); x = (score's weights, a, b), y = alpha:

    f = (1-p)(h-a)^2 1[+] + p (h-b)^2 1[-] + 2(1+alpha)(p h 1[-] - (1-p) h 1[+]) - p(1-p) alpha^2          (solam)
    margin c: 2 alpha (p(1-p) c + p h 1[-] - (1-p) h 1[+]) instead of the third term, alpha >= 0            (aucm)

plus (ridge/2)||x||^2 - (ridge_y/2) alpha^2. At the best a, b, alpha: 1 + E f / (p(1-p)) = E[(1 - (h - h'))^2 | +, -]
(solam, no ridges). alpha's best response is explicit, so the primal risk R(x) = max_alpha F(x, alpha) is exact; for a
linear score the best x is a linear solve, hence the primal-dual gap too, and R is a quadratic whose Hessian's spectrum
gives its curvature and its Polyak-Lojasiewicz constant (the least eigenvalue that is not 0).
Public: ``AUC``, ``positive_rate``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.minimax.arguments import number, whole
from manyone.minimax.fields import as_field, positives
from manyone.minimax.problems.constants import Constants, Exact
from manyone.minimax.problems.problem import Batch, Problem
from manyone.minimax.scores import Model
from manyone.weights.checkpoint import Weights

_ZERO = 1e-10
"""Eigenvalues below this share of the largest are those of directions that no sample has."""


def positive_rate(labels: Any) -> float:
    """p of pooled labels of two classes, as ``fields.positives`` takes them (bool, 0/1, +1/-1, words, ...).

    Raises when there are not two classes.
    """
    p = float(positives(labels).double().mean())
    if not 0 < p < 1:
        one = labels.flatten()[0].item() if isinstance(labels, Tensor) else np.asarray(labels).flat[0]
        raise ManyoneError(f"AUC needs samples of both classes, these labels are all {one}")
    return p


class AUC(Problem):
    """AUC maximisation with a linear score (``dim`` features, no bias) or any module with one output a sample.

    Fields of a sample: ``features`` [...], ``labels`` of two classes (bool, 0/1, +1/-1, any two numbers or words; of
    the two in sorted order the second is positive, scikit-learn's ``classes_[1]``). ``p``: the positive rate of the
    pooled data, a constant for all clients (a client may have one class only); ``running_p`` replaces it by each
    client's own rate of the samples seen so far, as in SOLAM. The linear score starts at zero, a module at its
    layers' own initialisation.
    """

    def __init__(
        self,
        p: float,
        dim: int | None = None,
        score: nn.Module | None = None,
        *,
        form: Literal["solam", "aucm"] = "solam",
        margin: float = 1.0,
        ridge: float = 0.0,
        ridge_y: float = 0.0,
        running_p: bool = False,
    ) -> None:
        p = number("AUC: p", p)
        if not 0 < p < 1:
            raise ManyoneError(f"AUC: p = {p}, the rate of positives must be in (0, 1)")
        if (dim is None) == (score is None):
            raise ManyoneError("AUC: give dim (a linear score) or score (a module), one of them")
        dim = None if dim is None else whole("AUC: dim", dim, 1)
        if form not in ("solam", "aucm"):
            raise ManyoneError(f"AUC: form = {form!r}, choose 'solam' or 'aucm'")
        if ridge < 0 or ridge_y < 0 or margin < 0:
            raise ManyoneError(f"AUC: ridge = {ridge}, ridge_y = {ridge_y} and margin = {margin} must be at least 0")
        self.p, self.dim, self.form, self.margin = p, dim, form, margin
        self.ridge, self.ridge_y = ridge, ridge_y
        self.running_p = running_p
        self.model = None if score is None else Model(score, "score.")
        self.stackable = self.model is None or self.model.stackable

    def init(self, seed: int) -> tuple[Weights, Weights]:
        w = {"w": torch.zeros(self.dim or 0)} if self.model is None else self.model.init(seed)
        return {**w, "a": torch.zeros(()), "b": torch.zeros(())}, {"alpha": torch.zeros(())}

    def prepare(self, fields: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Labels +1/-1 (what is above 0 counts as positive from here on); numbers a linear score can multiply."""
        if not {"features", "labels"} <= set(fields):
            raise ManyoneError(f"AUC needs the fields 'features' and 'labels', this data has {sorted(fields)}")
        labels, features = fields["labels"], fields["features"]
        if labels.ndim != 1:
            raise ManyoneError(f"labels of shape {list(labels.shape)}: one a sample is needed, [N]: labels.ravel()")
        if self.dim is not None and features.shape[1:] != (self.dim,):
            raise ManyoneError(
                f"features of shape {list(features.shape)}: a linear score of dim = {self.dim} takes [N, {self.dim}]"
            )
        plus = positives(labels)
        if not torch.equal(plus, labels > 0):
            labels = torch.where(plus, 1, -1)
        if self.dim is not None and not features.is_floating_point():
            features = features.double()
        return {**fields, "labels": labels, "features": features}

    def score(self, x: Weights, features: Tensor) -> Tensor:
        """Scores [..., b] of features [..., b, ...]; a leading member axis is allowed where ``stackable``."""
        if self.model is None:
            return (features @ x["w"][..., None]).squeeze(-1)
        return self.model(x, features).squeeze(-1)

    def loss(self, x: Weights, y: Weights, batch: Batch, noise: Tensor | None = None) -> Tensor:
        h = self.score(x, batch["features"])
        a, b, alpha = (value[..., None] for value in (x["a"], x["b"], y["alpha"]))
        plus = (batch["labels"] > 0).to(h)
        p = self._rate(batch)
        p = p if isinstance(p, float) else p[..., None]
        wrong = p * h * (1 - plus) - (1 - p) * h * plus
        value = (1 - p) * (h - a) ** 2 * plus + p * (h - b) ** 2 * (1 - plus) - p * (1 - p) * alpha**2
        value = value + self._coupling(alpha, p, wrong)
        total = value.mean(-1)
        if self.ridge:
            total = total + 0.5 * self.ridge * torch.stack([_square_norm(v, total.ndim) for v in x.values()]).sum(0)
        if self.ridge_y:
            total = total - 0.5 * self.ridge_y * y["alpha"] ** 2
        return total

    def stacked_gradient(self, z: Tensor, batch: Batch, noise: Tensor | None = None) -> Tensor | None:
        """The closed form for the linear score; None for modules."""
        if self.dim is None:
            return None
        d = self.dim
        features, count = batch["features"], batch["labels"].shape[1]
        a, b, alpha = z[:, d : d + 1], z[:, d + 1 : d + 2], z[:, d + 2 :]
        h = torch.bmm(features, z[:, :d, None]).squeeze(2)
        plus = (batch["labels"] > 0).to(z.dtype)
        p = self._rate(batch)
        p = p if isinstance(p, float) else p[:, None]
        of_plus, of_minus = ((1 - p) / count) * plus, (p / count) * (1 - plus)
        from_a, from_b = of_plus * (h - a), of_minus * (h - b)
        slope = of_minus - of_plus
        lead = 1 + alpha if self.form == "solam" else alpha
        of_h = torch.addcmul(from_a + from_b, slope, lead)
        out = torch.empty_like(z)
        out[:, :d] = torch.bmm(of_h[:, None, :], features).squeeze(1)
        out[:, d] = -from_a.sum(1)
        out[:, d + 1] = -from_b.sum(1)
        last = (slope * h).sum(1, keepdim=True) - p * (1 - p) * alpha
        out[:, d + 2 :] = last if self.form == "solam" else last + p * (1 - p) * self.margin
        out *= 2
        if self.ridge:
            out[:, : d + 2].add_(z[:, : d + 2], alpha=self.ridge)
        if self.ridge_y:
            out[:, d + 2 :].sub_(alpha, alpha=self.ridge_y)
        return out

    def prox_y(self, y: Tensor, eta: float | Tensor) -> Tensor:
        """alpha >= 0 in the margin form."""
        return y.clamp_min(0.0) if self.form == "aucm" else y

    @property
    def has_prox(self) -> bool:
        return self.form == "aucm"

    def memory(self, members: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
        if not self.running_p:
            return {}
        zeros = torch.zeros(members, dtype=dtype, device=device)
        return {"positives": zeros, "seen": zeros.clone()}

    def observe(self, memory: dict[str, Tensor], batch: dict[str, Tensor], update: bool = True) -> dict[str, Tensor]:
        if update:
            memory["positives"] += (batch["labels"] > 0).to(memory["seen"]).sum(1)
            memory["seen"] += batch["labels"].shape[1]
        rate = memory["positives"] / memory["seen"].clamp_min(1)
        return {**batch, "positive_rate": torch.where(memory["seen"] > 0, rate, torch.full_like(rate, self.p))}

    # exact quantities on a data set: features [N, ...], labels [N]; states z [..., P]

    def best_response_y(self, z: Tensor, data: Mapping[str, Tensor]) -> Tensor:
        """The alpha [...] that maximises F(x, .) on ``data``."""
        return self._best_alpha(self._moments(z, data).wrong)

    def best_response_ab(self, z: Tensor, data: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """The a and b [...] that minimise F on ``data`` for the score of ``z``."""
        m, p = self._moments(z, data), self.p
        a = 2 * (1 - p) * m.h_plus / (2 * (1 - p) * m.plus + self.ridge)
        b = 2 * p * m.h_minus / (2 * p * (1 - m.plus) + self.ridge)
        return a, b

    def value(self, z: Tensor, data: Mapping[str, Tensor], alpha: Tensor | None = None) -> Tensor:
        """F(x, alpha) on ``data`` [...]; ``alpha`` None: the state's own."""
        m, p = self._moments(z, data), self.p
        x, y = self.spec.unpack(z)
        a, b = x["a"], x["b"]
        alpha = y["alpha"] if alpha is None else alpha
        value = (1 - p) * (m.hh_plus - 2 * a * m.h_plus + a**2 * m.plus)
        value = value + p * (m.hh_minus - 2 * b * m.h_minus + b**2 * (1 - m.plus))
        value = value - 0.5 * self.rho * alpha**2 + self._coupling(alpha, p, m.wrong)
        return value + 0.5 * self.ridge * z[..., : self.spec.p].square().sum(-1)

    def primal_risk(self, z: Tensor, data: Mapping[str, Tensor]) -> Tensor:
        """R(x) = max_alpha F(x, alpha) on ``data``, exactly: [...] for states [..., P]."""
        return self.value(z, data, self.best_response_y(z, data))

    def best_response_x(self, alpha: Tensor, data: Mapping[str, Tensor]) -> Tensor:
        """For the linear score the flat x [p] that minimises F(., alpha) on ``data`` (a linear solve)."""
        hessian, slope = self.quadratic_form(data)
        lead = 1 + alpha if self.form == "solam" else alpha
        return -lead * _solve(hessian, slope)

    def pd_gap(self, z: Tensor, data: Mapping[str, Tensor]) -> Tensor:
        """max_alpha F(x, .) - min_x F(., alpha) on ``data`` for one state [P] of a linear score: exact, >= 0.

        Infinite where F(., alpha) has no minimum: without a ridge, when there are more features than samples.
        """
        alpha = z[self.spec.p]
        if not self._bounded(*self.quadratic_form(data)):
            return alpha.new_tensor(math.inf)
        best = torch.cat([self.best_response_x(alpha, data), alpha[None]])
        return self.primal_risk(z, data) - self.value(best, data)

    def weak_pd_gap(self, z: Tensor, data: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """max_alpha' mean_r F_r(x_r, alpha') - min_x' mean_r F_r(x', alpha_r) for states ``z`` [R, P] of a linear score
        and as many data sets (the empirical gap: each replica's own; the population's: unseen samples)."""
        best = torch.stack([self.best_response_y(one, d) for one, d in zip(z, data, strict=True)]).mean()
        upper = torch.stack([self.value(one, d, best) for one, d in zip(z, data)]).mean()
        forms = [self.quadratic_form(d) for d in data]
        alpha = z[:, self.spec.p]
        lead = 1 + alpha if self.form == "solam" else alpha
        hessian = torch.stack([h for h, _ in forms]).mean(0)
        pull = torch.stack([a * slope for a, (_, slope) in zip(lead, forms)]).mean(0)
        if not self._bounded(hessian, pull):
            return z.new_tensor(math.inf)
        x = -_solve(hessian, pull).to(z)
        lower = torch.stack([self.value(torch.cat([x, alpha[r : r + 1]]), d) for r, d in enumerate(data)]).mean()
        return upper - lower

    def least_risk(self, data: Mapping[str, Tensor]) -> Tensor:
        """min_x R(x) on ``data`` for a linear score."""
        return self.primal_risk(self.saddle(data), data)

    @property
    def exact(self) -> Exact:
        return "risk" if self.dim is None else "gaps"

    @property
    def convex(self) -> bool:
        """Whether f is convex in x: a linear score."""
        return self.dim is not None

    @property
    def rho(self) -> float:
        """f is rho-strongly concave in alpha."""
        return 2 * self.p * (1 - self.p) + self.ridge_y

    def constants(self, data: Mapping[str, Tensor]) -> Constants:
        """For a linear score: what the bounds know of f and of the primal risk on ``data``."""
        hessian, slope = self.quadratic_form(data)
        spectrum = torch.linalg.eigvalsh((hessian + torch.outer(slope, slope) / self.rho).double())
        mu = min(self.ridge, self.rho)
        return Constants(
            lipschitz=self._lipschitz(data), rho=self.rho, mu=mu,
            curvature=float(spectrum[0].clamp_min(0)), pl=float(spectrum[spectrum > _ZERO * spectrum[-1]][0]),
        )  # fmt: skip

    def _lipschitz(self, data: Mapping[str, Tensor]) -> float:
        """The largest norm of a sample's second derivatives. They act on the sample's direction, on a (or b) and on
        alpha, where they are a matrix of three by three; everywhere else they are the ridge."""
        p, found = self.p, 0.0
        norms, plus = data["features"].norm(dim=1), positives(data["labels"])
        for rate, sign, own in ((1 - p, -1.0, plus), (p, 1.0, ~plus)):
            if bool(own.any()):
                r = float(norms[own].max())
                second = 2 * rate * torch.tensor(
                    [[r * r, -r, sign * r], [-r, 1.0, 0.0], [sign * r, 0.0, -p * (1 - p) / rate]], dtype=torch.float64
                )  # fmt: skip
                second += torch.diag(torch.tensor([self.ridge, self.ridge, -self.ridge_y], dtype=torch.float64))
                found = max(found, float(torch.linalg.matrix_norm(second, 2)))
        return found

    def saddle(self, data: Mapping[str, Tensor]) -> Tensor:
        """The saddle point [P] on ``data`` for a linear score: argmin R (the shortest) and its best response."""
        hessian, slope = self.quadratic_form(data)
        if self.form == "solam":  # R(x) = x^T H x / 2 + slope^T x + (slope^T x)^2 / (2 rho) has a minimum always
            x = -_solve(hessian + torch.outer(slope, slope) / self.rho, slope)
            return torch.cat([x, (slope @ x / self.rho)[None]])
        best = _solve(hessian, slope)
        # x = -alpha best; alpha = margin' + slope^T x / rho, and not below 0
        margin = 2 * self.p * (1 - self.p) * self.margin / self.rho
        alpha = (margin / (1 + slope @ best / self.rho)).clamp_min(0.0)
        return torch.cat([-alpha * best, alpha[None]])

    def _bounded(self, hessian: Tensor, slope: Tensor) -> bool:
        """Whether x^T H x / 2 + slope^T x has a minimum: slope lies in the range of H."""
        return bool((hessian @ _solve(hessian, slope) - slope).norm() <= 1e-6 * slope.norm())

    def _rate(self, batch: Batch) -> float | Tensor:
        return batch.get("positive_rate", self.p)

    def _coupling(self, alpha: Tensor, p: float | Tensor, wrong: Tensor) -> Tensor:
        if self.form == "solam":
            return 2 * (1 + alpha) * wrong
        return 2 * alpha * (p * (1 - p) * self.margin + wrong)

    def _best_alpha(self, wrong: Tensor) -> Tensor:
        if self.form == "solam":
            return 2 * wrong / self.rho
        return (2 * (self.p * (1 - self.p) * self.margin + wrong) / self.rho).clamp_min(0.0)

    def _moments(self, z: Tensor, data: Mapping[str, Tensor]) -> _Moments:
        flat = z.reshape(-1, z.shape[-1])
        features = as_field(data["features"])
        if self.dim is not None or features.is_floating_point():
            features = features.to(flat)
        if self.model is None:
            h = flat[:, : self.dim] @ features.T
        else:
            x, _ = self.spec.unpack(flat)
            h = torch.stack([self.score({k: v[i] for k, v in x.items()}, features) for i in range(len(flat))])
        plus = positives(data["labels"]).to(flat)
        n, lead = len(plus), z.shape[:-1]
        sums = [(h @ plus), (h @ (1 - plus)), (h.square() @ plus), (h.square() @ (1 - plus))]
        h_plus, h_minus, hh_plus, hh_minus = (s.view(lead) / n for s in sums)
        return _Moments(plus.mean(), h_plus, h_minus, hh_plus, hh_minus, self.p * h_minus - (1 - self.p) * h_plus)

    def quadratic_form(self, data: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """(H, slope) with F(x, alpha) = x^T H x / 2 + lead slope^T x + terms of alpha, lead = 1 + alpha or alpha."""
        if self.dim is None:
            raise ManyoneError("the exact best x and primal-dual gap need a linear score (dim=...)")
        features, p, d = as_field(data["features"]), self.p, self.dim
        plus = positives(data["labels"]).to(features)
        minus, n = 1 - plus, len(plus)
        h = features.new_zeros(d + 2, d + 2)
        h[:d, :d] = 2 * features.T @ (((1 - p) * plus + p * minus)[:, None] * features) / n
        h[:d, d] = h[d, :d] = -2 * (1 - p) * (plus @ features) / n
        h[:d, d + 1] = h[d + 1, :d] = -2 * p * (minus @ features) / n
        h[d, d], h[d + 1, d + 1] = 2 * (1 - p) * plus.mean(), 2 * p * minus.mean()
        h += self.ridge * torch.eye(d + 2, dtype=h.dtype, device=h.device)
        slope = features.new_zeros(d + 2)
        slope[:d] = 2 * ((p * minus - (1 - p) * plus) @ features) / n
        return h, slope


@dataclass(frozen=True)
class _Moments:
    """Means over a data set: of 1[+], and of h, h^2 times 1[+] or 1[-]; ``wrong`` = E[p h 1[-] - (1-p) h 1[+]]."""

    plus: Tensor
    h_plus: Tensor
    h_minus: Tensor
    hh_plus: Tensor
    hh_minus: Tensor
    wrong: Tensor


def _square_norm(value: Tensor, lead: int) -> Tensor:
    """Sum of squares over all but the first ``lead`` axes."""
    return value.square().flatten(lead).sum(-1) if value.ndim > lead else value.square()


def _solve(hessian: Tensor, right: Tensor) -> Tensor:
    """H^-1 r in float64; the least-norm solution where H (symmetric, semidefinite) is singular (no ridge)."""
    values, vectors = torch.linalg.eigh(hessian.double().cpu())
    inverse = torch.where(values > _ZERO * values[-1], 1 / values, torch.zeros_like(values))
    return (vectors @ (inverse * (vectors.T @ right.double().cpu()))).to(right)
