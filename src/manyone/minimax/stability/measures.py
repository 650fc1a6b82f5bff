"""What is measured on the consensus model: risks on seen and unseen samples, their gaps, optimisation errors.

    primal risk R(x) = max_y F(x, y); primal gap R - R_S; plain gap F - F_S; strong primal-dual (PD) gap
    max_y' F(x, y') - min_x' F(x', y), weak: max_y' E F(x, y') - min_x' E F(x', y), E over replicas

Exact where the problem says so (``Problem.exact``; AUC: the primal risk for every score, PD gaps for the linear one).
Public: ``measure``, ``measure_together``, ``weak_pd_gap``, ``largest_gradient``, ``frechet_distance``, ``roc_auc``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from manyone.minimax.fields import positives
from manyone.minimax.problems.auc import AUC
from manyone.minimax.problems.constants import Solved, Valued
from manyone.minimax.problems.gan import GAN
from manyone.minimax.problems.gradients import Gradient
from manyone.minimax.problems.problem import Problem
from manyone.minimax.sampling import sample_normals

Samples = Mapping[str, Tensor]
_FAKES = 2000


def measure(
    problem: Problem, z: Tensor, seen: Sequence[Samples], unseen: Sequence[Samples], seed: int = 0
) -> dict[str, Tensor]:
    """Name -> [R] for consensus states ``z`` [R, P] and each replica's training and test samples.

    Always: ``loss_train``, ``loss_test`` (F_S and F at z) and ``plain_gap``. Where the primal risk is exact:
    ``risk_train``, ``risk_test`` (R_S and R), ``gap`` = R - R_S. Where the gaps are: ``error`` = R_S - min R_S
    (optimisation error), ``excess`` = R - min R, ``pd_train``, ``pd_test`` (strong PD gaps) and ``pd_gap`` = test -
    train; ``pl`` and ``curvature`` of R_S, ``lipschitz``, ``rho``, ``mu`` (``Constants``) and ``gradient``, the largest
    of a training sample's at the start and at z. AUC: ``auc_train``, ``auc_test``, ``auc_gap`` = train - test. GAN:
    ``frechet``, between made and unseen samples.
    """
    rows = [_measure_one(problem, z[r], seen[r], unseen[r], seed) for r in range(len(z))]
    return {name: torch.tensor([row[name] for row in rows], dtype=torch.float64) for name in rows[0]}


def measure_together(
    problem: Problem, z: Tensor, seen: Sequence[Samples], unseen: Sequence[Samples]
) -> dict[str, float]:
    """What exists of all replicas at once: ``weak_train``, ``weak_test`` (weak PD gaps), ``weak_gap``."""
    if problem.exact != "gaps" or len(z) < 2:
        return {}
    train, test = (weak_pd_gap(problem, z, part) for part in (seen, unseen))
    return {"weak_train": train, "weak_test": test, "weak_gap": test - train}


def _measure_one(problem: Problem, z: Tensor, seen: Samples, unseen: Samples, seed: int) -> dict[str, float]:
    found: dict[str, float] = {}
    sides = {"train": _like(seen, z), "test": _like(unseen, z)}
    for name, samples in sides.items():
        if problem.exact == "nothing":
            found[f"loss_{name}"] = _loss(problem, z, samples, seed)
        else:
            exact = cast(Valued, problem)
            found[f"loss_{name}"] = float(exact.value(z, samples))
            found[f"risk_{name}"] = float(exact.primal_risk(z, samples))
    found["plain_gap"] = found["loss_test"] - found["loss_train"]
    if problem.exact != "nothing":
        found["gap"] = found["risk_test"] - found["risk_train"]
    if problem.exact == "gaps":
        found |= _gaps(problem, z, sides, found)
    if isinstance(problem, AUC):
        x, _ = problem.spec.unpack(z)
        for name, samples in sides.items():
            found[f"auc_{name}"] = roc_auc(problem.score(x, samples["features"]), samples["labels"])
        found["auc_gap"] = found["auc_train"] - found["auc_test"]
    if isinstance(problem, GAN):
        noise = sample_normals(seed, 0, [0], [1], (_FAKES, problem.latent), stream=255)[0, 0].to(z)
        found["frechet"] = frechet_distance(problem.samples(z, noise), sides["test"]["features"])
    return found


def _loss(problem: Problem, z: Tensor, samples: Samples, seed: int) -> float:
    x, y = problem.spec.unpack(z)
    shape = problem.noise_shape(len(next(iter(samples.values()))))
    noise = None if shape is None else sample_normals(seed, 0, [0], [0], shape, stream=255)[0, 0].to(z)
    loss = problem.loss(x, y, samples, noise)
    return float(loss if isinstance(loss, Tensor) else loss[0])


def _gaps(problem: Problem, z: Tensor, sides: Mapping[str, Samples], risks: Mapping[str, float]) -> dict[str, float]:
    solved, train, test = cast(Solved, problem), sides["train"], sides["test"]
    known = solved.constants(train)
    strong = {name: float(solved.pd_gap(z, samples)) for name, samples in sides.items()}
    start = problem.start(0, z.dtype).to(z.device)
    return {
        "error": risks["risk_train"] - float(solved.least_risk(train)),
        "excess": risks["risk_test"] - float(solved.least_risk(test)),
        "pd_train": strong["train"], "pd_test": strong["test"], "pd_gap": strong["test"] - strong["train"],
        "pl": known.pl, "curvature": known.curvature, "lipschitz": known.lipschitz, "rho": known.rho, "mu": known.mu,
        "gradient": max(largest_gradient(problem, at, train) for at in (start, z)),
    }  # fmt: skip


def largest_gradient(problem: Problem, z: Tensor, samples: Samples) -> float:
    """The largest norm of a sample's gradient at one state ``z`` [P]: G there."""
    count = len(next(iter(samples.values())))
    each = {name: value[:, None] for name, value in samples.items()}
    return float(Gradient(problem)(z.expand(count, -1), each).norm(dim=1).max())


def weak_pd_gap(problem: Problem, z: Tensor, samples: Sequence[Samples]) -> float:
    """max_y' mean_r F_r(x_r, y') - min_x' mean_r F_r(x', y_r), states ``z`` [R, P], where the gaps are exact.

    ``samples``: each replica's training samples (the empirical gap) or R times the population.
    """
    return float(cast(Solved, problem).weak_pd_gap(z, [_like(s, z) for s in samples]))


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
