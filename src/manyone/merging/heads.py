"""Frozen task heads: the classifiers that turn a shared feature into a task's logits.

For CLIP the rows are normalised text embeddings and ``scale`` is exp(logit_scale) = 100; elsewhere a head is whatever
linear classifier belongs to the expert. Heads are never merged and never trained here.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Head:
    """z = scale * (f / |f|) W^T + b, or z = scale * f W^T + b when ``normalise`` is off; W is [classes, d]."""

    weight: Tensor
    bias: Tensor | None = None
    scale: float = 1.0
    normalise: bool = True

    def __call__(self, feature: Tensor) -> Tensor:
        """Logits [n, classes] of features [n, d]."""
        if self.normalise:
            feature = F.normalize(feature, dim=-1)
        logits = self.scale * feature @ self.weight.to(feature.dtype).T
        return logits if self.bias is None else logits + self.bias.to(feature.dtype)

    def to(self, device: object) -> Head:
        """The same head on another device."""
        bias = None if self.bias is None else self.bias.to(device)  # type: ignore[call-overload]
        return Head(self.weight.to(device), bias, self.scale, self.normalise)  # type: ignore[call-overload]


class OwnLogits(Head):
    """The head of a model whose output has the logits already, as that of a language model."""

    def __init__(self) -> None:
        super().__init__(torch.empty(0, 0), normalise=False)

    def __call__(self, feature: Tensor) -> Tensor:
        """The logits [n, classes] as they are."""
        return feature

    def to(self, device: object) -> Head:
        """Itself."""
        return self
