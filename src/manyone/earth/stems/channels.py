"""Panopticon's stem (arXiv 2503.10845): every band alone through one convolution, then attention over the bands.

    x_c = Conv(band c) + embedding(c)      optical PE(λ nm); radar concat(transmit, receive, orbit), learned
    token = softmax(q · W_k x_c) W_v x_c   one learned query, no projection of it; then a linear map to D

Radar bands have negative ids -1 .. -12: VV, VH, HH, HV of an unknown orbit (the mean of both), then
ascending, then descending.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from manyone.data.rasters.bands import Band
from manyone.earth.stems.positions import sincos
from manyone.errors import ManyoneError

_POLARISATIONS = ("vv", "vh", "hh", "hv")
_ORBITS = ("", "ascending", "descending")


def channel_id(band: Band) -> float:
    """The wavelength in nm of an optical band, the negative number of a radar band."""
    if band.kind == "radar":
        return float(-(1 + _POLARISATIONS.index(band.common) + 4 * _ORBITS.index(band.orbit)))
    if band.center_nm is None:
        raise ManyoneError(f"band {band.name}: no wavelength and no radar: leave it out")
    return band.center_nm


class ChannelStem(nn.Module):
    """Tokens [B, L, D] from any number of bands [B, C, H, W] and their ids, in any order."""

    def __init__(self, width: int, patch: int = 14, *, inner: int = 2304, heads: int = 16) -> None:
        super().__init__()
        if inner % heads or inner % 2:
            raise ManyoneError(f"inner {inner}: must be even and a multiple of heads, {heads}")
        self.inner, self.heads = inner, heads
        self.project = nn.Conv2d(1, inner, patch, stride=patch)
        third = inner // 3
        self.transmit, self.receive = nn.Parameter(torch.zeros(2, third)), nn.Parameter(torch.zeros(2, third))
        self.orbit = nn.Parameter(torch.zeros(2, inner - 2 * third))
        self.query = nn.Parameter(torch.randn(inner))
        self.keys, self.values = nn.Linear(inner, inner, bias=False), nn.Linear(inner, inner, bias=False)
        self.out = nn.Linear(inner, width)

    def forward(self, x: Tensor, ids: Tensor) -> Tensor:
        """``ids`` [C]: :func:`channel_id` of each band."""
        if ids.shape != x.shape[1:2] or not bool(((ids > 0) | ((ids <= -1) & (ids >= -12))).all()):
            raise ManyoneError(f"ids: give one a band: a wavelength in nm, or -1 to -12 for radar, not {ids.tolist()}")
        batch, bands = x.shape[:2]
        tokens = self.project(x.flatten(0, 1)[:, None]).flatten(2).unflatten(0, (batch, bands))  # [B, C, d, L]
        tokens = tokens.permute(0, 3, 1, 2) + self.embedding(ids).to(x)  # [B, L, C, d]
        split = (*tokens.shape[:3], self.heads, -1)
        keys, values = self.keys(tokens).reshape(split), self.values(tokens).reshape(split)
        query = self.query.reshape(self.heads, -1) * (self.inner // self.heads) ** -0.5
        shares = torch.einsum("hd,blchd->blch", query, keys).softmax(dim=2)
        return self.out(torch.einsum("blch,blchd->blhd", shares, values).flatten(2))

    def embedding(self, ids: Tensor) -> Tensor:
        """[C, inner]."""
        optical = sincos(ids.clamp(min=0), self.inner)
        number = (-ids - 1).clamp(min=0).long()
        polarisation, orbit = number % 4, number // 4
        # VV VH HH HV: transmitted V V H H, received V H H V
        transmit = self.transmit[(polarisation >= 2).long()]
        receive = self.receive[((polarisation == 1) | (polarisation == 2)).long()]
        orbits = torch.stack([self.orbit.mean(0), self.orbit[0], self.orbit[1]])[orbit]
        return torch.where((ids < 0)[:, None], torch.cat([transmit, receive, orbits], dim=-1), optical)
