"""Features without a network: pixels, windows of pixels and their statistics, the floor that every table shows.

    raw, raw3x3, raw5x5   x_ij and its neighbours in a window of w x w, C w w numbers    RawWindows
    stats3x3, stats5x5    mean, std, minimum, maximum of each band in that window, 4 C    WindowStatistics
    stats                 the same four of each band over the whole image, 4 C            ImageStatistics

Maps have stride 1; at the borders the image is mirrored. Of an image (rather than a pixel) the window around its centre
is the pooling "cls": the pixel that the label of a chip is about. Public names: the three classes.
"""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from manyone.data.rasters.bands import Band
from manyone.earth.encoders.inputs import images, pooled, weights_digest
from manyone.earth.spec import Context, ModelSpec, Pooling
from manyone.errors import ManyoneError

_NO_WEIGHTS = ModelSpec("", None, 0, pooling="cls", licence="Apache-2.0", trained=False)


class RawWindows:
    """The values in the w x w window of each pixel, bands outermost: D = C w w."""

    def __init__(self, window: int = 1, bands: tuple[Band, ...] | None = None) -> None:
        _check_window(window)
        self.window = window
        name = "raw" if window == 1 else f"raw{window}x{window}"
        self.spec = replace(_NO_WEIGHTS, id=name, width=len(bands or ()) * window * window)

    def maps(self, pixels: Tensor, context: Context) -> list[Tensor]:
        """One map [B, C w w, H, W]."""
        return [_windows(images(pixels, self.spec.id), self.window).flatten(1, 2)]

    def vectors(self, pixels: Tensor, context: Context) -> dict[Pooling, Tensor]:
        """ "cls": the window around the centre; "mean" and "max" over all windows; [B, C w w] each."""
        (maps,) = self.maps(pixels, context)
        return {"cls": _centre(maps), **pooled(maps)}

    def digest(self) -> str:
        """Of the settings: there are no weights."""
        return weights_digest({"id": self.spec.id})

    def to(self, device: torch.device | str) -> RawWindows:
        """Itself: it computes where its input is."""
        return self


class WindowStatistics:
    """Mean, standard deviation, minimum and maximum of each band in the w x w window of each pixel: D = 4 C."""

    def __init__(self, window: int = 5, bands: tuple[Band, ...] | None = None) -> None:
        _check_window(window)
        self.window = window
        self.spec = replace(_NO_WEIGHTS, id=f"stats{window}x{window}", width=4 * len(bands or ()))

    def maps(self, pixels: Tensor, context: Context) -> list[Tensor]:
        """One map [B, 4 C, H, W]: all means, then all deviations, minima, maxima."""
        return [_statistics(_windows(images(pixels, self.spec.id), self.window))]

    def vectors(self, pixels: Tensor, context: Context) -> dict[Pooling, Tensor]:
        """ "cls": the statistics of the window around the centre; "mean" and "max" over all windows; [B, 4 C] each."""
        (maps,) = self.maps(pixels, context)
        return {"cls": _centre(maps), **pooled(maps)}

    def digest(self) -> str:
        """Of the settings: there are no weights."""
        return weights_digest({"id": self.spec.id})

    def to(self, device: torch.device | str) -> WindowStatistics:
        """Itself: it computes where its input is."""
        return self


class ImageStatistics:
    """Mean, standard deviation, minimum and maximum of each band over the image: D = 4 C."""

    def __init__(self, bands: tuple[Band, ...] | None = None) -> None:
        self.spec = replace(_NO_WEIGHTS, id="stats", width=4 * len(bands or ()), pooling="mean")

    def maps(self, pixels: Tensor, context: Context) -> list[Tensor]:
        """One map of one cell, [B, 4 C, 1, 1]."""
        return [_statistics(images(pixels, self.spec.id).flatten(2).unsqueeze(3))[..., None]]

    def vectors(self, pixels: Tensor, context: Context) -> dict[Pooling, Tensor]:
        """ "mean": the statistics, [B, 4 C]; there is nothing else to pool."""
        return {"mean": self.maps(pixels, context)[0].flatten(1)}

    def digest(self) -> str:
        """Of the settings: there are no weights."""
        return weights_digest({"id": self.spec.id})

    def to(self, device: torch.device | str) -> ImageStatistics:
        """Itself: it computes where its input is."""
        return self


def _check_window(window: int) -> None:
    if window < 1 or window % 2 == 0:
        raise ManyoneError(f"window = {window}: must be odd, so that a pixel is its centre")


def _windows(x: Tensor, window: int) -> Tensor:
    """[B, C, H, W] -> [B, C, w w, H, W], a copy where w > 1."""
    around = window // 2
    if around == 0:
        return x.unsqueeze(2)
    if min(x.shape[2:]) <= around:
        raise ManyoneError(
            f"images of {x.shape[2]} x {x.shape[3]} pixels: too small for windows of {window} x {window}"
        )
    x = F.pad(x, (around,) * 4, mode="reflect")
    views = x.unfold(2, window, 1).unfold(3, window, 1)  # [B, C, H, W, w, w], a view
    return views.permute(0, 1, 4, 5, 2, 3).flatten(2, 3)


def _statistics(values: Tensor) -> Tensor:
    """[B, C, n, ...] -> [B, 4 C, ...]; the deviation is that of a population (one value has deviation 0)."""
    low, high = values.aminmax(dim=2)
    return torch.cat([values.mean(2), values.std(2, correction=0), low, high], dim=1)


def _centre(maps: Tensor) -> Tensor:
    return maps[:, :, maps.shape[2] // 2, maps.shape[3] // 2]
