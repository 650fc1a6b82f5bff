"""Copernicus-FM's stem (arXiv 2503.11849): kernels from wavelength and bandwidth, and metadata that may be unknown.

    expansion  [sin(2π v / Λ_j), cos(2π v / Λ_j)], Λ_j log-spaced from a lower to an upper bound (in float64)
    code       expansion(λ; 1e2 .. 1e9 nm) + expansion(bandwidth; 1 .. 1e9 nm), then DOFA's writer of kernels
    token      position + W_c c(lon, lat) + W_t t(days) + W_a a(km²); NaN stands for "unknown", a learned vector

The patch size is free: a kernel is resized by the pseudo-inverse of the pixels' resizing (FlexiViT).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.earth.stems.dynamic import CODE, KernelWriter, check_wavelengths
from manyone.earth.stems.fixed import as_tokens
from manyone.errors import ManyoneError

WAVELENGTHS_NM, BANDWIDTHS_NM = (100.0, 1e9), (1.0, 1e9)
DEGREES, AREAS_KM2, DAYS = (1e-4, 720.0), (1e-3, 5.1e8), (1.0, 365.25)


def fourier_expansion(values: Tensor, width: int, lower: float, upper: float) -> Tensor:
    """float32 [..., width] of ``values`` [...]."""
    if width % 2:
        raise ManyoneError(f"width {width}: an expansion needs an even width")
    periods = torch.logspace(math.log10(lower), math.log10(upper), width // 2, dtype=torch.float64)
    angles = values.double()[..., None] * (2 * math.pi / periods.to(values.device))
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


def resize_kernel(kernel: Tensor, patch: int) -> Tensor:
    """[D, C, patch, patch] of a kernel [D, C, p, p], such that resized pixels give what the pixels gave."""
    size = kernel.shape[-1]
    if size == patch:
        return kernel
    pixels = torch.eye(size * size, dtype=torch.float64, device=kernel.device).reshape(-1, 1, size, size)
    grown = F.interpolate(pixels, size=(patch, patch), mode="bicubic", antialias=True)
    inverse = torch.linalg.pinv(grown.flatten(1))  # [new, old]
    return (kernel.double().flatten(2) @ inverse.T).reshape(*kernel.shape[:2], patch, patch).to(kernel)


class FourierStem(nn.Module):
    """Tokens [B, L, D] from any bands, by wavelength and bandwidth."""

    def __init__(self, width: int, patch: int = 16) -> None:
        super().__init__()
        self.writer = KernelWriter(width, patch)

    def forward(self, x: Tensor, wavelengths_nm: Tensor, bandwidths_nm: Tensor, patch: int | None = None) -> Tensor:
        """Both [C] in nm; ``patch``: pixels a side of a token (default: that of pre-training)."""
        check_wavelengths(x, wavelengths_nm)
        check_wavelengths(x, bandwidths_nm)
        code = fourier_expansion(wavelengths_nm, CODE, *WAVELENGTHS_NM)
        code = code + fourier_expansion(bandwidths_nm, CODE, *BANDWIDTHS_NM)
        kernel, bias = self.writer(code.to(x))
        patch = patch or self.writer.patch
        return as_tokens(F.conv2d(x, resize_kernel(kernel, patch), bias, stride=patch, padding=1))


class Metadata(nn.Module):
    """The sum [B, D] that is added to all tokens of a sample: where, when and how large it is, as far as known."""

    def __init__(self, width: int) -> None:
        super().__init__()
        if width % 4:
            raise ManyoneError(f"width {width}: must be a multiple of 4")
        self.width = width
        names = ("place", "time", "area")
        self.linear = nn.ModuleDict({name: nn.Linear(width, width) for name in names})
        self.unknown = nn.ParameterDict({name: nn.Parameter(torch.zeros(width)) for name in names})

    def forward(self, lonlat: Tensor, days: Tensor, area_km2: Tensor) -> Tensor:
        """``lonlat`` [B, 2] in degrees, ``days`` [B] since 1970, ``area_km2`` [B]; NaN where one is unknown."""
        shifted = lonlat + torch.tensor([180.0, 90.0], device=lonlat.device)
        parts = {
            "place": (fourier_expansion(shifted, self.width // 2, *DEGREES).flatten(1), shifted.isnan().any(1)),
            "time": (fourier_expansion(days, self.width, *DAYS), days.isnan()),
            "area": (fourier_expansion(area_km2, self.width, *AREAS_KM2), area_km2.isnan()),
        }
        total = torch.zeros(len(lonlat), self.width, device=lonlat.device)
        for name, (code, lacking) in parts.items():
            total = total + self.linear[name](torch.where(lacking[:, None], self.unknown[name], code))
        return total
