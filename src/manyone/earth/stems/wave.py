"""A stem for any number of bands: each band's patch projection is computed from the band's wavelength.

    f_k = 2 pi / lambda_k,  lambda_k = 20 .. 4000 nm in 32 geometric steps           FREQUENCIES
    e_c = [sin(l_c f), cos(l_c f)]                        64 numbers for wavelength l_c    encode_wavelengths
    K_c = MLP(e_c), 64 - 128 - p p D                                                      WaveStem.kernels
    token = mean_c(patch_c K_c) + b                                                       WaveStem.forward

The mean (not the sum) makes the scale independent of the number of bands: permuting the bands together with their
wavelengths changes nothing, and neither does giving each band twice. Ours, after DOFA's dynamic convolution
(arXiv 2403.15356). Public names: :class:`WaveStem`, :func:`encode_wavelengths`.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.earth.stems.dynamic import check_wavelengths
from manyone.errors import ManyoneError

FREQUENCIES = 32
_SHORTEST, _LONGEST = 20.0, 4000.0  # nm


class WaveStem(nn.Module):
    """Patches of any optical bands as tokens of ``width``."""

    def __init__(self, patch: int, width: int, hidden: int = 128) -> None:
        super().__init__()
        self.patch, self.width = patch, width
        last = nn.Linear(hidden, patch * patch * width)
        self.mlp = nn.Sequential(nn.Linear(2 * FREQUENCIES, hidden), nn.GELU(), last)
        self.bias = nn.Parameter(torch.zeros(width))
        # the projection of one band then starts like a linear layer over its p p pixels
        nn.init.normal_(last.weight, std=1 / (patch * math.sqrt(hidden)))

    def kernels(self, lam_nm: Tensor) -> Tensor:
        """[C] -> [C, p p, D]."""
        return self.mlp(encode_wavelengths(lam_nm).to(self.bias)).view(len(lam_nm), self.patch**2, self.width)

    def forward(self, x: Tensor, lam_nm: Tensor) -> Tensor:
        """[B, C, H, W] and [C] wavelengths in nm -> [B, h w, D]; H and W are multiples of the patch."""
        n, bands, height, width = x.shape
        p = self.patch
        check_wavelengths(x, lam_nm)
        if height % p or width % p:
            raise ManyoneError(f"images of {height} x {width} pixels: must be multiples of the patch, {p}")
        tiles = x.view(n, bands, height // p, p, width // p, p).permute(0, 2, 4, 1, 3, 5)
        # one matrix product over bands and pixels together
        tiles = tiles.reshape(n, (height // p) * (width // p), bands * p * p)
        return F.linear(tiles, self.kernels(lam_nm).reshape(bands * p * p, -1).T / bands, self.bias)


def encode_wavelengths(lam_nm: Tensor) -> Tensor:
    """[C] in nm -> [C, 64]: sines, then cosines; in double precision, as phases reach 800 rad."""
    periods = torch.logspace(
        math.log10(_SHORTEST), math.log10(_LONGEST), FREQUENCIES, dtype=torch.float64, device=lam_nm.device
    )
    phase = lam_nm.double()[:, None] * (2 * math.pi / periods)
    return torch.cat([phase.sin(), phase.cos()], dim=1)
