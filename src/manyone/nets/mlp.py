"""The two-layer perceptron that transformer and residual blocks share."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Mlp(nn.Module):
    """fc2(GELU(fc1 x)): width -> hidden -> width, both layers plain ``nn.Linear``."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        """[..., width] -> [..., width]."""
        return self.fc2(F.gelu(self.fc1(x)))
