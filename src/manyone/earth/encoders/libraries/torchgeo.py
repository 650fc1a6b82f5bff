"""``torchgeo:NAME``: the models that torchgeo builds and has weights for, as encoders.

NAME is a constructor ("dofa_base_patch16_224": its published weights, where there is one set of them) or a weights
entry ("ResNet50_Weights.SENTINEL2_ALL_MOCO"), whose bands, order and normalisation become the encoder's slots. How the
networks are fed differs by family; see the functions below. Public name: :func:`load_torchgeo`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from manyone.data.rasters.bands import Band, Unit
from manyone.earth.encoders.libraries.adapter import (
    Features,
    Forward,
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
from manyone.earth.encoders.libraries.slots import named, rgb, sentinel1, sentinel2, statistics
from manyone.earth.encoders.libraries.timm import timm_encoder
from manyone.earth.spec import Context, ModelSpec
from manyone.errors import ManyoneError

_CONSTRUCTORS = {  # class of weights -> constructor
    "CopernicusFM_Base_Weights": "copernicusfm_base", "CROMABase_Weights": "croma_base",
    "CROMALarge_Weights": "croma_large", "DOFABase16_Weights": "dofa_base_patch16_224",
    "DOFALarge16_Weights": "dofa_large_patch16_224", "Panopticon_Weights": "panopticon_vitb14",
    "ResNet18_Weights": "resnet18", "ResNet50_Weights": "resnet50", "ResNet152_Weights": "resnet152",
    "ScaleMAELarge16_Weights": "scalemae_large_patch16", "Swin_T_Weights": "swin_t", "Swin_S_Weights": "swin_s",
    "Swin_B_Weights": "swin_b", "Swin_V2_T_Weights": "swin_v2_t", "Swin_V2_B_Weights": "swin_v2_b",
    "ViTSmall16_Weights": "vit_small_patch16_224", "ViTBase16_Weights": "vit_base_patch16_224",
    "ViTLarge16_Weights": "vit_large_patch16_224", "ViTHuge14_Weights": "vit_huge_patch14_224",
    "ViTSmall14_DINOv2_Weights": "vit_small_patch14_dinov2", "ViTBase14_DINOv2_Weights": "vit_base_patch14_dinov2",
}  # fmt: skip
_SAR_MICROMETRES = 3.75  # DOFA's authors' stand-in for VV and VH
_SAR_CHANNELS = {("V", "V"): 1, ("V", "H"): 2, ("H", "V"): 3, ("H", "H"): 4}  # Panopticon's ids, negative
_ORBITS = {"": 0, "ascending": 4, "descending": 8}
_STANDARD_SIZE = 224


def load_torchgeo(id: str, weights: str, bands: tuple[Band, ...] | None, seed: int) -> LibraryEncoder:
    """See :func:`manyone.earth.encoders.loading.load_encoder`. ``bands`` None: those of the weights entry."""
    models = need_model_library("torchgeo.models", id)
    name = id.removeprefix("torchgeo:")
    entry: Any = None
    if "." in name:
        try:
            entry = models.get_weight(name)
        except (KeyError, ValueError):
            raise ManyoneError(f"{name!r}: no weights of this torchgeo: see torchgeo.models or upgrade it") from None
        name = _CONSTRUCTORS.get(name.split(".")[0], name)
    make = _FAMILIES.get(next((family for family in _FAMILIES if name.startswith(family)), ""))
    if make is None or name not in models.list_models():
        known = ", ".join(m for m in models.list_models() if m.startswith(tuple(_FAMILIES)))
        raise ManyoneError(f"{name!r}: not among the encoders of this torchgeo: {known}")
    if weights == "default" and entry is None:
        entry = _only_weights(models, name)
    slots = bands or (_slots_of(entry) if entry is not None and "bands" in entry.meta else None)
    with seeded(seed, id):
        encoder = make(id, getattr(models, name), slots, weights != "random")
    if weights == "default":
        with download(id):
            state = entry.get_state_dict(progress=False)
        _load(encoder.network, state, id)
    elif weights != "random":
        load_state(encoder.network, weights)
    return encoder


def _only_weights(models: Any, name: str) -> Any:
    entries = list(models.get_model_weights(name)) if name in _CONSTRUCTORS.values() else []
    if len(entries) != 1:
        some = ", ".join(str(entry) for entry in entries[:3])
        advice = f"name one of them: torchgeo:{some}, ..." if entries else "use weights='random' or a file"
        raise ManyoneError(f"torchgeo:{name} has {len(entries)} sets of weights: {advice}")
    return entries[0]


def _load(network: nn.Module, state: dict[str, Tensor], id: str) -> None:
    """All weights of ``network`` but heads of classification and fixed positions must be in ``state``."""
    inner = next((module for name, module in network.named_children() if name == "model"), network)
    found = inner.load_state_dict(state, strict=False)
    missing = [n for n in found.missing_keys if not n.startswith(("head", "fc.", "fc_norm")) and n != "attn_bias"]
    if missing:
        raise ManyoneError(f"the weights of {id} lack {missing[0]} and {len(missing) - 1} more: upgrade torchgeo")


def _slots_of(entry: Any) -> tuple[Band, ...] | None:
    """The bands of a weights entry with its normalisation: (x - mean) / std as its transforms say."""
    text = str(entry).upper()
    sensor = next((sensor for word, sensor in (
        ("LANDSAT_OLI", "landsat-8"), ("LANDSAT_ETM", "landsat-7"), ("LANDSAT_TM", "landsat-5"),
        ("LANDSAT", "landsat-8"),
    ) if word in text), "sentinel-2")  # fmt: skip
    slots = named(list(entry.meta["bands"]), sensor)
    normalise = [m for m in entry.transforms.modules() if hasattr(m, "mean") and hasattr(m, "std")]
    if slots is None or len(normalise) != 1:
        return slots
    mean, std = ([float(v) for v in torch.as_tensor(x).reshape(-1)] for x in (normalise[0].mean, normalise[0].std))
    unit: Unit = "db" if slots[0].kind == "radar" else "dn8" if max(std) == 255 else "refl_dn"
    return tuple(
        Band(**{**slot.__dict__, "unit": "dn8" if slot.std == 255 else unit}) for slot in statistics(slots, mean, std)
    )


def _plain(id: str, build: Callable[..., Any], slots: tuple[Band, ...] | None, trained: bool) -> LibraryEncoder:
    """ResNets and ViTs: made by timm, bands fixed."""
    slots = slots or rgb()
    options: dict[str, Any] = {"in_chans": len(slots), "num_classes": 0}
    if build.__name__.startswith("vit"):
        options["dynamic_img_size"] = True
    return timm_encoder(id, build(weights=None, **options), slots, trained=trained)


def _swin(id: str, build: Callable[..., Any], slots: tuple[Band, ...] | None, trained: bool) -> LibraryEncoder:
    """Swin transformers of torchvision: maps [B, h, w, D] after each of the four stages."""
    slots = slots or rgb()
    network = build(weights=None)
    first = network.features[0][0]
    network.features[0][0] = nn.Conv2d(len(slots), first.out_channels, first.kernel_size, first.stride)
    network.head = nn.Identity()
    width = network.norm.normalized_shape[0]
    stages = [network.features[k] for k in (1, 3, 5, 7)]

    def forward(pixels: Tensor, context: Context) -> Features:
        *layers, final = tapped(lambda: network(pixels), [*stages, network.norm])
        return from_map([layer.permute(0, 3, 1, 2) for layer in layers], final.permute(0, 3, 1, 2))

    spec = ModelSpec(id, slots, width, unit=_unit(slots), patch=32, layers=(0, 1, 2, 3), trained=trained)
    return LibraryEncoder(spec, network, forward)


def _dofa(id: str, build: Callable[..., Any], slots: tuple[Band, ...] | None, trained: bool) -> LibraryEncoder:
    """Any bands: kernels are computed from wavelengths in micrometres (fixed 224 x 224 pixels)."""
    network = build(num_classes=0)

    def run(pixels: Tensor, context: Context) -> None:
        nanometres = _wavelengths(pixels, context, id)
        bands = context.bands or (None,) * len(nanometres)
        micrometres = [
            _SAR_MICROMETRES if band is not None and band.kind == "radar" else value / 1000
            for band, value in zip(bands, nanometres, strict=True)
        ]
        if not all(math.isfinite(value) for value in micrometres):
            raise ManyoneError(f"a band has no wavelength: {id} needs one for each: leave that band out")
        network.forward_features(pixels, micrometres)

    patch = network.patch_size
    layers = quarters(len(network.blocks))
    spec = ModelSpec(
        id, None, network.embed_dim, needs=frozenset(["wavelength"]), size=network.img_size, patch=patch, layers=layers,
        licence="CC-BY-4.0 (weights)", trained=trained,
    )  # fmt: skip
    return LibraryEncoder(spec, network, _blocks(network.blocks, layers, run, patch, network.fc_norm))


def _croma(id: str, build: Callable[..., Any], slots: tuple[Band, ...] | None, trained: bool) -> LibraryEncoder:
    """The optical encoder (12 bands, 120 x 120 pixels) or, given two radar bands, the radar one.

    "cls" is the feed-forward summary that the authors call the global feature.
    """
    radar = slots is not None and all(band.kind == "radar" for band in slots)
    wanted = sentinel1() if radar else sentinel2([b.name for b in sentinel2() if b.name != "B10"])
    slots = slots or wanted
    if len(slots) != len(wanted):
        raise ManyoneError(f"{len(slots)} bands: {id} reads the 12 of Sentinel-2 without B10, or VV and VH")
    network = build(modalities=["sar" if radar else "optical"])
    blocks = (network.s1_encoder if radar else network.s2_encoder).transformer
    depth = len(blocks.layers)
    layers = quarters(depth)
    # a block's output is what the next one's attention gets; that of the last is what the final norm gets
    after = [blocks.layers[k + 1][0] if k + 1 < depth else blocks.norm_out for k in layers]
    grid = (network.image_size // 8,) * 2
    prefix = "sar" if radar else "optical"

    def forward(pixels: Tensor, context: Context) -> Features:
        found: dict[str, Tensor] = {}
        tokens = tapped(lambda: found.update(network(**{f"x_{prefix}": pixels})), inputs=after)
        features = from_tokens(tokens, found[f"{prefix}_encodings"], grid, 0)
        return Features(features.maps, {"cls": found[f"{prefix}_GAP"], **features.vectors})

    spec = ModelSpec(
        id, slots, network.encoder_dim, unit=_unit(slots), size=network.image_size, patch=8, layers=layers,
        pooling="cls", licence="MIT", trained=trained,
    )  # fmt: skip
    return LibraryEncoder(spec, network, forward)


def _scalemae(id: str, build: Callable[..., Any], slots: tuple[Band, ...] | None, trained: bool) -> LibraryEncoder:
    """Red, green, blue; positions are scaled by the ground sampling distance."""
    network = build(num_classes=0)
    layers = quarters(len(network.blocks))

    def forward(pixels: Tensor, context: Context) -> Features:
        if context.gsd_m is None:
            raise ManyoneError(f"context.gsd_m is missing: {id} needs the size of a pixel in metres")
        network.res = float(context.gsd_m)
        final, maps = network.forward_intermediates(pixels, indices=list(layers))
        return Features(maps, from_tokens([], final, (14, 14), 1).vectors)

    spec = ModelSpec(
        id, slots or rgb(), network.embed_dim, unit="refl", needs=frozenset(["gsd"]), size=_STANDARD_SIZE, patch=16,
        layers=layers, pooling="cls", licence="CC-BY-NC-4.0", trained=trained,
    )  # fmt: skip
    return LibraryEncoder(spec, network, forward)


def _copernicus(id: str, build: Callable[..., Any], slots: tuple[Band, ...] | None, trained: bool) -> LibraryEncoder:
    """Any bands, by wavelength and bandwidth; place, time and area are told where they are known."""
    network = build()
    layers = quarters(len(network.blocks))
    patch = 16

    def run(pixels: Tensor, context: Context) -> None:
        wavelengths = _wavelengths(pixels, context, id)
        if context.bandwidths_nm is None or not bool(torch.isfinite(context.bandwidths_nm).all()):
            raise ManyoneError(f"context.bandwidths_nm is missing or incomplete: {id} needs each band's width in nm")
        known = torch.full((len(pixels), 4), math.nan, device=pixels.device)
        if context.lonlat is not None:
            known[:, :2] = context.lonlat.to(known)
        if context.time is not None:
            known[:, 2] = context.time.to(known).reshape(len(pixels), -1)[:, 0]
        if context.gsd_m is not None:
            known[:, 3] = (patch * context.gsd_m / 1000) ** 2  # of a token, km^2
        network.forward_features(pixels, known, wavelengths, context.bandwidths_nm.tolist(), kernel_size=patch)

    spec = ModelSpec(
        id, None, network.fc_norm.normalized_shape[0], needs=frozenset(["wavelength", "bandwidth"]),
        size=_STANDARD_SIZE, patch=patch, layers=layers, licence="CC-BY-4.0", trained=trained,
    )  # fmt: skip
    return LibraryEncoder(spec, network, _blocks(network.blocks, layers, run, patch, network.fc_norm))


def _panopticon(id: str, build: Callable[..., Any], slots: tuple[Band, ...] | None, trained: bool) -> LibraryEncoder:
    """Any optical and radar bands; every band is embedded apart and a query attends over them."""
    network = build()
    vit = network.model
    layers = quarters(len(vit.blocks))

    def run(pixels: Tensor, context: Context) -> None:
        wavelengths = _wavelengths(pixels, context, id)
        bands = context.bands or (None,) * len(wavelengths)
        numbers = [
            -float(_SAR_CHANNELS[(band.common[0].upper(), band.common[1].upper())] + _ORBITS[band.orbit])
            if band is not None and band.kind == "radar"
            else value
            for band, value in zip(bands, wavelengths, strict=True)
        ]
        ids = torch.tensor(numbers, device=pixels.device).expand(len(pixels), -1)
        # it changes its input in place
        network({"imgs": pixels.clone(), "chn_ids": ids.clone()})

    spec = ModelSpec(
        id, None, vit.num_features, needs=frozenset(["wavelength"]), size=_STANDARD_SIZE, patch=14, layers=layers,
        pooling="cls", licence="Apache-2.0", trained=trained,
    )  # fmt: skip
    return LibraryEncoder(spec, network, _blocks(vit.blocks, layers, run, 14, vit.norm))


_FAMILIES: dict[str, Callable[..., LibraryEncoder]] = {
    "resnet": _plain, "vit_": _plain, "swin_": _swin, "dofa_": _dofa, "croma_": _croma, "scalemae_": _scalemae,
    "copernicusfm_": _copernicus, "panopticon_": _panopticon,
}  # fmt: skip


def _blocks(
    blocks: nn.ModuleList, layers: tuple[int, ...], run: Callable[[Tensor, Context], None], patch: int, norm: nn.Module
) -> Forward:
    """Taps the blocks ``layers`` and the last one; vectors are of the last, normalised."""

    def forward(pixels: Tensor, context: Context) -> Features:
        grid = pixels.shape[2] // patch, pixels.shape[3] // patch
        *tokens, last = tapped(lambda: run(pixels, context), [blocks[k] for k in (*layers, len(blocks) - 1)])
        features = from_tokens(tokens, last, grid, 1)
        # the authors pool first and then normalise; of the class token that is the same
        return Features(features.maps, {pooling: norm(vector) for pooling, vector in features.vectors.items()})

    return forward


def _wavelengths(pixels: Tensor, context: Context, id: str) -> list[float]:
    if context.wavelengths_nm is None or len(context.wavelengths_nm) != pixels.shape[1]:
        raise ManyoneError(f"context.wavelengths_nm: {id} needs the wavelength of each of the {pixels.shape[1]} bands")
    return context.wavelengths_nm.tolist()


def _unit(slots: tuple[Band, ...]) -> Unit | None:
    units = {band.unit for band in slots}
    return units.pop() if len(units) == 1 else None
