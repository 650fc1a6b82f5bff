"""What is measured on the consensus model: risks on seen and unseen samples, their gaps, optimisation errors.

    primal risk R(x) = max_y F(x, y); primal gap R - R_S; plain gap F - F_S; strong primal-dual (PD) gap
    max_y' F(x, y') - min_x' F(x', y), weak: max_y' E F(x, y') - min_x' E F(x', y), E over replicas

Exact where the problem says so (AUC: the primal risk for every score, PD gaps for the linear one).
Public: ``measure``, ``weak_pd_gap``, ``frechet_distance``, ``roc_auc``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from manyone.minimax.fields import positives
from manyone.minimax.problems.auc import AUC
from manyone.minimax.problems.gan import GAN
from manyone.minimax.problems.problem import Problem
from manyone.minimax.sampling import sample_normals

Samples = Mapping[str, Tensor]
_FAKES = 2000


def measure(
    problem: Problem, z: Tensor, seen: Sequence[Samples], unseen: Sequence[Samples], seed: int = 0
) -> dict[str, Tensor]:
    """Name -> [R] for consensus states ``z`` [R, P] and each replica's training and test samples.

    Always: ``loss_train``, ``loss_test`` (F_S and F at z) and ``plain_gap``. AUC: ``risk_train``, ``risk_test`` (R_S
    and R), ``gap`` = R - R_S, ``auc_train``, ``auc_test``, ``auc_gap`` = train - test, and for a linear score ``error``
    = R_S - min R_S (optimisation error), ``pd_train``, ``pd_test``. GAN: ``frechet``, between made and unseen samples.
    """
    rows = [_measure_one(problem, z[r], seen[r], unseen[r], seed) for r in range(len(z))]
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}


def _measure_one(problem: Problem, z: Tensor, seen: Samples, unseen: Samples, seed: int) -> dict[str, float]:
    found = {}
    parts = (("train", _like(seen, z)), ("test", _like(unseen, z)))
    for name, samples in parts:
        count = len(next(iter(samples.values())))
        x, y = problem.spec.unpack(z)
        if isinstance(problem, AUC):
            found[f"loss_{name}"] = float(problem.value(z, samples))
            found[f"risk_{name}"] = float(problem.primal_risk(z, samples))
            found[f"auc_{name}"] = roc_auc(problem.score(x, samples["features"]), samples["labels"])
            if problem.dim is not None:
                found[f"pd_{name}"] = float(problem.pd_gap(z, samples))
        else:
            shape = problem.noise_shape(count)
            noise = None if shape is None else sample_normals(seed, 0, [0], [0], shape, stream=255)[0, 0].to(z)
            loss = problem.loss(x, y, samples, noise)
            found[f"loss_{name}"] = float(loss if isinstance(loss, Tensor) else loss[0])
    found["plain_gap"] = found["loss_test"] - found["loss_train"]
    if isinstance(problem, AUC):
        found["gap"] = found["risk_test"] - found["risk_train"]
        found["auc_gap"] = found["auc_train"] - found["auc_test"]
        if problem.dim is not None:
            train = parts[0][1]
            found["error"] = found["risk_train"] - float(problem.primal_risk(problem.saddle(train), train))
    if isinstance(problem, GAN):
        noise = sample_normals(seed, 0, [0], [1], (_FAKES, problem.latent), stream=255)[0, 0].to(z)
        found["frechet"] = frechet_distance(problem.samples(z, noise), parts[1][1]["features"])
    return found


def weak_pd_gap(problem: AUC, z: Tensor, samples: Sequence[Samples]) -> float:
    """max_alpha' mean_r F_r(x_r, alpha') - min_x' mean_r F_r(x', alpha_r) for a linear score, states ``z`` [R, P].

    ``samples``: each replica's training samples (the empirical gap) or R times the population.
    """
    data = [_like(s, z) for s in samples]
    best = torch.stack([problem.best_response_y(z[r], d) for r, d in enumerate(data)]).mean()
    upper = torch.stack([problem.value(z[r], d, best) for r, d in enumerate(data)]).mean()
    forms = [problem.quadratic_form(d) for d in data]
    alpha = z[:, problem.spec.p]
    lead = 1 + alpha if problem.form == "solam" else alpha
    hessian = torch.stack([h for h, _ in forms]).mean(0)
    pull = torch.stack([a * slope for a, (_, slope) in zip(lead, forms)]).mean(0)
    x = -torch.linalg.lstsq(hessian.double(), pull.double()[:, None], driver="gelsd").solution[:, 0].to(z)
    lower = torch.stack([problem.value(torch.cat([x, alpha[r : r + 1]]), d) for r, d in enumerate(data)]).mean()
    return float(upper - lower)


def frechet_distance(first: Tensor, second: Tensor) -> float:
    """||mu_1 - mu_2||^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^{1/2}) of two samples [N, d], in the space they are given in."""
    a, b = first.double(), second.double()
    c1, c2 = torch.cov(a.T), torch.cov(b.T)
    root = torch.linalg.eigvals(c1 @ c2).real.clamp_min(0).sqrt().sum()
    return float((a.mean(0) - b.mean(0)).square().sum() + c1.trace() + c2.trace() - 2 * root)


def roc_auc(scores: Tensor, labels: Tensor) -> float:
    """The area under the ROC curve of ``scores`` [N] for labels of two classes; NaN where there is one class alone, or
    a score that is none.

    It is the share of pairs of a positive and a negative in which the positive has the higher score, ties half
    (Hanley and McNeil 1982): (sum of the positives' ranks - P (P + 1) / 2) / (P N), with the mean rank of equal scores.
    """
    plus, values = positives(labels).cpu(), scores.detach().double().cpu()
    p, n = int(plus.sum()), int((~plus).sum())
    if not p or not n or bool(values.isnan().any()):
        return math.nan
    _, where, counts = values.unique(return_inverse=True, return_counts=True)
    ranks = counts.cumsum(0).double() - (counts.double() - 1) / 2
    return (float(ranks[where][plus].sum()) - p * (p + 1) / 2) / (p * n)


def _like(samples: Samples, z: Tensor) -> dict[str, Tensor]:
    return {k: v.to(z.device, z.dtype if v.is_floating_point() else v.dtype) for k, v in samples.items()}
