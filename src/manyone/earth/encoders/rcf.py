"""Random convolutional features (MOSAIKS; Rolf et al., 2021, Nature Communications 12): no training.

    c_k(x) = w_k * x + b          k = 1..n/2 random 3x3 filters over all bands
    features: ReLU(c_k), ReLU(-c_k); an image's vector is their mean over it, n numbers

``rcf`` draws w_k from N(0, 1); ``mosaiks`` takes whitened patches of the images themselves. So 512 features are 256
filters with both signs, which is how the field counts them. Public names: :class:`RandomFeatures`,
:func:`gaussian_features`, :func:`patch_features`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from manyone.data.rasters.bands import Band
from manyone.earth.encoders.inputs import channels, images, pooled, weights_digest
from manyone.earth.spec import Context, ModelSpec, Pooling
from manyone.errors import ManyoneError
from manyone.randomness import generator_for

FEATURES = 512
_SIDE = 3
_PATCHES = 20_000  # that the whitening is computed from
_CONTRAST, _WHITENING = 10.0, 1e-3  # regularisers of a patch's variance and of the covariance (Coates & Ng, 2012)
_LOCAL = 5  # pixels a side that a cell of the dense map averages


class RandomFeatures:
    """Filters [n/2, C, 3, 3] and their bias as an encoder of n features; the dense map averages 5 x 5 pixels."""

    def __init__(self, id: str, filters: Tensor, bias: float, bands: tuple[Band, ...] | None) -> None:
        self.filters, self.bias = filters, bias
        self.spec = ModelSpec(id, bands, 2 * len(filters), licence="Apache-2.0", trained=False)

    def maps(self, pixels: Tensor, context: Context) -> list[Tensor]:
        """One map [B, n, H, W]."""
        around = _LOCAL // 2
        small = min(pixels.shape[-2:]) <= around  # too small to be mirrored: repeat its border
        x = F.pad(self._responses(pixels), (around,) * 4, mode="replicate" if small else "reflect")
        return [F.avg_pool2d(x, _LOCAL, stride=1)]

    def vectors(self, pixels: Tensor, context: Context) -> dict[Pooling, Tensor]:
        """Mean and maximum over the image, [B, n] each."""
        return pooled(self._responses(pixels))

    def digest(self) -> str:
        """Of the filters and the bias."""
        return weights_digest({"id": self.spec.id, "bias": self.bias, "local": _LOCAL}, [("filters", self.filters)])

    def to(self, device: torch.device | str) -> RandomFeatures:
        """Itself, with its filters on ``device``."""
        self.filters = self.filters.to(device)
        return self

    def _responses(self, pixels: Tensor) -> Tensor:
        x = images(pixels, self.spec.id)
        if x.shape[1] != self.filters.shape[1]:
            raise ManyoneError(f"{x.shape[1]} bands: {self.spec.id} was made for {self.filters.shape[1]}")
        x = F.pad(x, (1,) * 4, mode="replicate")  # keeps the size, also of an image of one pixel
        found = F.conv2d(x, self.filters) + self.bias
        return torch.cat([found.relu(), (-found).relu()], dim=1)


def gaussian_features(
    bands: tuple[Band, ...] | None, *, features: int = FEATURES, bias: float = -1.0, seed: int = 0
) -> RandomFeatures:
    """``rcf``: filters from N(0, 1). Deterministic in (seed, number of bands, features)."""
    count = channels(bands, "rcf")
    shape = (_half(features), count, _SIDE, _SIDE)
    filters = torch.randn(shape, generator=generator_for(seed, "rcf", count))
    return RandomFeatures("rcf", filters, bias, bands)


def patch_features(
    imagery: Sequence[Tensor],
    bands: tuple[Band, ...] | None,
    *,
    features: int = FEATURES,
    bias: float = -1.0,
    seed: int = 0,
) -> RandomFeatures:
    """``mosaiks``: filters are patches of ``imagery`` (each [C, H, W], H and W >= 3), contrast-normalised and
    ZCA-whitened."""
    patches = _patches(imagery, seed)
    patches = patches - patches.mean(1, keepdim=True)
    patches = patches / (patches.var(1, keepdim=True) + _CONTRAST / patches.shape[1]).sqrt()
    centre = patches.mean(0)
    covariance = (patches - centre).T @ (patches - centre) / len(patches)
    values, basis = torch.linalg.eigh(covariance.double())
    whitening = (basis * (values.clamp_min(0) + _WHITENING).rsqrt()) @ basis.T
    chosen = torch.randint(len(patches), (_half(features),), generator=generator_for(seed, "mosaiks filters"))
    filters = ((patches[chosen] - centre).double() @ whitening).float()
    return RandomFeatures("mosaiks", filters.view(len(filters), -1, _SIDE, _SIDE), bias, bands)


def _half(features: int) -> int:
    if features < 2 or features % 2:
        raise ManyoneError(f"features = {features}: must be even and at least 2: each filter gives two")
    return features // 2


def _patches(imagery: Sequence[Tensor], seed: int) -> Tensor:
    """Up to 20,000 random patches, [n, C * 9]."""
    for image in imagery:
        if image.ndim != 3 or min(image.shape[1:]) < _SIDE:
            raise ManyoneError(
                f"imagery of shape {list(image.shape)}: mosaiks takes images [C, H, W] of 3 x 3 and more"
            )
    if not len(imagery):
        raise ManyoneError("imagery is empty: mosaiks takes its filters from it")
    generator = generator_for(seed, "mosaiks patches")
    places = torch.tensor([(i.shape[1] - 2) * (i.shape[2] - 2) for i in imagery])
    ends = places.cumsum(0)
    total = int(ends[-1])
    at = torch.randint(total, (min(_PATCHES, max(total, FEATURES)),), generator=generator).sort().values
    owner = torch.searchsorted(ends, at, right=True)
    found = []
    for index in owner.unique().tolist():
        image = imagery[index].float()
        inside = at[owner == index] - (ends[index] - places[index])
        row, column = inside // (image.shape[2] - 2), inside % (image.shape[2] - 2)
        views = image.unfold(1, _SIDE, 1).unfold(2, _SIDE, 1)  # [C, H - 2, W - 2, 3, 3], a view
        found.append(views[:, row, column].transpose(0, 1).flatten(1))
    return torch.cat(found)
