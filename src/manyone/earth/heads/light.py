"""The heads that a CPU trains in minutes: linear on upsampled tokens, a block of convolutions, FPN with 256 channels.

Every head takes the maps of one or more layers, [B, D_l, h_l, w_l] each, and the size of the target, and gives
[B, K, H, W], upsampled bilinearly.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


def resized(x: Tensor, size: Sequence[int]) -> Tensor:
    """Bilinear, corners not aligned."""
    if tuple(x.shape[-2:]) == tuple(size):
        return x
    return functional.interpolate(x, size=tuple(size), mode="bilinear", align_corners=False)


def conv_block(inputs: int, outputs: int, side: int) -> nn.Sequential:
    """Convolution, batch norm, ReLU; the size stays."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, side, padding=side // 2, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()
    )


def stacked(maps: Sequence[Tensor]) -> Tensor:
    """All layers side by side at the size of the largest, [B, Sum D_l, h, w]."""
    size = max((m.shape[-2:] for m in maps), key=lambda s: s[0] * s[1])
    return torch.cat([resized(m, size) for m in maps], 1)


class LinearHead(nn.Module):
    """One linear map a token, of all layers together."""

    def __init__(self, widths: Sequence[int], classes: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(sum(widths), affine=False)  # features are standardised, as for the linear probe
        self.classify = nn.Conv2d(sum(widths), classes, 1)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """[B, K, H, W]."""
        return resized(self.classify(self.norm(stacked(maps))), size)


class ConvHead(nn.Module):
    """Two 3x3 convolutions and a classifier."""

    def __init__(self, widths: Sequence[int], classes: int, channels: int = 128) -> None:
        super().__init__()
        self.blocks = nn.Sequential(conv_block(sum(widths), channels, 3), conv_block(channels, channels, 3))
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """[B, K, H, W]."""
        return resized(self.classify(self.blocks(stacked(maps))), size)


class FPNHead(nn.Module):
    """A feature pyramid: laterals, sums from the last layer to the first, a 3x3 block a level, their sum classified."""

    def __init__(self, widths: Sequence[int], classes: int, channels: int = 256) -> None:
        super().__init__()
        self.laterals = nn.ModuleList([nn.Conv2d(width, channels, 1) for width in widths])
        self.smooth = nn.ModuleList([conv_block(channels, channels, 3) for _ in widths])
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """[B, K, H, W]."""
        levels = [lateral(m) for lateral, m in zip(self.laterals, maps)]
        for i in range(len(levels) - 2, -1, -1):
            levels[i] = levels[i] + resized(levels[i + 1], levels[i].shape[-2:])
        outer = levels[0].shape[-2:]
        merged = torch.stack([resized(block(level), outer) for block, level in zip(self.smooth, levels)]).sum(0)
        return resized(self.classify(merged), size)
