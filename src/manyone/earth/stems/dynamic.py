"""DOFA's stem (arXiv 2403.15356): a small transformer writes the kernel of each band from its wavelength.

    e_c = PE_128(λ_c [nm]),  u = e + ReLU(W2 ReLU(W1 e))
    [128 weight tokens; u_1..u_C; bias token] -> one post-norm layer (d 128, 4 heads, GELU, 2048) -> z
    K_c = 0.01 W_k (z_c + u_c) as (p, p, D);   b = 0.01 W_b z_bias;   convolution with stride p and padding 1

The padding is the authors' (it shifts the grid by one pixel; 224 pixels still give 14 x 14 tokens). Radar has the
placeholder of 3.75 µm in both polarisations.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.earth.stems.fixed import as_tokens
from manyone.earth.stems.positions import sincos
from manyone.errors import ManyoneError

CODE = 128
RADAR_NM = 3750.0
"""What stands for the wavelength of radar bands."""
_WEIGHT_TOKENS, _HEADS, _FEED_FORWARD, _SCALE = 128, 4, 2048, 0.01


class KernelWriter(nn.Module):
    """Codes of bands [C, 128] -> (kernel [D, C, p, p], bias [D])."""

    def __init__(self, width: int, patch: int) -> None:
        super().__init__()
        self.width, self.patch = width, patch
        self.first, self.second = nn.Linear(CODE, CODE), nn.Linear(CODE, CODE)
        self.layer = nn.TransformerEncoderLayer(
            CODE, _HEADS, dim_feedforward=_FEED_FORWARD, dropout=0.0, activation="gelu", batch_first=True
        )
        self.to_kernel = nn.Linear(CODE, patch * patch * width)
        self.to_bias = nn.Linear(CODE, width)
        self.weight_tokens = nn.Parameter(torch.empty(_WEIGHT_TOKENS, CODE).normal_(std=0.02))
        self.bias_token = nn.Parameter(torch.empty(1, CODE).normal_(std=0.02))
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.constant_(module.bias, 0.01)

    def forward(self, codes: Tensor) -> tuple[Tensor, Tensor]:
        """The kernel and bias that ``codes`` stand for."""
        u = codes + F.relu(self.second(F.relu(self.first(codes))))
        z = self.layer(torch.cat([self.weight_tokens, u, self.bias_token])[None])[0]
        kernel = self.to_kernel(z[_WEIGHT_TOKENS:-1] + u) * _SCALE
        kernel = kernel.reshape(len(codes), self.patch, self.patch, self.width).permute(3, 0, 1, 2)
        return kernel, self.to_bias(z[-1]) * _SCALE


class DynamicStem(nn.Module):
    """Tokens [B, L, D] from any number of bands [B, C, H, W] and their wavelengths."""

    def __init__(self, width: int, patch: int = 16) -> None:
        super().__init__()
        self.writer = KernelWriter(width, patch)

    def forward(self, x: Tensor, wavelengths_nm: Tensor) -> Tensor:
        """``wavelengths_nm`` [C]; radar bands have ``RADAR_NM``."""
        check_wavelengths(x, wavelengths_nm)
        kernel, bias = self.writer(sincos(wavelengths_nm, CODE).to(x))
        return as_tokens(F.conv2d(x, kernel, bias, stride=self.writer.patch, padding=1))


def check_wavelengths(x: Tensor, wavelengths_nm: Tensor) -> None:
    """``ManyoneError`` where there is not one finite wavelength a band."""
    if wavelengths_nm.shape != x.shape[1:2]:
        raise ManyoneError(f"wavelengths: {tuple(wavelengths_nm.shape)} for {x.shape[1]} bands: give one a band, in nm")
    if not bool(torch.isfinite(wavelengths_nm).all()):
        raise ManyoneError("wavelengths: a band has none: leave it out, or use a model of fixed bands")
