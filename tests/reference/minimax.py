"""Distributed-SGDA as the papers write it: Python loops over rounds, steps and clients, one autograd call each."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def gradient(problem, z: Tensor, batch: dict[str, Tensor], noise: Tensor | None = None) -> Tensor:
    """The gradient [P] of one client's loss (of x's loss in x, of y's loss in y), by plain autograd."""
    leaf = z.detach().clone().requires_grad_()
    value = problem.loss(*problem.spec.unpack(leaf), batch, noise)
    if isinstance(value, Tensor):
        return torch.autograd.grad(value, leaf)[0]
    p = problem.spec.p
    of_x = torch.autograd.grad(value[0], leaf, retain_graph=True)[0]
    of_y = torch.autograd.grad(value[1], leaf)[0]
    return torch.cat([of_x[:p], of_y[p:]])


def local_sgda(
    problem,
    z0: Tensor,
    batch_of: Callable[[int, int], tuple[dict[str, Tensor], Tensor | None]],
    weights: Callable[[int], Tensor],
    m: int,
    k: int,
    rounds: int,
    eta_x: float,
    eta_y: float,
    combine_first: bool = False,
) -> Tensor:
    """Z [m, P] after ``rounds`` rounds; ``batch_of(client, step)`` -> (batch, noise); ``weights(t)`` [m, m]."""
    sign = problem.spec.sign(problem.zero_sum, dtype=z0.dtype)
    eta = torch.full_like(z0, eta_y)
    eta[: problem.spec.p] = eta_x
    states = [z0.clone() for _ in range(m)]
    for t in range(rounds):
        before = [z.clone() for z in states]
        for step in range(k):
            for i in range(m):
                g = gradient(problem, states[i], *batch_of(i, t * k + step))
                states[i] = states[i] + eta * sign * g
                if problem.prox_at == "step":
                    states[i] = problem.project(states[i], eta_x, eta_y)
        w = weights(t)
        if combine_first:
            mixed = [sum(w[i, j] * before[j] for j in range(m)) + states[i] - before[i] for i in range(m)]
        else:
            mixed = [sum(w[i, j] * states[j] for j in range(m)) for i in range(m)]
        states = [problem.project(z) for z in mixed]
    return torch.stack(states)


def pairwise_square_loss(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean of (1 - (h - h'))^2 over all pairs of a positive and a negative sample, by brute force."""
    total, count = torch.zeros((), dtype=scores.dtype), 0
    for i in range(len(scores)):
        for j in range(len(scores)):
            if labels[i] > 0 and labels[j] < 0:
                total, count = total + (1 - (scores[i] - scores[j])) ** 2, count + 1
    return total / count


def simplex_projection(y: Tensor, rounds: int = 200) -> Tensor:
    """The nearest point of the simplex, by bisection on the threshold."""
    low, high = y.min() - 1, y.max()
    for _ in range(rounds):
        middle = (low + high) / 2
        if (y - middle).clamp_min(0).sum() > 1:
            low = middle
        else:
            high = middle
    return (y - (low + high) / 2).clamp_min(0)
