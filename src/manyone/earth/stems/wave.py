"""The reference stem of this project: small, for any optical sensor, with exact invariants (rsfm.md 2.3).

    f_k = 2π / geomspace(20, 4000, 32) nm⁻¹,   e_c = [sin(λ_c f), cos(λ_c f)]  (64 numbers)
    K_c = MLP 64-128-(p p D)(e_c),             token = mean_c(patch_c · K_c) + b

A mean over the bands: their order does not matter, neither does their number, and doubling every band changes nothing.
It is not invariant to the sensor by construction: that has to be learned from many sensors (measured in rsfm.md 7.3).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.earth.stems.dynamic import check_wavelengths
from manyone.earth.stems.fixed import as_tokens

_PERIODS_NM, _FREQUENCIES, _HIDDEN = (20.0, 4000.0), 32, 128


class WaveStem(nn.Module):
    """Tokens [B, L, D] from any number of bands [B, C, H, W] and their wavelengths."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.width, self.patch = width, patch
        self.kernel = nn.Sequential(
            nn.Linear(2 * _FREQUENCIES, _HIDDEN), nn.GELU(), nn.Linear(_HIDDEN, patch * patch * width)
        )
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor, wavelengths_nm: Tensor) -> Tensor:
        """``wavelengths_nm`` [C]."""
        check_wavelengths(x, wavelengths_nm)
        # in float64 whatever the weights are: thousands of nanometres are hundreds of radians
        low, high = map(math.log, _PERIODS_NM)
        periods = torch.linspace(low, high, _FREQUENCIES, dtype=torch.float64, device=x.device).exp()
        angles = wavelengths_nm.to(periods)[:, None] * (2 * math.pi / periods)
        code = torch.cat([angles.sin(), angles.cos()], dim=-1).to(x)
        kernel = self.kernel(code).reshape(-1, self.patch, self.patch, self.width).permute(3, 0, 1, 2)
        return as_tokens(F.conv2d(x, kernel / len(code), self.bias, stride=self.patch))
