"""What an encoder says of itself (its input slots, unit, needs) and what it can be asked for."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from manyone.data.rasters.bands import Band, Unit

Need = Literal["gsd", "time", "lonlat", "wavelength", "bandwidth"]
Pooling = Literal["cls", "mean", "max"]


@dataclass(frozen=True)
class ModelSpec:
    """An encoder's contract with the sensor layer."""

    id: str
    slots: tuple[Band, ...] | None
    """The bands that it was trained with, in its order, with pre-training mean and std; None: any bands."""
    width: int
    """Length of a feature vector; 0 where it depends on the number of bands (raw pixels)."""
    unit: Unit | None = None
    """What its input must be before it is normalised; None: whatever the data set has."""
    needs: frozenset[Need] = frozenset()
    size: int | None = None
    """Side of its input in pixels; None: any."""
    patch: int = 1
    """Pixels a side of what one vector of its map stands for."""
    frames: tuple[int, int] = (1, 1)
    """Fewest and most dates."""
    layers: tuple[int, ...] = ()
    """Blocks whose maps it gives; empty: the last alone."""
    dense: int = -1
    """Which of them describes single pixels: of a pyramid the finest, else the last."""
    pooling: Pooling = "mean"
    """The pooling that its authors use."""
    licence: str = "unknown"
    revision: str = ""
    """Commit of the weights, or their SHA-256."""
    trained: bool = True
    """False: weights drawn at random (a control), or none."""


@dataclass(frozen=True)
class Context:
    """What comes with the pixels of a batch."""

    wavelengths_nm: Tensor | None = None
    """float [C]; NaN where a channel has none."""
    bandwidths_nm: Tensor | None = None
    bands: tuple[Band, ...] = ()
    """The channels, in order."""
    gsd_m: float | None = None
    """Of the pixels as the encoder gets them (after resizing)."""
    time: Tensor | None = None
    """float [B, T], days since 1970-01-01."""
    lonlat: Tensor | None = None
    """float [B, 2] in degrees."""
    more: dict[str, Tensor] = field(default_factory=dict)


class Encoder(Protocol):
    """Anything that turns prepared pixels into feature maps."""

    spec: ModelSpec

    def maps(self, pixels: Tensor, context: Context) -> list[Tensor]:
        """[B, D, h, w] a layer of ``spec.layers`` (one where that is empty), from [B, C, H, W] or [B, T, C, H, W]."""
        ...

    def vectors(self, pixels: Tensor, context: Context) -> dict[Pooling, Tensor]:
        """Pooling -> [B, D]: every pooling that it has, from one forward pass."""
        ...

    def digest(self) -> str:
        """SHA-256 of what decides its output: weights and settings."""
        ...

    def to(self, device: torch.device | str) -> Encoder:
        """Itself, on ``device``."""
        ...
