"""TerraMind's stem (arXiv 2504.11171): a projection and an embedding a modality, all tokens in one sequence.

A subset of a modality's bands takes the channels of its kernel; features of several modalities are merged after the
encoder by their mean or side by side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.earth.stems.fixed import as_tokens, slice_weight
from manyone.earth.stems.positions import grid_positions
from manyone.errors import ManyoneError

MODALITIES = {"S2L2A": 12, "S2L1C": 13, "S1GRD": 2, "S1RTC": 2, "DEM": 1, "RGB": 3}
"""Bands of each modality of TerraMind v1 that comes as pixels."""


class ModalityStem(nn.Module):
    """Tokens [B, M L, D], modality after modality, from images by modality."""

    def __init__(self, width: int, patch: int = 16, modalities: Mapping[str, int] = MODALITIES) -> None:
        super().__init__()
        self.project = nn.ModuleDict({n: nn.Conv2d(c, width, patch, stride=patch) for n, c in modalities.items()})
        self.kind = nn.ParameterDict({n: nn.Parameter(torch.empty(width).normal_(std=0.02)) for n in modalities})
        self.width = width

    def forward(self, images: Mapping[str, Tensor], kept: Mapping[str, Sequence[int]] | None = None) -> Tensor:
        """``images``: modality -> [B, C, H, W]; ``kept``: positions of the bands that a modality has, where not all."""
        if odd := [name for name in images if name not in self.project]:
            raise ManyoneError(f"modality {odd[0]!r}: must be one of {', '.join(self.project)}")
        if not images:
            raise ManyoneError("images: there is none")
        tokens = []
        for name, x in images.items():
            weight: Tensor = self.project[name].get_parameter("weight")
            bias = self.project[name].get_parameter("bias")
            if kept is not None and name in kept:
                weight = slice_weight(weight, kept[name])
            maps = F.conv2d(x, weight, bias, stride=weight.shape[-1])
            rows, columns = maps.shape[-2:]
            tokens.append(as_tokens(maps) + grid_positions(rows, columns, self.width).to(x) + self.kind[name])
        return torch.cat(tokens, dim=1)


def merge(tokens: Tensor, modalities: int, how: Literal["mean", "concat"] = "mean") -> Tensor:
    """[B, L, D] (mean) or [B, L, M D] (concat) of an encoder's tokens [B, M L, D]."""
    if tokens.shape[1] % modalities:
        raise ManyoneError(f"tokens: {tokens.shape[1]} are not {modalities} equal modalities")
    parts = tokens.unflatten(1, (modalities, -1))
    return parts.mean(1) if how == "mean" else parts.transpose(1, 2).flatten(2)
