"""What denoisers know beside the noisy data: the diffusion step and the condition, each as a vector.

    step       n -> (sin(n f_i), cos(n f_i)), f_i = 10000^(-i / (e/2 - 1)) -> Linear -> Mish -> Linear
    condition  c -> Linear -> Mish -> Linear -> Mish -> Linear, and 0 where there is none

(Vaswani et al., "Attention Is All You Need", arXiv 1706.03762, section 3.5, in the form of Ho et al., arXiv 2006.11239;
the null condition is Ho and Salimans', arXiv 2207.12598.)
Public names: :class:`StepEmbedding`, :class:`ConditionEmbedding`, :func:`sinusoids`, :func:`frequencies`,
:func:`check_condition`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.nets.diffusion.activation import mish


def frequencies(width: int) -> Tensor:
    """f, [width / 2]; ``width`` even, at least 4."""
    if width < 4 or width % 2:
        raise ManyoneError(f"width of a step's embedding = {width}: must be even and at least 4")
    half = width // 2
    return torch.exp(torch.arange(half, dtype=torch.float64) * (-torch.tensor(10000.0).log() / (half - 1))).float()


def sinusoids(n: Tensor, frequency: Tensor) -> Tensor:
    """Steps [...] as vectors [..., 2 len(frequency)]."""
    angle = n.unsqueeze(-1) * frequency
    return torch.cat((angle.sin(), angle.cos()), -1)


def check_condition(condition: Tensor | None, width: int) -> None:
    """One line for a condition that the network was not built for."""
    if condition is not None and condition.shape[-1] != width:
        raise ManyoneError(f"condition of {condition.shape[-1]} numbers: this network was built for {width}")


class StepEmbedding(nn.Module):
    """Step n [B] -> [B, width], by way of ``hidden`` units."""

    frequency: Tensor

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.register_buffer("frequency", frequencies(width), persistent=False)
        self.first, self.second = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, n: Tensor) -> Tensor:
        """int64 [B] -> [B, width]."""
        return self.second(mish(self.first(sinusoids(n, self.frequency))))


class ConditionEmbedding(nn.Module):
    """Condition [B, inputs] -> [B, width]: inputs -> width -> 4 width -> width."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.inputs, self.width = inputs, width
        self.first, self.second = nn.Linear(inputs, width), nn.Linear(width, 4 * width)
        self.third = nn.Linear(4 * width, width)

    def forward(self, condition: Tensor | None, present: Tensor | None, rows: int) -> Tensor:
        """Zero in rows that are not ``present`` (bool [B]), and everywhere without ``condition``."""
        if condition is None:
            return self.third.bias.new_zeros(rows, self.width)
        check_condition(condition, self.inputs)
        found = self.third(mish(self.second(mish(self.first(condition)))))
        return found if present is None else found * present.unsqueeze(-1)
