"""What pixels come as: a scene (a raster, read by windows) and sets to evaluate on (chips, labelled scenes, places).

Arrays are numpy: they may be memory-mapped and are handed to torch batch by batch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Protocol

import numpy as np

from manyone.data.rasters.bands import Band

IGNORE = 255
"""Label of pixels that count nowhere."""
Target = Literal["class", "labels", "value", "mask", "change", "boxes", "none"]
"""One class a sample; several labels; a number; a class a pixel; a pair of dates and changed pixels; boxes; nothing."""


class Window(NamedTuple):
    """A rectangle of pixels."""

    row: int
    column: int
    height: int
    width: int


class Grid(NamedTuple):
    """Where the pixels of a raster lie on the Earth."""

    crs: str
    """As an authority's code ("EPSG:32632") or WKT."""
    transform: tuple[float, float, float, float, float, float]
    """x = a column + b row + c, y = d column + e row + f, for corners of pixels (rasterio's order a b c d e f)."""


class Scene(Protocol):
    """One raster of any size; pixels are read when they are asked for."""

    @property
    def name(self) -> str: ...

    @property
    def bands(self) -> tuple[Band, ...]: ...

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        ...

    @property
    def grid(self) -> Grid | None: ...

    @property
    def gsd_m(self) -> float | None: ...

    @property
    def time(self) -> float | None:
        """Days since 1970-01-01."""
        ...

    def read(self, window: Window | None = None) -> tuple[np.ndarray, np.ndarray]:
        """(pixels float32 [C, h, w] in the bands' units, valid bool [C, h, w]); all of it without a window."""
        ...


@dataclass(frozen=True)
class ArrayScene:
    """A scene that is in memory (or memory-mapped)."""

    name: str
    bands: tuple[Band, ...]
    pixels: np.ndarray
    """[C, H, W], any number type."""
    valid: np.ndarray | None = None
    """bool [C, H, W]; None: all but NaN."""
    grid: Grid | None = None
    gsd_m: float | None = None
    time: float | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    def read(self, window: Window | None = None) -> tuple[np.ndarray, np.ndarray]:
        """See :class:`Scene`."""
        at = window or Window(0, 0, *self.shape)
        part = np.s_[:, at.row : at.row + at.height, at.column : at.column + at.width]
        pixels = np.asarray(self.pixels[part], dtype=np.float32)
        valid = np.isfinite(pixels)
        if self.valid is not None:
            valid &= self.valid[part]
        return pixels, valid


@dataclass(frozen=True)
class About:
    """What a report says of a set: where it comes from, what may be done with it, what must be known."""

    source: str = ""
    licence: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Chips:
    """N small images of one size with a target each."""

    name: str
    bands: tuple[Band, ...]
    pixels: np.ndarray
    """[N, C, H, W], or [N, T, C, H, W] with dates (``change``: T = 2), in the bands' units."""
    target: Target
    targets: np.ndarray
    """int64 [N]; bool [N, K]; float64 [N]; uint8 [N, H, W] with IGNORE, as ``target`` says."""
    classes: tuple[str, ...] = ()
    ids: tuple[str, ...] = ()
    """Default: their numbers."""
    valid: np.ndarray | None = None
    """bool, of the shape of ``pixels``; None: all but NaN."""
    places: np.ndarray | None = None
    """float64 [N, 2], x and y of the centres in ``place_unit``: what blocks are cut from."""
    place_unit: Literal["pixel", "metre", "degree"] = "metre"
    lonlat: np.ndarray | None = None
    """float64 [N, 2] in degrees."""
    time: np.ndarray | None = None
    """float64 [N] or [N, T], days since 1970-01-01."""
    gsd_m: float | None = None
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    """The official split: train, val, test -> positions; empty: there is none."""
    about: About = About()

    def __len__(self) -> int:
        return len(self.pixels)


@dataclass(frozen=True)
class LabelledScenes:
    """Scenes with a class (or a number) for each pixel; a sample is one labelled pixel."""

    name: str
    scenes: tuple[Scene, ...]
    labels: tuple[np.ndarray, ...]
    """uint8 [H, W] with IGNORE a scene; float32 [H, W] with NaN where the target is "value"."""
    classes: tuple[str, ...] = ()
    target: Target = "mask"
    about: About = About()

    @property
    def bands(self) -> tuple[Band, ...]:
        """Those of all scenes."""
        return self.scenes[0].bands


@dataclass(frozen=True)
class Scenes:
    """Scenes without labels: to be embedded or mapped, not evaluated on. Their bands may differ."""

    name: str
    scenes: tuple[Scene, ...]
    about: About = About()


@dataclass(frozen=True)
class Places:
    """Points on the Earth without an image: what location encoders are compared on."""

    name: str
    lonlat: np.ndarray
    """float64 [N, 2] in degrees."""
    target: Target
    targets: np.ndarray
    classes: tuple[str, ...] = ()
    about: About = About()

    def __len__(self) -> int:
        return len(self.lonlat)


RasterSet = Chips | LabelledScenes | Places
