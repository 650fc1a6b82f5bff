"""Classifier-free guidance: one network with and without its condition, extrapolated, in one call.

    eps = eps(x, n, none) + scale (eps(x, n, condition) - eps(x, n, none))
    (Ho and Salimans, "Classifier-Free Diffusion Guidance", arXiv 2207.12598, eq. 6, with scale = 1 + w)

Public names: :func:`guided`, :class:`Denoiser`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from manyone.nets.diffusion.process import Network


class Denoiser(Protocol):
    """A network for x [B, T, C] at step n int64 [B], under a condition [B, D] (or [B, T, D])."""

    def __call__(self, x: Tensor, n: Tensor, condition: Tensor | None = None, present: Tensor | None = None) -> Tensor:
        """As x. ``present`` bool [B]: rows without are given no condition."""


def guided(denoiser: Denoiser, condition: Tensor | None, scale: float = 1.0) -> Network:
    """What :func:`~manyone.nets.diffusion.sampling.sample` calls: ``denoiser`` under ``condition`` [B, ...].

    One call of twice the rows, except where half of them would count for nothing: scale 1 is conditional alone, scale 0
    (or no condition) unconditional alone.
    """
    if condition is None or scale in (0, 1):

        def single(x: Tensor, n: Tensor) -> Tensor:
            given = condition is not None and scale != 0
            present = torch.full((len(x),), given, device=x.device)
            return denoiser(x, n, condition, present)

        return single

    twice = torch.cat((condition, condition))
    given = torch.arange(len(twice), device=twice.device) < len(condition)

    def network(x: Tensor, n: Tensor) -> Tensor:
        with_, without = denoiser(torch.cat((x, x)), torch.cat((n, n)), twice, given).split(len(x))
        return torch.lerp(without, with_, scale)

    return network
