"""What an auto-encoder may have between its halves where it has no codebook: a grid, a normal distribution, nothing.

    Grid      z_k = rho times the nearest of L equally spaced values in [-1, 1] to tanh(e_k); the gradient is tanh's
              (finite scalar quantisation, Mentzer et al., arXiv 2309.15505, with L^l codes a latent of l entries)
    Gaussian  e = (mean, log variance);  z = mean + deviation noise;  penalty beta KL(N(mean, variance) || N(0, 1))
    Plain     z = e

A bottleneck has the members of :class:`~manyone.policies.vqcd.quantiser.VectorQuantiser` that :class:`Bottleneck`
names, so that an auto-encoder need not know which it has.

Public names: :class:`Bottleneck`, :class:`Grid`, :class:`Gaussian`, :class:`Plain`, :func:`grid_levels`.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.policies.vqcd.quantiser import code_use

_LOG_VARIANCE = 10.0  # beyond it the exponential of a poor start overflows


class Bottleneck(Protocol):
    """Between encoder and decoder: encodings e in, aligned vectors z out."""

    entries: int
    """Entries of an encoding for each entry of the aligned vector."""
    spread: bool
    """Whether the encoder starts with encodings of mean 0 and deviation 1."""

    @property
    def bound(self) -> float:
        """No entry of z is beyond it, for the data that it was trained on."""

    def __call__(self, encoded: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        """While training: z [B, width] with the gradient to the encoder, and the penalty, a scalar."""

    def code(self, encoded: Tensor) -> Tensor:
        """After training: z of encodings; no gradient."""

    def quantised(self, z: Tensor) -> Tensor:
        """z moved to the nearest that :meth:`code` can give."""

    def use(self, encoded: Tensor) -> dict[str, float]:
        """Codes used, dead codes and perplexity, if there are codes."""

    def begin(self, encoded: Tensor) -> None:
        """With the encodings of the first batch."""

    def after_step(self) -> None:
        """After each step of the optimiser."""

    def settle(self, z: Tensor) -> None:
        """After training, with all z of the data."""


class Plain(nn.Module):
    """z = e. The bound is that of the data."""

    entries, spread = 1, False
    largest: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("largest", torch.tensor(float("inf")))

    @property
    def bound(self) -> float:
        return float(self.largest)

    def forward(self, encoded: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        return encoded, encoded.new_zeros(())

    def code(self, encoded: Tensor) -> Tensor:
        return encoded.detach()

    def quantised(self, z: Tensor) -> Tensor:
        return z

    def use(self, encoded: Tensor) -> dict[str, float]:
        return {}

    def begin(self, encoded: Tensor) -> None:
        pass

    def after_step(self) -> None:
        pass

    def settle(self, z: Tensor) -> None:
        self.largest.fill_(z.abs().max())


class Gaussian(Plain):
    """z is drawn while training and the mean afterwards; ``beta`` weighs the divergence from N(0, 1)."""

    entries = 2

    def __init__(self, beta: float) -> None:
        super().__init__()
        if not beta >= 0:
            raise ManyoneError(f"beta = {beta}: must be 0 or more")
        self.beta = beta

    def forward(self, encoded: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        mean, log_variance = encoded.chunk(2, -1)
        log_variance = log_variance.clamp(-_LOG_VARIANCE, _LOG_VARIANCE)
        noise = torch.randn(mean.shape, generator=draw).to(mean)
        divergence = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(-1).mean()
        return mean + (0.5 * log_variance).exp() * noise, self.beta * divergence

    def code(self, encoded: Tensor) -> Tensor:
        return encoded.detach().chunk(2, -1)[0]


def grid_levels(codes: int, latent_width: int) -> int:
    """Values an entry of a grid of at most ``codes`` codes a latent: the largest L with L^latent_width <= codes."""
    levels = round(codes ** (1 / latent_width))
    return levels - (levels**latent_width > codes)


class Grid(nn.Module):
    """Each entry takes one of ``levels`` values from -bound to bound; ``latent_width`` of them are a code."""

    entries, spread = 1, False

    def __init__(self, levels: int, latent_width: int, bound: float) -> None:
        super().__init__()
        if levels < 2:
            raise ManyoneError(f"fsq has {levels} value an entry: needs at least 2, by more codes or narrower latents")
        self.levels, self.latent_width, self.limit = levels, latent_width, bound

    @property
    def bound(self) -> float:
        return self.limit

    def forward(self, encoded: Tensor, draw: torch.Generator) -> tuple[Tensor, Tensor]:
        smooth = torch.tanh(encoded) * self.limit
        return self.code(encoded) + (smooth - smooth.detach()), encoded.new_zeros(())

    def code(self, encoded: Tensor) -> Tensor:
        return self._values(self._places(torch.tanh(encoded.detach())))

    def quantised(self, z: Tensor) -> Tensor:
        return self._values(self._places(z.detach() / self.limit))

    def use(self, encoded: Tensor) -> dict[str, float]:
        places = self._places(torch.tanh(encoded.detach())).long().unflatten(-1, (-1, self.latent_width))
        weights = self.levels ** torch.arange(self.latent_width, device=places.device)
        return code_use((places * weights).sum(-1), self.levels**self.latent_width)

    def begin(self, encoded: Tensor) -> None:
        pass

    def after_step(self) -> None:
        pass

    def settle(self, z: Tensor) -> None:
        pass

    def _places(self, unit: Tensor) -> Tensor:
        """Places 0..levels - 1 of entries in [-1, 1]."""
        return ((unit.clamp(-1, 1) + 1) * ((self.levels - 1) / 2)).round()

    def _values(self, places: Tensor) -> Tensor:
        return (places * (2 / (self.levels - 1)) - 1) * self.limit
