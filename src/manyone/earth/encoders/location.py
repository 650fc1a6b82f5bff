"""Encoders of places on the Earth: what a model can know of a point without an image.

    lonlat   lon / 180, lat / 90                                                       lonlat
    xyz      the unit vector v of the place and its quadratic terms                    xyz_quadratic
    rff      [cos(2 pi B v), sin(2 pi B v)], B ~ N(0, s^2), 256 x 3                    fourier_features
    geoclip  Equal Earth projection, three capsules of random Fourier features (s = 1, 16, 256) and an MLP each,
             summed (Vivanco Cepeda et al., 2023, arXiv 2309.16020)                    GeoClip

GeoCLIP's weights are read out of its published package as plain tensors; the package itself is neither installed nor
imported. Public names: the functions above, :class:`LocationEncoder`, :class:`GeoClip`, :func:`location_encoder`.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Literal, cast, get_args

import torch
from torch import Tensor, nn

from manyone.assets.archives import find, open_archive
from manyone.assets.fetch import get
from manyone.assets.registry import find_asset
from manyone.earth.encoders.inputs import weights_digest
from manyone.earth.spec import Context, ModelSpec, Pooling
from manyone.errors import ManyoneError
from manyone.randomness import generator_for, seed_for

LocationName = Literal["lonlat", "xyz", "rff", "geoclip"]
FREQUENCIES = 256
_SCALE = 1.5  # of the random frequencies, in cycles per Earth radius: see fourier_features
_EQUAL_EARTH = (1.340264, -0.081106, 0.000893, 0.003796)  # Savric, Patterson & Jenny (2018)
_SIGMAS = (2.0**0, 2.0**4, 2.0**8)


class LocationEncoder:
    """A function of places [B, 2] (longitude, latitude in degrees) as an encoder; it reads no pixels."""

    def __init__(self, function: Callable[[Tensor], Tensor] | nn.Module, spec: ModelSpec, digest: str) -> None:
        self.function, self.spec, self._digest = function, spec, digest
        if isinstance(function, nn.Module):
            function.eval().requires_grad_(False)

    def maps(self, pixels: Tensor, context: Context) -> list[Tensor]:
        """Refused: a place has no map."""
        raise ManyoneError(f"{self.spec.id} encodes places, not images: it has vectors, no maps")

    @torch.inference_mode()
    def vectors(self, pixels: Tensor, context: Context) -> dict[Pooling, Tensor]:
        """ "mean": [B, D] of the places ``context.lonlat``."""
        return {"mean": self.function(checked_lonlat(context.lonlat, self.spec.id)).float()}

    def digest(self) -> str:
        """Of the settings and weights."""
        return self._digest

    def to(self, device: torch.device | str) -> LocationEncoder:
        """Itself, on ``device``."""
        if isinstance(self.function, nn.Module):
            self.function.to(device)
        return self


class GeoClip(nn.Module):
    """GeoCLIP's location encoder: places [B, 2] -> [B, 512]; parameters are named as in the published weights."""

    def __init__(self) -> None:
        super().__init__()
        for index, sigma in enumerate(_SIGMAS):
            self.add_module(f"LocEnc{index}", _Capsule(sigma))

    def forward(self, lonlat: Tensor) -> Tensor:
        """The capsules' sum on the projected places."""
        # to float32 before the projection, as the authors do
        at = equal_earth(lonlat.to(next(self.parameters()).dtype))
        return torch.stack([capsule(at) for capsule in self.children()]).sum(0)


class _Fourier(nn.Module):
    def __init__(self, sigma: float) -> None:
        super().__init__()
        self.b = nn.Parameter(torch.randn(256, 2) * sigma, requires_grad=False)

    def forward(self, at: Tensor) -> Tensor:
        phase = 2 * math.pi * at @ self.b.T
        return torch.cat([phase.cos(), phase.sin()], dim=-1)


class _Capsule(nn.Module):
    def __init__(self, sigma: float) -> None:
        super().__init__()
        layers: list[nn.Module] = [_Fourier(sigma)]
        for inputs in (512, 1024, 1024):
            layers += [nn.Linear(inputs, 1024), nn.ReLU()]
        self.capsule = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Linear(1024, 512))

    def forward(self, at: Tensor) -> Tensor:
        return self.head(self.capsule(at))


