"""``open_clip:NAME``: CLIP models of images and texts, those trained on remote sensing among them.

NAME is one of open_clip's ("ViT-B-32": random weights; "ViT-B-32/laion2b_s34b_b79k": with the tag of its weights) or
of a remote-sensing checkpoint below. As an encoder it gives the image tower's tokens; for zero-shot labels
:meth:`ClipEncoder.embed_images` and :meth:`ClipEncoder.embed_texts` give both towers' vectors in their common space.
Public names: :class:`ClipEncoder`, :func:`load_clip`, :data:`HUB`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.data.rasters.bands import Band
from manyone.earth.encoders.libraries.adapter import (
    Features,
    LibraryEncoder,
    download,
    load_state,
    need_model_library,
    quarters,
    seeded,
)
from manyone.earth.encoders.libraries.slots import rgb
from manyone.earth.spec import Context, ModelSpec
from manyone.engine.files import sha256
from manyone.errors import ManyoneError


class Checkpoint(NamedTuple):
    """Weights on the hub and the network that they are for."""

    network: str
    repo: str
    file: str
    licence: str


HUB = {
    "RemoteCLIP-RN50": Checkpoint("RN50", "chendelong/RemoteCLIP", "RemoteCLIP-RN50.pt", "Apache-2.0"),
    "RemoteCLIP-ViT-B-32": Checkpoint("ViT-B-32", "chendelong/RemoteCLIP", "RemoteCLIP-ViT-B-32.pt", "Apache-2.0"),
    "RemoteCLIP-ViT-L-14": Checkpoint("ViT-L-14", "chendelong/RemoteCLIP", "RemoteCLIP-ViT-L-14.pt", "Apache-2.0"),
    "GeoRSCLIP-ViT-B-32": Checkpoint("ViT-B-32", "Zilun/GeoRSCLIP", "ckpt/RS5M_ViT-B-32.pt", "unknown"),
    "GeoRSCLIP-ViT-H-14": Checkpoint("ViT-H-14", "Zilun/GeoRSCLIP", "ckpt/RS5M_ViT-H-14.pt", "unknown"),
}


class ClipEncoder(LibraryEncoder):
    """The image tower as an encoder, and both towers for zero-shot labels."""

    tokenize: Any

    @torch.inference_mode()
    def embed_images(self, pixels: Tensor) -> Tensor:
        """[B, 3, H, W] -> unit vectors [B, E]."""
        return F.normalize(self.network.encode_image(pixels), dim=-1)  # type: ignore[operator]

    @torch.inference_mode()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """Texts -> unit vectors [n, E]."""
        device = next(self.network.parameters()).device
        return F.normalize(self.network.encode_text(self.tokenize(list(texts)).to(device)), dim=-1)  # type: ignore[operator]

    @property
    def scale(self) -> float:
        """What cosines are multiplied by to be logits."""
        return float(self.network.logit_scale.exp())  # type: ignore[operator]


def load_clip(id: str, weights: str, bands: tuple[Band, ...] | None, seed: int) -> ClipEncoder:
    """See :func:`manyone.earth.encoders.loading.load_encoder`; ``bands`` must be three."""
    open_clip = need_model_library("open_clip", id)
    name, _, tag = id.removeprefix("open_clip:").partition("/")
    checkpoint = HUB.get(name)
    network_name = checkpoint.network if checkpoint else name
    if network_name not in open_clip.list_models():
        known = ", ".join(HUB)
        raise ManyoneError(f"{name!r}: no model of open_clip {open_clip.__version__}; of remote sensing: {known}")
    if bands is not None and len(bands) != 3:
        raise ManyoneError(f"{len(bands)} bands: {id} reads red, green and blue")
    revision = ""
    if weights == "default" and not checkpoint and not tag:
        tags = ", ".join(open_clip.list_pretrained_tags_by_model(name)[:4])
        raise ManyoneError(f"{id} has several sets of weights: name one ({id}/TAG, tags: {tags}) or use random ones")
    if weights == "default" and not checkpoint:
        with download(id):
            network = open_clip.create_model(name, pretrained=tag)
    else:
        with seeded(seed, id):
            network = open_clip.create_model(network_name, pretrained=None)
        if weights == "default" and checkpoint:
            hub = need_model_library("huggingface_hub", id)
            with download(id):
                path = hub.hf_hub_download(checkpoint.repo, checkpoint.file)
            revision = sha256(path)
            load_state(network, path)
        elif weights != "random":
            load_state(network, weights)
    spec = _spec(id, network, bands)
    spec = replace(
        spec, trained=weights != "random", revision=revision, licence=checkpoint.licence if checkpoint else "MIT"
    )
    encoder = ClipEncoder(spec, network, _forward(network.visual, spec.layers))
    encoder.tokenize = open_clip.get_tokenizer(network_name)
    return encoder


def _spec(id: str, network: Any, bands: tuple[Band, ...] | None) -> ModelSpec:
    visual = network.visual
    mean, std = (
        getattr(visual, name, None) or default
        for name, default in (
            ("image_mean", (0.48145466, 0.4578275, 0.40821073)),
            ("image_std", (0.26862954, 0.26130258, 0.27577711)),
        )
    )
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    size = visual.image_size[0] if isinstance(visual.image_size, tuple) else visual.image_size
    if not isinstance(blocks, nn.ModuleList):  # a convolutional tower
        width, patch = visual.layer4[-1].conv3.out_channels, 32
        return ModelSpec(id, bands or rgb(mean, std), width, unit="refl", size=size, patch=patch, layers=(0, 1, 2, 3))
    width, patch = visual.transformer.width, int(visual.patch_size[0])
    return ModelSpec(
        id, bands or rgb(mean, std), width, unit="refl", size=size, patch=patch, layers=quarters(len(blocks)),
        pooling="cls",
    )  # fmt: skip


def _forward(visual: Any, layers: tuple[int, ...]) -> Any:
    """Maps of the blocks; vectors of the last block's tokens after the final norm, before the projection."""
    if not hasattr(visual, "transformer"):
        return _convolutional(visual)
    last = len(visual.transformer.resblocks) - 1

    def forward(pixels: Tensor, context: Context) -> Features:
        wanted = sorted({*layers, last})
        found = visual.forward_intermediates(
            pixels, indices=wanted, intermediates_only=True, output_extra_tokens=True, output_fmt="NLC"
        )
        tokens = dict(zip(wanted, found["image_intermediates"], strict=True))
        n, _, width = tokens[last].shape
        grid = pixels.shape[2] // visual.patch_size[0], pixels.shape[3] // visual.patch_size[1]
        maps = [tokens[k].transpose(1, 2).reshape(n, width, *grid) for k in layers]
        cells = visual.ln_post(tokens[last])
        cls = visual.ln_post(found["image_intermediates_prefix"][-1][:, 0])
        return Features(maps, {"cls": cls, "mean": cells.mean(1), "max": cells.amax(1)})

    return forward


def _convolutional(visual: Any) -> Any:
    def forward(pixels: Tensor, context: Context) -> Features:
        x = visual.stem(pixels)
        maps = []
        for stage in (visual.layer1, visual.layer2, visual.layer3, visual.layer4):
            x = stage(x)
            maps.append(x)
        return Features(maps, {"mean": x.mean((2, 3)), "max": x.amax((2, 3))})

    return forward
