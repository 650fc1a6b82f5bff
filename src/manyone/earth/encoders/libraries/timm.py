"""``timm:NAME``: any image model of timm (ImageNet, DINOv2, DINOv3, ConvNeXt, ResNet, ...) as an encoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from manyone.data.rasters.bands import Band
from manyone.earth.encoders.inputs import channels, padded
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
)
from manyone.earth.encoders.libraries.slots import rgb
from manyone.earth.spec import Context, ModelSpec
from manyone.errors import ManyoneError

_ANY_GRID = ("timm.models.vision_transformer", "timm.models.eva")  # the files whose models take any grid when asked
_STAGES = 4


def load_timm(id: str, weights: str, bands: tuple[Band, ...] | None, seed: int) -> LibraryEncoder:
    """See :func:`manyone.earth.encoders.loading.load_encoder`. ``bands`` None: red, green, blue.

    With pre-trained weights and other bands timm repeats the first layer's filters over them.
    """
    timm = need_model_library("timm", id)
    name = id.removeprefix("timm:")
    if not timm.is_model(name.split(".")[0]):
        close = ", ".join(timm.list_models(f"*{name.split('_')[0]}*")[:5])
        raise ManyoneError(f"{name!r}: no model of timm {timm.__version__}; similar: {close or 'none'}")
    count = 3 if bands is None else channels(bands, id)
    options: dict[str, Any] = {"in_chans": count, "num_classes": 0}
    if timm.models.model_entrypoint(name.split(".")[0]).__module__ in _ANY_GRID:
        options["dynamic_img_size"] = True
    if weights == "default":
        with download(id):
            network = timm.create_model(name, pretrained=True, **options)
    else:
        with seeded(seed, id):
            network = timm.create_model(name, pretrained=False, **options)
        if weights != "random":
            load_state(network, weights)
    return timm_encoder(id, network, _slots(network, bands), trained=weights != "random")


def timm_encoder(
    id: str, network: nn.Module, slots: tuple[Band, ...], *, trained: bool, licence: str = "", size: int | None = None
) -> LibraryEncoder:
    """A network of timm (or one that another library made with timm) as an encoder."""
    net: Any = network
    about = getattr(net, "pretrained_cfg", {}) or {}
    depth = len(net.blocks) if hasattr(net, "num_prefix_tokens") else 0
    patch = _patch(net)
    if depth:
        layers, forward = quarters(depth), _vit(net, quarters(depth), patch)
    elif hasattr(net, "forward_intermediates"):
        stages = len(net.feature_info)
        layers = tuple(range(max(0, stages - _STAGES), stages))
        forward = _stages(net, layers)
    else:
        layers, forward = (), _last(net)
    if size is None and about.get("fixed_input_size") and not getattr(net, "dynamic_img_size", False):
        size = about["input_size"][1]
    spec = ModelSpec(
        id, slots, net.num_features, unit=slots[0].unit, size=size, patch=patch, layers=layers,
        licence=licence or str(about.get("license") or "unknown"), trained=trained,
        revision=str(about.get("hf_hub_id") or "") if trained else "",
    )  # fmt: skip
    return LibraryEncoder(spec, network, forward)


def _slots(network: Any, bands: tuple[Band, ...] | None) -> tuple[Band, ...]:
    if bands is not None:
        return bands
    about = network.pretrained_cfg
    return rgb(about["mean"], about["std"])


def _patch(network: Any) -> int:
    embed = getattr(network, "patch_embed", None)
    if hasattr(network, "num_prefix_tokens") and embed is not None:
        return int(embed.patch_size[0])
    return int(network.feature_info[-1]["reduction"])


def _vit(network: Any, layers: tuple[int, ...], patch: int) -> Forward:
    def forward(pixels: Tensor, context: Context) -> Features:
        x = padded(pixels, patch)
        final, maps = network.forward_intermediates(x, indices=list(layers))
        grid = x.shape[2] // patch, x.shape[3] // patch
        return Features(maps, from_tokens([], final, grid, network.num_prefix_tokens).vectors)

    return forward


def _stages(network: Any, layers: tuple[int, ...]) -> Forward:
    def forward(pixels: Tensor, context: Context) -> Features:
        final, maps = network.forward_intermediates(pixels, indices=list(layers))
        if getattr(network, "output_fmt", "NCHW") == "NHWC":
            final = final.permute(0, 3, 1, 2)
        return from_map(maps, final)

    return forward


def _last(network: Any) -> Forward:
    def forward(pixels: Tensor, context: Context) -> Features:
        final = network.forward_features(pixels)
        if final.ndim != 4:
            raise ManyoneError(f"{type(network).__name__} gives no feature maps: take another model")
        return from_map([final], final)

    return forward
