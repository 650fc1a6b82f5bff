"""The networks of offline RL: perceptrons side by side, and what a policy makes of their outputs.

Twin critics are one network whose matrices have a leading axis of members, so that both take one batched product a
layer. Weights can be *frozen* in a call: the gradient then reaches the inputs alone, as a policy's loss through its
critic needs it, and all losses of a method go through one backward pass.
Public names: :class:`Stack`, :class:`Policy`, :func:`tanh_sample`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.randomness import generator_for

Head = Literal["tanh", "gaussian", "softmax"]
"""What a policy gives: an action tanh(mu); the same with a deviation of each state; probabilities of C actions."""
Init = Literal["uniform", "orthogonal"]
"""How weights begin: PyTorch's own rule, or CORL's."""
LOG_STD = (-20.0, 2.0)
"""Least and largest logarithm of a policy's deviation, CORL's."""
_HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


class Stack(nn.Module):
    """``members`` perceptrons with ReLU: [n, I] (the same rows for all) or [M, n, I] -> [M, n, O].

    ``sizes``: I, the hidden widths, O. ``init``: uniform in +-1/sqrt(I), PyTorch's own rule, or orthogonal with gain
    sqrt(2) and without bias, CORL's; a function of ``seed`` and ``name`` alone. ``norm``: layer normalisation without
    parameters before each ReLU, which keeps a critic from running away on actions that the data lack.
    """

    def __init__(
        self,
        sizes: Sequence[int],
        members: int = 1,
        *,
        norm: bool = False,
        seed: int = 0,
        name: str = "",
        init: Init = "uniform",
    ) -> None:
        super().__init__()
        self.sizes, self.members, self.norm = tuple(sizes), members, norm
        self.weights, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer, (a, b) in enumerate(pairwise(self.sizes)):
            weight, bias = torch.empty(members, a, b), torch.zeros(members, 1, b)
            for member in range(members):
                generator = generator_for(seed, "teacher network", name, layer, member)
                if init == "orthogonal":
                    nn.init.orthogonal_(weight[member], math.sqrt(2), generator=generator)
                else:
                    weight[member].uniform_(-(a**-0.5), a**-0.5, generator=generator)
                    bias[member].uniform_(-(a**-0.5), a**-0.5, generator=generator)
            self.weights.append(nn.Parameter(weight))
            self.biases.append(nn.Parameter(bias))

    @staticmethod
    def shapes(sizes: Sequence[int], members: int = 1) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of a stack of these ``sizes``, by name."""
        found: dict[str, tuple[int, ...]] = {}
        for layer, (a, b) in enumerate(pairwise(sizes)):
            found |= {f"weights.{layer}": (members, a, b), f"biases.{layer}": (members, 1, b)}
        return found

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        return {"sizes": list(self.sizes), "members": self.members, "norm": self.norm}

    def forward(self, x: Tensor, frozen: bool = False) -> Tensor:
        if x.ndim == 2:
            x = x.expand(self.members, -1, -1)
        last = len(self.weights) - 1
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.baddbmm(bias.detach(), x, weight.detach()) if frozen else torch.baddbmm(bias, x, weight)
            if layer < last:
                x = F.relu(F.layer_norm(x, x.shape[-1:])) if self.norm else x.relu_()
        return x


class Policy(nn.Module):
    """pi(a | s) of standardised states [n, S]: a perceptron with ``layers`` hidden layers, and a head.

    "tanh": the action tanh(mu). "gaussian": tanh(mu + sigma eps), log sigma = clamp(m l + o, -20, 2) with the second
    half l of the outputs and two learned scalars m and o, as CORL's Cal-QL has it. "softmax": C probabilities.
    """

    def __init__(
        self, states: int, actions: int, width: int, layers: int, head: Head, *, seed: int = 0, init: Init = "uniform"
    ) -> None:
        super().__init__()
        self.head, self.action_dim = head, actions
        self.net = Stack(_sizes(states, actions, width, layers, head), seed=seed, name="policy", init=init)
        if head == "gaussian":
            self.multiplier, self.offset = nn.Parameter(torch.tensor(1.0)), nn.Parameter(torch.tensor(-1.0))

    @staticmethod
    def shapes(states: int, actions: int, width: int, layers: int, head: Head) -> dict[str, tuple[int, ...]]:
        """The shape of every tensor of such a policy, by name."""
        found = {f"net.{k}": v for k, v in Stack.shapes(_sizes(states, actions, width, layers, head)).items()}
        return found | ({"multiplier": (), "offset": ()} if head == "gaussian" else {})

    def config(self) -> dict[str, Any]:
        """The constructor's arguments, JSON-able."""
        states, *hidden, _ = self.net.sizes
        return {"states": states, "actions": self.action_dim, "width": hidden[0], "layers": len(hidden),
                "head": self.head}  # fmt: skip

    def forward(self, states: Tensor) -> Tensor:
        """What acts: unit actions [n, A] without noise, or probabilities [n, C]."""
        out = self.net(states)[0]
        return out.softmax(-1) if self.head == "softmax" else torch.tanh(out[:, : self.action_dim])

    def log_probabilities(self, states: Tensor) -> Tensor:
        """log pi(. | s) [n, C] of a discrete policy."""
        return self.net(states)[0].log_softmax(-1)

    def normal(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log deviation [n, A] of a Gaussian policy before the tanh."""
        mean, raw = self.net(states)[0].chunk(2, -1)
        return mean, (self.multiplier * raw + self.offset).clamp(*LOG_STD)


def _sizes(states: int, actions: int, width: int, layers: int, head: Head) -> tuple[int, ...]:
    return (states, *[width] * layers, 2 * actions if head == "gaussian" else actions)


def tanh_sample(mean: Tensor, log_std: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    """(a, log pi(a | s)) of a = tanh(u), u = mean + e^log_std noise: [..., A] and [...].

    log(1 - tanh(u)^2) = 2 (log 2 - u - softplus(-2u)) stays exact where tanh(u) rounds to 1.
    """
    u = mean + log_std.exp() * noise
    density = -0.5 * noise.square() - log_std - _HALF_LOG_2PI - 2 * (math.log(2) - u - F.softplus(-2 * u))
    return torch.tanh(u), density.sum(-1)
