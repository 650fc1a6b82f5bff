"""``terratorch:NAME``: Prithvi 1 and 2, TerraMind, Clay and the MMEarth ConvNeXts, as terratorch builds them.

    prithvi_eo_*       six HLS bands, one or more dates, any grid; place and time where they are known (the TL variants)
    terramind_v1_*     Sentinel-2 L2A, twelve bands
    timm_clay_v1_base  any bands, by wavelength
    convnextv2_*       MMEarth

What terratorch takes from torchgeo (DOFA, SSL4EO, SeCo, Satlas) has an adapter of its own: ``torchgeo:NAME``. Bands are
never left to terratorch to adapt: it gives those that a checkpoint does not know random weights.
Public name: :func:`load_terratorch`.
"""

from __future__ import annotations

import datetime
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from manyone.data.rasters.bands import Band
from manyone.earth.encoders.inputs import padded
from manyone.earth.encoders.libraries.adapter import (
    Features,
    LibraryEncoder,
    download,
    from_map,
    from_tokens,
    load_state,
    need_model_library,
    quarters,
    seeded,
    tapped,
)
from manyone.earth.encoders.libraries.slots import prithvi, sentinel2, terramind
from manyone.earth.spec import Context, ModelSpec, Need
from manyone.errors import ManyoneError

_FROM_TORCHGEO = ("dofa_", "ssl4eo", "seco_", "satlas_", "fmow_")


def load_terratorch(id: str, weights: str, bands: tuple[Band, ...] | None, seed: int) -> LibraryEncoder:
    """See :func:`manyone.earth.encoders.loading.load_encoder`. ``bands`` None: the model's own."""
    registry = need_model_library("terratorch.registry", id).BACKBONE_REGISTRY
    name = id.removeprefix("terratorch:").removeprefix("terratorch_")
    if name.startswith(_FROM_TORCHGEO):
        raise ManyoneError(f"{id}: terratorch takes this model from torchgeo: use torchgeo:NAME")
    make = next((make for family, make in _FAMILIES.items() if name.startswith(family)), None)
    if make is None or name.endswith("_tim") or name not in registry:
        raise ManyoneError(f"{name!r}: no encoder of terratorch that is known here: {', '.join(_FAMILIES)}...")

    def build(**options: Any) -> Any:
        if name.startswith("convnextv2_"):  # takes no "pretrained": its checkpoints have no address in terratorch
            if weights == "default":
                raise ManyoneError(f"terratorch fetches no weights of {name}: give their file as weights")
        else:
            options["pretrained"] = weights == "default"
        if weights == "default":
            with download(id):
                return registry.build(name, **options)
        with seeded(seed, id):
            network = registry.build(name, **options)
        if weights != "random":
            load_state(network, weights)
        return network

    spec = ModelSpec(id, None, 0, licence="Apache-2.0", trained=weights != "random")
    return make(name, build, bands, spec)


def _check_bands(bands: tuple[Band, ...] | None, own: tuple[Band, ...], id: str) -> tuple[Band, ...]:
    if bands is not None and len(bands) != len(own):
        raise ManyoneError(f"{len(bands)} bands: {id} reads {len(own)}: {', '.join(band.name for band in own)}")
    return bands or own


