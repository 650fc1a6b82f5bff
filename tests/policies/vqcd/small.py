"""A small network with weights, biases and a normalisation, and tasks to learn with it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from manyone.policies.vqcd.weights import MaskedWeights
from manyone.randomness import generator_for

INPUTS, OUTPUTS = 5, 3


class Small(nn.Module):
    """Two layers with a normalisation between, as ``tests.reference.vqcd.perceptron`` has them."""

    def __init__(self, width: int = 12, seed: int = 0) -> None:
        super().__init__()
        self.first, self.norm = nn.Linear(INPUTS, width), nn.LayerNorm(width)
        self.last = nn.Linear(width, OUTPUTS)
        with torch.no_grad():
            for name, value in self.named_parameters():
                draw = generator_for(seed, "small", name)
                value.copy_(torch.randn(value.shape, generator=draw) * 0.3 + ("norm.weight" in name))

    def forward(self, x):
        return self.last(torch.relu(self.norm(self.first(x))))


def batches(task: int, steps: int = 12):
    """(x, y) of a task, a linear map of its own."""
    draw = generator_for(7, "batches", task)
    mapping = torch.randn(INPUTS, OUTPUTS, generator=draw)
    inputs = [torch.randn(16, INPUTS, generator=draw) for _ in range(steps)]
    return [(x, x @ mapping) for x in inputs]


def adam(parameters, kind=torch.optim.Adam, **more):
    return kind(list(parameters), lr=0.02, **more)


def learn(weights: MaskedWeights, task: int, optimiser=None, *, put_back: bool = True, watch=None) -> None:
    """One task from begin to end, with a new optimiser unless one is given."""
    weights.begin(task)
    optimiser = optimiser or adam(weights.network.parameters())
    for x, y in batches(task):
        optimiser.zero_grad(set_to_none=False)
        F.mse_loss(weights.network(x), y).backward()
        weights.filter_gradients()
        if watch is not None:
            watch(weights)
        optimiser.step()
        if put_back:
            weights.after_step()
    weights.end()


def output(weights: MaskedWeights, task: int, network: nn.Module | None = None) -> torch.Tensor:
    """What ``task`` gives for some inputs, with the weights that it acts with."""
    x = torch.randn(9, INPUTS, generator=generator_for(1, "inputs"))
    return torch.func.functional_call(network or weights.network, weights.weights(task), (x,)).detach()
