"""Offline Behavior Distillation spelt out for one student: lists of tensors, autograd, one step after another.

A network is a list [W_1, b_1, ..., W_L, b_L], W_l [outputs, inputs]; the log-deviation's scale and offset come last
where there is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

Network = Callable[[Sequence[Tensor], Tensor, Tensor | None], Tensor]


def network(kind: str, output: str, layers: int, action_dim: int) -> Network:
    """weights, states [N, S], noise [N, A] or None -> actions [N, A]."""

    def run(weights: Sequence[Tensor], states: Tensor, noise: Tensor | None) -> Tensor:
        hidden = [states]
        for layer in range(layers - 1):
            hidden.append(F.relu(F.linear(hidden[-1], weights[2 * layer], weights[2 * layer + 1])))
        last = hidden[-1] + hidden[1] if kind == "residual" else hidden[-1]
        z = F.linear(last, weights[2 * layers - 2], weights[2 * layers - 1])
        if output == "softmax":
            return F.softmax(z, -1)
        if noise is None:
            return torch.tanh(z[:, :action_dim])
        mean, raw = z[:, :action_dim], z[:, action_dim:]
        scale, offset = weights[2 * layers : 2 * layers + 2]
        return torch.tanh(mean + torch.exp(torch.clamp(scale * raw + offset, -20, 2)) * noise)

    return run


def cloning_loss(
    net: Network, weights: Sequence[Tensor], states: Tensor, actions: Tensor, noise: Tensor | None
) -> Tensor:
    """The mean over rows and entries of (pi(s) - a)^2."""
    return ((net(weights, states, noise) - actions) ** 2).mean()


def train(
    net: Network,
    weights: Sequence[Tensor],
    states: Tensor,
    actions: Tensor,
    steps: int,
    lr: Tensor | float,
    momentum: Tensor | float = 0.0,
    noise: Tensor | None = None,
    graph: bool = False,
) -> list[Tensor]:
    """Momentum SGD on the whole set; noise [T, N, A]."""
    weights = [w if graph else w.detach() for w in weights]
    velocity = [torch.zeros_like(w) for w in weights]
    for step in range(steps):
        at = [w if w.requires_grad else w.requires_grad_() for w in weights]
        loss = cloning_loss(net, at, states, actions, None if noise is None else noise[step])
        found = torch.autograd.grad(loss, at, create_graph=graph, allow_unused=True, materialize_grads=True)
        velocity = [momentum * v + g for v, g in zip(velocity, found)]
        weights = [w - lr * v for w, v in zip(at, velocity)]
        if not graph:
            weights = [w.detach() for w in weights]
    return list(weights)


def unrolled(
    net: Network,
    weights: Sequence[Tensor],
    states: Tensor,
    actions: Tensor,
    outer: Callable[[Sequence[Tensor]], Tensor],
    steps: int,
    lr: float,
    momentum: float = 0.0,
    noise: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """H and its derivatives by states, actions, lr and momentum, with the whole graph kept."""
    inputs = [
        v.clone().requires_grad_()
        for v in (
            states,
            actions,
            torch.tensor(lr, dtype=torch.float64).to(states),
            torch.tensor(momentum, dtype=torch.float64).to(states),
        )
    ]
    start = [w.clone().requires_grad_() for w in weights]
    loss = outer(train(net, start, *inputs[:2], steps, *inputs[2:], noise=noise, graph=True))
    return (loss.detach(), *torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))


def recompute(
    net: Network,
    weights: Sequence[Tensor],
    states: Tensor,
    actions: Tensor,
    outer: Callable[[Sequence[Tensor]], Tensor],
    steps: int,
    lr: float,
    momentum: float = 0.0,
    noise: Tensor | None = None,
    noise_back: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The published way back, from stored weights: dH/dS and dH/dA; ``noise_back`` is what its replay draws."""
    kept = [[w.detach() for w in weights]]
    for step in range(steps):  # the velocity has to run on, so every prefix is trained anew
        kept.append(train(net, weights, states, actions, step + 1, lr, momentum, noise))
    last = [w.detach().requires_grad_() for w in kept[-1]]
    adjoint = list(torch.autograd.grad(outer(last), last, allow_unused=True, materialize_grads=True))
    nu = [torch.zeros_like(w) for w in last]
    total = [torch.zeros_like(states), torch.zeros_like(actions)]
    for step in reversed(range(steps)):
        nu = [momentum * n - lr * a for n, a in zip(nu, adjoint)]
        at = [w.detach().requires_grad_() for w in kept[step]]
        data = [states.clone().requires_grad_(), actions.clone().requires_grad_()]
        loss = cloning_loss(net, at, *data, None if noise_back is None else noise_back[step])
        gradient = torch.autograd.grad(loss, at, create_graph=True, allow_unused=True, materialize_grads=True)
        product = sum((g * n).sum() for g, n in zip(gradient, nu))
        (*by_data,) = torch.autograd.grad(product, [*data, *at], allow_unused=True, materialize_grads=True)
        total = [t + g for t, g in zip(total, by_data)]
        adjoint = [a + g for a, g in zip(adjoint, by_data[2:])]
    return total[0], total[1]


def linear_step(weights: Tensor, states: Tensor, actions: Tensor, lr: float) -> Tensor:
    """w_1 of a = S w after one step: w_0 - 2 alpha / (N A) S' (S w_0 - A)."""
    return weights - 2 * lr / actions.numel() * states.T @ (states @ weights - actions)
