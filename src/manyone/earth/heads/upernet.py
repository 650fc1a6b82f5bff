"""UPerNet on the maps of a plain transformer (Xiao et al., ECCV 2018, arXiv 1807.10221), as PANGAEA trains it.

neck      maps of four layers, one size  ->  x4, x2, x1, x0.5   (two transposed convolutions, one, none, max-pool)
PPM       the last level pooled to 1, 2, 3, 6 a side, 1x1, upsampled, beside the level itself, 3x3
top-down  laterals 1x1, each plus the upsampled level above; 3x3 each
fuse      all four at the size of the first, 3x3; dropout of whole channels 0.1; 1x1 classifier; bilinear
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from manyone.earth.heads.light import conv_block, resized
from manyone.errors import ManyoneError

_POOLED = (1, 2, 3, 6)


class Neck(nn.Module):
    """Four maps of one size -> a pyramid."""

    def __init__(self, widths: Sequence[int]) -> None:
        super().__init__()
        a, b = widths[0], widths[1]
        self.up4 = nn.Sequential(
            nn.ConvTranspose2d(a, a, 2, 2), nn.BatchNorm2d(a), nn.GELU(), nn.ConvTranspose2d(a, a, 2, 2)
        )
        self.up2 = nn.ConvTranspose2d(b, b, 2, 2)
        self.down2 = nn.MaxPool2d(2, 2)

    def forward(self, maps: Sequence[Tensor]) -> list[Tensor]:
        """Sizes x4, x2, x1, x0.5."""
        return [self.up4(maps[0]), self.up2(maps[1]), maps[2], self.down2(maps[3])]


class UPerNet(nn.Module):
    """The head; ``pyramid=True``: the maps are one already (Swin, ResNet), no neck."""

    def __init__(self, widths: Sequence[int], classes: int, channels: int = 512, pyramid: bool = False) -> None:
        super().__init__()
        if len(widths) != 4:
            raise ManyoneError(
                f"widths: {len(widths)} layers; UPerNet takes the maps of four (the FPN head any number)"
            )
        self.neck = nn.Identity() if pyramid else Neck(widths)
        self.pooled = nn.ModuleList([conv_block(widths[3], channels, 1) for _ in _POOLED])
        self.bottleneck = conv_block(widths[3] + len(_POOLED) * channels, channels, 3)
        self.laterals = nn.ModuleList([conv_block(width, channels, 1) for width in widths[:3]])
        self.smooth = nn.ModuleList([conv_block(channels, channels, 3) for _ in widths[:3]])
        self.fuse = conv_block(4 * channels, channels, 3)
        self.dropout = nn.Dropout2d(0.1)
        self.classify = nn.Conv2d(channels, classes, 1)

    def forward(self, maps: Sequence[Tensor], size: Sequence[int]) -> Tensor:
        """[B, K, H, W]."""
        levels = self.neck(maps)
        top = levels[3]
        context = [
            resized(conv(functional.adaptive_avg_pool2d(top, side)), top.shape[-2:])
            for side, conv in zip(_POOLED, self.pooled)
        ]
        path = [lateral(level) for lateral, level in zip(self.laterals, levels)]
        path.append(self.bottleneck(torch.cat([top, *context], 1)))
        for i in range(2, -1, -1):
            path[i] = path[i] + resized(path[i + 1], path[i].shape[-2:])
        outer = path[0].shape[-2:]
        out = [conv(level) for conv, level in zip(self.smooth, path)] + [path[3]]
        fused = self.fuse(torch.cat([resized(level, outer) for level in out], 1))
        return resized(self.classify(self.dropout(fused)), size)
