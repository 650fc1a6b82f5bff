"""``efficientnet-lite0``: an ImageNet classifier whose weights a package carries, so that it works without a hub.

Its input is (v - 127) / 128 of v in 0..255: what normalising reflectances 0..1 by mean 127/255 and deviation 128/255
gives. Public name: :func:`load_efficientnet`.
"""

from __future__ import annotations

import io

import torch
from torch import Tensor

from manyone.assets.archives import find, open_archive
from manyone.assets.fetch import get
from manyone.assets.registry import find_asset
from manyone.data.rasters.bands import Band
from manyone.earth.encoders.libraries.adapter import Features, LibraryEncoder, from_map, load_state, seeded
from manyone.earth.encoders.libraries.slots import rgb
from manyone.earth.spec import Context, ModelSpec
from manyone.errors import ManyoneError
from manyone.nets.efficientnet import FEATURES, EfficientNetLite0

_ASSET = "efficientnet-lite0"
_STAGES = (4, 10)  # the last blocks at 1/8 and 1/16 of the side; the head's map is at 1/32


def load_efficientnet(id: str, weights: str, bands: tuple[Band, ...] | None, seed: int) -> LibraryEncoder:
    """See :func:`manyone.earth.encoders.loading.load_encoder`; ``bands`` must be three."""
    if bands is not None and len(bands) != 3:
        raise ManyoneError(f"{len(bands)} bands: {id} reads red, green and blue")
    with seeded(seed, id):
        network = EfficientNetLite0()
    if weights == "default":
        archive = open_archive(get(_ASSET))
        raw = archive.read(find(archive, "*.pth"))
        network.load_state_dict(torch.load(io.BytesIO(raw), weights_only=True, map_location="cpu"))
    elif weights != "random":
        load_state(network, weights)

    def forward(pixels: Tensor, context: Context) -> Features:
        if min(pixels.shape[2:]) < 32:
            raise ManyoneError(f"images of {pixels.shape[2]} x {pixels.shape[3]} pixels: {id} reads 32 x 32 and more")
        maps = network.maps(pixels, _STAGES)
        return from_map(maps, maps[-1])

    asset = find_asset(_ASSET)
    spec = ModelSpec(
        id, bands or rgb((127 / 255,) * 3, (128 / 255,) * 3), FEATURES, unit="refl", patch=32, layers=(4, 10, 15),
        dense=0,
        licence=asset.licence, revision=asset.sha256 if weights == "default" else "", trained=weights != "random",
    )  # fmt: skip
    return LibraryEncoder(spec, network, forward)