def _prithvi(name: str, build: Callable[..., Any], bands: tuple[Band, ...] | None, spec: ModelSpec) -> LibraryEncoder:
    version = "v1" if "_v1_" in name else "v2"
    most = {"v1": 3, "v2": 4}[version]
    slots = _check_bands(bands, prithvi(version), spec.id)
    network = build(num_frames=1)
    layers, patch = quarters(len(network.blocks)), int(network.patch_embed.patch_size[-1])

    def forward(pixels: Tensor, context: Context) -> Features:
        x = pixels[:, None] if pixels.ndim == 4 else pixels
        n, dates = x.shape[:2]
        x = padded(x.flatten(0, 1), patch).unflatten(0, (n, dates)).transpose(1, 2)  # [B, C, T, H, W]
        network.num_frames = dates  # positions are computed for any number of dates
        known: dict[str, Tensor] = {}
        if getattr(network, "temporal_encoding", False) and context.time is not None:
            known["temporal_coords"] = _year_and_day(context.time.reshape(n, dates)).to(x)
        if getattr(network, "location_encoding", False) and context.lonlat is not None:
            known["location_coords"] = context.lonlat.flip(1).to(x)  # latitude first
        tokens = network.forward_features(x, **known)
        return from_tokens([tokens[k] for k in layers], tokens[-1], (x.shape[3] // patch, x.shape[4] // patch), 1)

    spec = replace(
        spec, slots=slots, width=network.embed_dim, unit="refl_dn", patch=patch, layers=layers, frames=(1, most),
        pooling="cls",
    )  # fmt: skip
    return LibraryEncoder(spec, network, forward)


def _terramind(name: str, build: Callable[..., Any], bands: tuple[Band, ...] | None, spec: ModelSpec) -> LibraryEncoder:
    slots = _check_bands(bands, terramind(), spec.id)
    network = build(modalities=["S2L2A"])
    layers, patch = quarters(len(network.encoder)), 16

    def forward(pixels: Tensor, context: Context) -> Features:
        x = padded(pixels, patch)
        tokens = network({"S2L2A": x})
        return from_tokens([tokens[k] for k in layers], tokens[-1], (x.shape[2] // patch, x.shape[3] // patch), 0)

    width = network.encoder_norm.normalized_shape[0]
    spec = replace(spec, slots=slots, width=width, unit="refl_dn", size=224, patch=patch, layers=layers)
    return LibraryEncoder(spec, network, forward)


def _clay(name: str, build: Callable[..., Any], bands: tuple[Band, ...] | None, spec: ModelSpec) -> LibraryEncoder:
    network = build()
    layers, patch, size = quarters(12), 8, 256

    def forward(pixels: Tensor, context: Context) -> Features:
        waves = context.wavelengths_nm
        if waves is None or len(waves) != pixels.shape[1] or context.gsd_m is None:
            raise ManyoneError(f"{spec.id} needs context.wavelengths_nm, one a band, and context.gsd_m")
        known = {}  # zeros stand for what is not known
        if context.time is not None:
            known["time"] = _week_and_hour(context.time.reshape(len(pixels), -1)[:, 0]).to(pixels)
        if context.lonlat is not None:
            lat, lon = torch.deg2rad(context.lonlat.flip(1)).to(pixels).unbind(1)
            known["latlon"] = torch.stack([lat.sin(), lat.cos(), lon.sin(), lon.cos()], 1)
        waves = (waves / 1000).to(pixels)
        tokens = network(pixels, waves=waves, gsd=float(context.gsd_m), **known)
        grid = pixels.shape[2] // patch, pixels.shape[3] // patch
        return from_tokens([tokens[k] for k in layers], tokens[-1], grid, 1)

    needs: frozenset[Need] = frozenset(["wavelength", "gsd"])
    spec = replace(spec, width=768, needs=needs, size=size, patch=patch, layers=layers, pooling="cls")
    return LibraryEncoder(spec, network, forward)


def _mmearth(name: str, build: Callable[..., Any], bands: tuple[Band, ...] | None, spec: ModelSpec) -> LibraryEncoder:
    slots = _check_bands(bands, sentinel2([b.name for b in sentinel2() if b.name != "B10"]), spec.id)
    network = build(in_chans=len(slots))
    _norms_of_channels(network, spec.id)
    stages = list(network.stages)

    def forward(pixels: Tensor, context: Context) -> Features:
        maps = tapped(lambda: network.forward_features(pixels), stages)
        return from_map(maps, maps[-1])

    width = network.norm.normalized_shape[0]
    spec = replace(spec, slots=slots, width=width, unit="refl_dn", patch=32, layers=(0, 1, 2, 3))
    return LibraryEncoder(spec, network, forward)


def _norms_of_channels(network: Any, id: str) -> None:
    """Norms between convolutions become those of the channels; terratorch's are of the last axis, a map's columns."""
    layers = need_model_library("timm", id).layers
    convolutions = [getattr(network, name, None) for name in ("stem_orig", "initial_conv", "stem")]
    for sequence in [*filter(None, convolutions), *network.downsample_layers]:
        for at, module in enumerate(sequence):
            if type(module) is layers.LayerNorm:
                norm = layers.LayerNorm2d(module.normalized_shape[0], eps=module.eps)
                norm.load_state_dict(module.state_dict())
                sequence[at] = norm


_FAMILIES: dict[str, Callable[..., LibraryEncoder]] = {
    "prithvi_eo_": _prithvi,
    "terramind_v1_": _terramind,
    "timm_clay_v1_": _clay,
    "convnextv2_": _mmearth,
}


def _week_and_hour(days: Tensor) -> Tensor:
    """Days since 1970-01-01 [B] -> sine and cosine of the ISO week (of 52) and of the hour (of 24) [B, 4]."""
    start = datetime.datetime(1970, 1, 1)
    dates = [start + datetime.timedelta(days=day) for day in days.tolist()]
    week = torch.tensor([2 * math.pi * date.isocalendar().week / 52 for date in dates])
    hour = torch.tensor([2 * math.pi * date.hour / 24 for date in dates])
    return torch.stack([week.sin(), week.cos(), hour.sin(), hour.cos()], 1)


def _year_and_day(days: Tensor) -> Tensor:
    """Days since 1970-01-01 [B, T] -> (year, day of the year from 0) [B, T, 2]."""
    start = datetime.date(1970, 1, 1)
    found = []
    for day in days.reshape(-1).tolist():
        date = start + datetime.timedelta(days=int(day // 1))
        found.append((date.year, date.timetuple().tm_yday - 1))
    return torch.tensor(found, dtype=torch.float32).view(*days.shape, 2)
