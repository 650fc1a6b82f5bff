"""Gradient surgery: one direction from the gradients of several tasks that disagree.

PCGrad: Yu et al., "Gradient Surgery for Multi-Task Learning" (arXiv 2001.06782), algorithm 1. CAGrad: Liu et al.,
"Conflict-Averse Gradient Descent for Multi-task Learning" (arXiv 2110.14048), algorithm 1. Both only need the Gram
matrix of the gradients, so their cost is two passes over the [N, d] gradients and small N x N arithmetic. GradNorm:
Chen et al., "GradNorm" (arXiv 1711.02257), algorithm 1: weights of the tasks that even out how fast they learn.
Public names: :func:`pcgrad`, :func:`cagrad`, :class:`GradNorm`.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from scipy.optimize import minimize
from torch import Tensor

CAGRAD_C = 0.4  # the authors' value
GRADNORM_ALPHA, GRADNORM_LR = 1.5, 0.025  # alpha of equation 2; the rate is in units of the mean norm


def pcgrad(gradients: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """[d] from [N, d]: every gradient loses its component against each other one in random order; then the mean.

    (The paper adds; the mean keeps the scale of a joint step.) Without ``generator`` the others come in their order.
    """
    gram = (gradients @ gradients.T).double().cpu()
    count = len(gram)
    coefficients = torch.eye(count, dtype=torch.float64)
    for i in range(count):
        order = torch.randperm(count, generator=generator).tolist() if generator else range(count)
        for j in order:
            dot = coefficients[i] @ gram[j]
            if j != i and dot < 0:
                coefficients[i, j] -= dot / gram[j, j]
    return coefficients.mean(0).to(gradients) @ gradients


def cagrad(gradients: Tensor, c: float = CAGRAD_C) -> Tensor:
    """[d] from [N, d]: the direction within c ||g0|| of the mean g0 that serves the worst-off task best.

    min over w in the simplex of g_w . g0 + c ||g0|| ||g_w||; then (g0 + c ||g0|| g_w / ||g_w||) / (1 + c^2), the
    division as in the authors' program. ``c`` in [0, 1); 0 gives the mean.
    """
    gram = (gradients @ gradients.T).double().cpu().numpy()
    count = len(gram)
    even = np.full(count, 1 / count)
    size = float(np.sqrt(max(even @ gram @ even, 0.0)))
    if size == 0 or c == 0:
        return gradients.mean(0)
    unit = gram / size**2  # of the order of one, whatever the scale of the gradients

    def value(w: np.ndarray) -> tuple[float, np.ndarray]:
        length = np.sqrt(max(w @ unit @ w, 1e-16))
        return float(w @ unit @ even + c * length), unit @ even + c * (unit @ w) / length

    found = minimize(
        value, even, jac=True, method="SLSQP", bounds=[(0, 1)] * count, options={"ftol": 1e-10, "maxiter": 200},
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": lambda w: np.ones(count)},
    )  # fmt: skip
    length = np.sqrt(max(found.x @ gram @ found.x, 1e-16))
    weights = (even + c * size / length * found.x) / (1 + c**2)
    return torch.from_numpy(weights).to(gradients) @ gradients


class GradNorm:
    """Weights w_i of ``count`` tasks, learned so that the norms of w_i u_i follow the tasks' rates of training.

    With u_i the gradient of task i's loss L_i over all parameters, G_i = w_i ||u_i|| and the relative inverse rate
    r_i = (L_i / L_i(0)) / mean_j (L_j / L_j(0)), each step descends sum_i |G_i - mean(G) r_i^alpha| (equation 2) in w,
    the target held constant, with rate ``lr`` in units of the mean norm. Weights sum to the number of tasks; what falls
    below 0.01 is set to it first. A task's first loss is that of the first step that took it.
    """

    def __init__(self, count: int, alpha: float = GRADNORM_ALPHA, lr: float = GRADNORM_LR) -> None:
        self.alpha, self.lr = alpha, lr
        self.weights = torch.ones(count, dtype=torch.float64)
        self.first = torch.full((count,), torch.nan, dtype=torch.float64)

    def combine(self, gradients: Tensor, losses: Tensor, tasks: list[int]) -> Tensor:
        """[d]: the mean of w_i u_i for ``gradients`` [G, d] and ``losses`` [G] of ``tasks``; then moves the weights."""
        own = torch.tensor(tasks)
        weights, now = self.weights[own], losses.double().cpu()
        self.first[own] = torch.where(self.first[own].isnan(), now, self.first[own])
        direction = weights.to(gradients) @ gradients / len(tasks)
        norms = torch.linalg.vector_norm(gradients, dim=1).double().cpu()
        rate = now / self.first[own].clamp(min=1e-12)
        rate = rate / rate.mean().clamp(min=1e-12)
        gap = weights * norms - (weights * norms).mean() * rate**self.alpha
        self.weights[own] -= self.lr * gap.sign() * norms / norms.mean().clamp(min=1e-30)
        self.weights.clamp_(min=0.01).mul_(len(self.weights) / self.weights.sum())
        return direction

    def state_dict(self) -> dict[str, Tensor]:
        """Weights and first losses."""
        return {"weights": self.weights.clone(), "first": self.first.clone()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Restores what :meth:`state_dict` returned."""
        self.weights, self.first = state["weights"].clone(), state["first"].clone()
