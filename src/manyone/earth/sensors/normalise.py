"""Per-channel statistics of valid pixels, gathered batch by batch, and the four normalisations (rsfm.md 2.2, step 8).

    model, dataset   (x - mean) / std        minmax   (x - min) / (max - min)        none   x

Statistics are those of the train split alone, merged by Chan's update in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from manyone.errors import ManyoneError

_LEAST_SPREAD = 1e-12


@dataclass(frozen=True)
class Statistics:
    """Of C channels, in the unit of the pixels that were counted."""

    count: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    """Population standard deviation."""
    low: tuple[float, ...]
    high: tuple[float, ...]


class RunningStatistics:
    """Gathers :class:`Statistics` over batches."""

    def __init__(self, channels: int) -> None:
        self._count = torch.zeros(channels, dtype=torch.float64)
        self._mean = torch.zeros(channels, dtype=torch.float64)
        self._squares = torch.zeros(channels, dtype=torch.float64)
        self._low = torch.full((channels,), float("inf"), dtype=torch.float64)
        self._high = torch.full((channels,), float("-inf"), dtype=torch.float64)

    def add(self, x: Tensor, valid: Tensor) -> None:
        """Counts the valid pixels of ``x`` [B, (T,) C, H, W]."""
        values = x.movedim(-3, 0).flatten(1).double().cpu()
        mask = valid.movedim(-3, 0).flatten(1).cpu()
        count = mask.sum(1).double()
        mean = torch.where(mask, values, 0.0).sum(1) / count.clamp(min=1)
        squares = torch.where(mask, (values - mean[:, None]) ** 2, 0.0).sum(1)
        total = self._count + count
        apart, share = mean - self._mean, count / total.clamp(min=1)
        self._squares += squares + apart**2 * self._count * share
        self._mean += apart * share
        self._count = total
        self._low = torch.minimum(self._low, torch.where(mask, values, float("inf")).amin(1))
        self._high = torch.maximum(self._high, torch.where(mask, values, float("-inf")).amax(1))

    def result(self) -> Statistics:
        """What was counted; ``ManyoneError`` where a channel has no valid pixel."""
        if empty := [str(c) for c, n in enumerate(self._count.tolist()) if n == 0]:
            raise ManyoneError(f"channels {', '.join(empty)} have no valid pixel in the train split: check nodata")
        return Statistics(
            tuple(int(n) for n in self._count.tolist()),
            tuple(self._mean.tolist()),
            tuple((self._squares / self._count).sqrt().tolist()),
            tuple(self._low.tolist()),
            tuple(self._high.tolist()),
        )


def shift_scale(x: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """(x - shift) / scale for ``x`` [B, (T,) C, H, W] and one shift and scale a channel; a scale of 0 counts as 1."""
    spread = torch.where(scale.abs() < _LEAST_SPREAD, torch.ones_like(scale), scale)
    return (x - shift[:, None, None]) / spread[:, None, None]
