"""Inverse dynamics: the action that leads from one aligned state to the next (arXiv 2410.15698, section on acting).

    a_t = f_inv(s_t, s_{t+1})             InverseDynamics
    L_inv = mean ||a_t - f_inv(s_t, s_{t+1})||^2 over the T - 1 pairs of a window      inverse_loss

Public names: :class:`InverseDynamics`, :func:`inverse_loss`.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.policies.vqcd.data import PlanBatch
from manyone.randomness import generator_for


class InverseDynamics(nn.Module):
    """A ReLU network from two states [..., ``states``] to an action [..., ``actions``]; drawn from ``seed``."""

    def __init__(self, states: int, actions: int, width: int = 256, layers: int = 2, *, seed: int = 0) -> None:
        super().__init__()
        self.states, self.actions, self.width, self.depth = states, actions, width, layers
        sizes = [2 * states, *[width] * layers, actions]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        with torch.no_grad():
            for name, value in self.named_parameters():
                bound = self.get_parameter(f"{name.rpartition('.')[0]}.weight").shape[1] ** -0.5
                value.uniform_(-bound, bound, generator=generator_for(seed, "inverse", name))

    def config(self) -> dict[str, Any]:
        """The constructor's arguments but for the seed, JSON-able."""
        return {"states": self.states, "actions": self.actions, "width": self.width, "layers": self.depth}

    def forward(self, now: Tensor, then: Tensor) -> Tensor:
        x = torch.cat((now, then), -1)
        for layer in self.layers[:-1]:
            x = F.relu(layer(x))
        return self.layers[-1](x)


def inverse_loss(inverse: InverseDynamics, batch: PlanBatch) -> Tensor:
    """Mean squared error over the pairs of states that are within their episodes."""
    found = inverse(batch.states[:, :-1], batch.states[:, 1:])
    error = (found - batch.actions[:, :-1]).square().mean(-1)
    inside = batch.valid[:, 1:]
    return torch.where(inside, error, 0).sum() / inside.sum().clamp(min=1)
