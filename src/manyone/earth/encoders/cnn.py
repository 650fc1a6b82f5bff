"""A small convolutional network as an encoder: three layers of 3 x 3, so that a pixel's vector sees 7 x 7 pixels.

Dense and by windows it is the same function: its input's border is repeated, then no layer pads. Public names:
:class:`CnnSize`, :class:`SmallCnn`, :class:`CnnEncoder`, :func:`cnn_from`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from manyone.data.rasters.bands import Band
from manyone.earth.encoders.inputs import images, weights_digest
from manyone.earth.spec import Context, ModelSpec, Pooling
from manyone.engine.artefact import load_weights
from manyone.errors import ManyoneError

ID = "cnn-supervised"
AROUND = 3
"""Pixels to each side that a vector sees."""
_LARGEST = 32  # pixels a side of an image; larger ones are averaged down: their label is about the whole


@dataclass(frozen=True)
class CnnSize:
    """Channels of the three layers; the last is the width of a vector."""

    widths: tuple[int, int, int] = (64, 64, 128)


class SmallCnn(nn.Module):
    """[B, C, H, W] -> [B, D, H - 6, W - 6]: convolutions without padding, each with batch norm and ReLU."""

    def __init__(self, channels: int, size: CnnSize) -> None:
        super().__init__()
        self.channels, self.size = channels, size
        layers: list[nn.Module] = []
        for ins, outs in zip((channels, *size.widths), size.widths, strict=False):
            layers += [nn.Conv2d(ins, outs, 3, bias=False), nn.BatchNorm2d(outs), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pixels: Tensor) -> Tensor:
        """See the class."""
        return self.layers(pixels)

    def of_images(self, pixels: Tensor) -> Tensor:
        """[B, D]: the mean over an image whose border is repeated; images above 32 pixels a side are averaged down."""
        high, wide = pixels.shape[2:]
        if max(high, wide) > _LARGEST:
            pixels = F.adaptive_avg_pool2d(pixels, (min(high, _LARGEST), min(wide, _LARGEST)))
        return self(bordered(pixels)).mean((2, 3))


class CnnEncoder:
    """A :class:`SmallCnn` as an encoder, a vector a pixel."""

    def __init__(self, network: SmallCnn, spec: ModelSpec) -> None:
        self.network, self.spec = network.eval().requires_grad_(False), spec

    @torch.inference_mode()
    def maps(self, pixels: Tensor, context: Context) -> list[Tensor]:
        """One map [B, D, H, W]."""
        return [self.network(bordered(self._checked(pixels)))]

    @torch.inference_mode()
    def vectors(self, pixels: Tensor, context: Context) -> dict[Pooling, Tensor]:
        """The mean over the image, [B, D]: what it was trained with."""
        return {"mean": self.network.of_images(self._checked(pixels))}

    def digest(self) -> str:
        """Of the weights and the sizes."""
        settings = {"size": asdict(self.network.size), "channels": self.network.channels}
        return weights_digest(settings, self.network.state_dict().items())

    def to(self, device: torch.device | str) -> CnnEncoder:
        """Itself, on ``device``."""
        self.network.to(device)
        return self

    def _checked(self, pixels: Tensor) -> Tensor:
        x = images(pixels, self.spec.id)
        if x.shape[1] != self.network.channels:
            raise ManyoneError(f"{x.shape[1]} bands: {self.spec.id} was made for {self.network.channels}")
        return x


def as_encoder(network: SmallCnn, bands: tuple[Band, ...] | None, trained: bool = True) -> CnnEncoder:
    """``network`` with what it says of itself."""
    spec = ModelSpec(ID, bands, network.size.widths[-1], licence="that of the imagery", trained=trained)
    return CnnEncoder(network, spec)


def cnn_from(size: CnnSize, channels: int, tensors: Mapping[str, Tensor], bands: tuple[Band, ...] | None) -> CnnEncoder:
    """The encoder of saved weights."""
    network = SmallCnn(channels, size)
    load_weights(network, dict(tensors), ID)
    return as_encoder(network, bands)


def bordered(pixels: Tensor) -> Tensor:
    """[B, C, H, W] with its border repeated three times."""
    return F.pad(pixels, (AROUND,) * 4, mode="replicate")
