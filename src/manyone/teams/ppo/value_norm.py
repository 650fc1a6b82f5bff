"""Running normalisation of value targets, as MAPPO and MAT use it (Yu et al., arXiv 2103.01955).

    m <- beta m + (1 - beta) mean(x)     q <- beta q + (1 - beta) mean(x^2)     w <- beta w + (1 - beta)
    mean = m / w     variance = max(q / w - mean^2, 0.01)

The division by w removes the bias of the start at zero. The statistics are brought up to date with the returns of every
batch on which a value loss is taken. Public name: :class:`ValueNorm`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

BETA, LEAST_VARIANCE = 0.99999, 1e-2  # the published values


class ValueNorm(nn.Module):
    """Mean and variance of the value targets, one number each for all agents; statistics are kept in double precision
    where the device has it."""

    mean_sum: Tensor
    square_sum: Tensor
    weight: Tensor

    def __init__(self, device: str | torch.device = "cpu") -> None:
        super().__init__()
        dtype = torch.float32 if torch.device(device).type == "mps" else torch.float64
        for name in ("mean_sum", "square_sum", "weight"):
            self.register_buffer(name, torch.zeros((), dtype=dtype, device=device))

    @torch.no_grad()
    def update(self, targets: Tensor, mask: Tensor | None = None) -> None:
        """Takes in ``targets`` of any shape; entries where ``mask`` (same shape) is False do not count, and where it is
        False everywhere nothing changes."""
        targets = targets.to(self.weight.dtype)
        if mask is None:
            means = targets.mean(), targets.square().mean()
        else:
            share = mask.to(self.weight.dtype) / mask.sum().clamp(min=1)
            means = (targets * share).sum(), (targets.square() * share).sum()
        after = self.mean_sum.lerp(means[0], 1 - BETA), self.square_sum.lerp(means[1], 1 - BETA)
        for kept, new in zip((self.mean_sum, self.square_sum, self.weight), (*after, self.weight * BETA + (1 - BETA))):
            kept.copy_(new if mask is None else torch.where(mask.any(), new, kept))

    def statistics(self) -> tuple[Tensor, Tensor]:
        """(mean, standard deviation), scalars; (0, 1) before the first update."""
        weight = self.weight.clamp(min=1e-12)
        mean = self.mean_sum / weight
        variance = (self.square_sum / weight - mean.square()).clamp(min=LEAST_VARIANCE)
        return mean, torch.where(self.weight > 0, variance.sqrt(), torch.ones_like(variance))

    def normalise(self, values: Tensor) -> Tensor:
        """Values in units of the running standard deviation, around the running mean."""
        mean, deviation = self.statistics()
        return (values - mean) / deviation

    def denormalise(self, values: Tensor) -> Tensor:
        """The inverse of :meth:`normalise`."""
        mean, deviation = self.statistics()
        return values * deviation + mean
