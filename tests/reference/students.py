"""One student at a time, as a plain module trained by torch's own optimisers and stepped in its own environment."""

from __future__ import annotations

from collections.abc import Mapping

import gymnasium
import numpy as np
import torch
from torch import Tensor, nn


def module(weights: Mapping[str, Tensor], member: int, actions: int, *, residual: bool = False) -> nn.Module:
    """A member of a stack ``layers.0.weight`` [K, out, in], ... as a module from states to tanh of its means."""

    class One(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList()
            for place in range(sum(name.endswith(".weight") for name in weights)):
                weight, bias = (weights[f"layers.{place}.{kind}"][member] for kind in ("weight", "bias"))
                layer = nn.Linear(weight.shape[1], weight.shape[0])
                layer.weight.data, layer.bias.data = weight.clone(), bias.clone()
                self.layers.append(layer)

        def forward(self, x: Tensor) -> Tensor:
            first = None
            for place, layer in enumerate(self.layers[:-1]):
                x = torch.relu(layer(x))
                first = x if place == 0 else first
            x = x + first if residual else x
            return torch.tanh(self.layers[-1](x)[..., :actions])

    return One()


def cloned(student: nn.Module, states: Tensor, actions: Tensor, optimiser: str, lr: float, steps: int) -> nn.Module:
    """``steps`` full-batch steps on the mean squared error."""
    made = {
        "sgd": lambda p: torch.optim.SGD(p, lr),
        "momentum": lambda p: torch.optim.SGD(p, lr, momentum=0.9),
        "adam": lambda p: torch.optim.Adam(p, lr),
        "adamw": lambda p: torch.optim.AdamW(p, lr),
    }[optimiser](student.parameters())
    for _ in range(steps):
        made.zero_grad()
        nn.functional.mse_loss(student(states), actions).backward()
        made.step()
    return student


def play(student: nn.Module, mean: Tensor, deviation: Tensor, name: str, seed: int, steps: int) -> tuple[float, int]:
    """(return, length) of one episode of at most ``steps`` steps in Gymnasium's environment ``name``."""
    env = gymnasium.make(name)
    observation, _ = env.reset(seed=seed)
    total, length, over = 0.0, 0, False
    while not over and length < steps:
        state = (torch.from_numpy(observation.astype(np.float32))[None] - mean) / deviation
        with torch.no_grad():
            action = student(state)[0].numpy()
        observation, reward, terminated, truncated, _ = env.step(action)
        total, length, over = total + float(reward), length + 1, terminated or truncated
    env.close()
    return total, length
