"""A small network with transformer-like names, and perturbed copies of a network as experts."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Mlp(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.gelu(self.fc1(x)))


class _Block(nn.Module):
    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm, self.mlp = nn.LayerNorm(width), _Mlp(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mlp(self.norm(x))


class Toy(nn.Module):
    """[B, L, 6] (or [B, 6]) -> stem -> blocks -> mean over tokens, [B, 8]; no interaction between tokens or samples."""

    def __init__(self, depth: int = 3, hidden: int = 300, seed: int = 0) -> None:
        super().__init__()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.stem = nn.Linear(6, 8)
            self.blocks = nn.ModuleList(_Block(8, hidden) for _ in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return x.mean(1) if x.ndim == 3 else x


def perturbed(network: nn.Module, count: int, size: float = 0.1, seed: int = 0) -> list[dict[str, Tensor]]:
    """State dicts of ``count`` experts: every float tensor moved by Gaussian noise, tied tensors together."""
    generator = torch.Generator().manual_seed(seed + 1)
    experts = []
    for _ in range(count):
        moved: dict[int, Tensor] = {}
        expert = {}
        for name, value in network.state_dict().items():
            if value.data_ptr() not in moved:
                noise = torch.randn(value.shape, generator=generator).to(value) if value.is_floating_point() else 0
                moved[value.data_ptr()] = value.clone() + size * noise if value.is_floating_point() else value.clone()
            expert[name] = moved[value.data_ptr()]
        experts.append(expert)
    return experts


def digest(weights: dict[str, Tensor]) -> dict[str, bytes]:
    """The bytes of every tensor."""
    return {name: value.detach().contiguous().numpy().tobytes() for name, value in weights.items()}