def location_encoder(name: str, *, weights: Literal["default", "random"] = "default", seed: int = 0) -> LocationEncoder:
    """The encoder ``name``; ``weights`` and ``seed`` matter to ``geoclip``, ``seed`` also to ``rff``."""
    if name not in get_args(LocationName):
        raise ManyoneError(f"{name!r}: no location encoder; there are {', '.join(get_args(LocationName))}")
    settings = {"id": name, "seed": seed if name == "rff" or weights == "random" else 0, "scale": _SCALE}

    def spec(width: int, trained: bool = False, licence: str = "Apache-2.0", revision: str = "") -> ModelSpec:
        return ModelSpec(
            name, (), width, needs=frozenset(["lonlat"]), licence=licence, revision=revision, trained=trained
        )

    if name == "geoclip":
        network = _random_geoclip(seed) if weights == "random" else pretrained_geoclip()
        trained = weights != "random"
        digest = weights_digest({"id": name}, network.state_dict().items())
        revision = find_asset("geoclip").sha256 if trained else ""
        return LocationEncoder(network, spec(512, trained, "MIT", revision), digest)
    if name == "rff":
        frequencies = torch.randn(FREQUENCIES, 3, generator=generator_for(seed, "rff"), dtype=torch.float64) * _SCALE
        digest = weights_digest(settings, [("frequencies", frequencies)])
        return LocationEncoder(_Frequencies(frequencies), spec(2 * FREQUENCIES), digest)
    function, width = (unit_lonlat, 2) if name == "lonlat" else (xyz_quadratic, 9)
    return LocationEncoder(function, spec(width), weights_digest(settings))


class _Frequencies(nn.Module):
    def __init__(self, frequencies: Tensor) -> None:
        super().__init__()
        self.register_buffer("frequencies", frequencies)

    def forward(self, lonlat: Tensor) -> Tensor:
        return fourier_features(lonlat, cast(Tensor, self.frequencies))


def unit_lonlat(lonlat: Tensor) -> Tensor:
    """Degrees [B, 2] -> [-1, 1]."""
    return lonlat / torch.tensor([180.0, 90.0], dtype=lonlat.dtype, device=lonlat.device)


def unit_vectors(lonlat: Tensor) -> Tensor:
    """Degrees [B, 2] -> points of the unit sphere [B, 3]: no seam at 180 degrees, no crowding at the poles."""
    lon, lat = torch.deg2rad(lonlat).unbind(1)
    return torch.stack([lat.cos() * lon.cos(), lat.cos() * lon.sin(), lat.sin()], dim=1)


def xyz_quadratic(lonlat: Tensor) -> Tensor:
    """[B, 9]: x, y, z, their squares, xy, xz, yz."""
    v = unit_vectors(lonlat)
    return torch.cat([v, v * v, v[:, [0, 0, 1]] * v[:, [1, 2, 2]]], dim=1)


def fourier_features(lonlat: Tensor, frequencies: Tensor) -> Tensor:
    """[B, 2 F] with ``frequencies`` [F, 3]: cosines, then sines.

    Their dot products approach the Gaussian kernel exp(-2 pi^2 s^2 |v - w|^2) of the chord between two places
    (Rahimi & Recht, 2007), s the scale of the frequencies.
    """
    phase = 2 * math.pi * unit_vectors(lonlat) @ frequencies.to(lonlat).T
    return torch.cat([phase.cos(), phase.sin()], dim=1)


def equal_earth(lonlat: Tensor) -> Tensor:
    """Equal Earth coordinates [B, 2] of degrees [B, 2], times 66.50336 / 180: as GeoCLIP scales them."""
    a1, a2, a3, a4 = _EQUAL_EARTH
    lon, lat = torch.deg2rad(lonlat).unbind(1)
    theta = torch.asin(math.sqrt(3) / 2 * lat.sin())
    # the authors' formula: the last two terms of the derivative are theta^8 and theta^6, as published
    slope = 3 * (9 * a4 * theta**8 + 7 * a3 * theta**6 + 3 * a2 * theta**2 + a1)
    x = 2 * math.sqrt(3) * lon * theta.cos() / slope
    y = a4 * theta**9 + a3 * theta**7 + a2 * theta**3 + a1 * theta
    return torch.stack([x, y], dim=1) * 66.50336 / 180


def pretrained_geoclip(asset: str = "geoclip") -> GeoClip:
    """The network with the weights that the asset carries."""
    archive = open_archive(get(asset))
    raw = archive.read(find(archive, "*/location_encoder_weights.pth"))
    network = GeoClip()
    tensors = torch.load(io.BytesIO(raw), weights_only=True, map_location="cpu")
    # weight decay left one weight in thirty denormal, which makes a product six times slower and changes no digit of it
    tiny = torch.finfo(torch.float32).tiny
    network.load_state_dict({name: torch.where(t.abs() < tiny, 0, t) for name, t in tensors.items()}, strict=True)
    return network.eval().requires_grad_(False)


def checked_lonlat(lonlat: Tensor | None, encoder: str) -> Tensor:
    """``lonlat`` in double precision, or an error that says what is wrong with it."""
    if lonlat is None:
        raise ManyoneError(f"context.lonlat is missing: {encoder} encodes places")
    if lonlat.ndim != 2 or lonlat.shape[1] != 2:
        raise ManyoneError(f"context.lonlat of shape {list(lonlat.shape)}: must be [B, 2], longitude and latitude")
    if not bool(torch.isfinite(lonlat).all()) or float(lonlat[:, 1].abs().max()) > 90:
        raise ManyoneError("context.lonlat: must be degrees, longitude first, latitudes from -90 to 90")
    return lonlat.double()


def _random_geoclip(seed: int) -> GeoClip:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_for(seed, "geoclip"))
        return GeoClip()
