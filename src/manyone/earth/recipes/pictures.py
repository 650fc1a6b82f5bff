"""Scenes, label maps and predictions as pictures for a report."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from manyone.data.rasters.bands import Band

PALETTE = (
    (31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189), (140, 86, 75), (227, 119, 194),
    (188, 189, 34), (23, 190, 207), (174, 199, 232), (255, 187, 120), (152, 223, 138), (255, 152, 150),
    (197, 176, 213), (196, 156, 148), (247, 182, 210), (219, 219, 141), (158, 218, 229), (127, 127, 127),
)  # fmt: skip
"""Colours of classes in order; after the last it begins again. Black is "no data"."""
_LARGEST = 1200  # pixels a side
_COMPOSITES = (("red", "green", "blue"), ("nir", "red", "green"), ("nir_narrow", "red", "green"))


def colours(count: int) -> dict[int, tuple[int, int, int]]:
    """Value of a class map (class + 1, 0 is no data) -> colour."""
    return {0: (0, 0, 0)} | {k + 1: PALETTE[k % len(PALETTE)] for k in range(count)}


def composite(pixels: np.ndarray, valid: np.ndarray, bands: tuple[Band, ...]) -> np.ndarray:
    """uint8 [H, W, 3] of [C, H, W]: red, green and blue, or near infrared, red and green, or the first band as grey.

    Each band is stretched between its 2nd and 98th percentile.
    """
    names = [band.common for band in bands]
    chosen = next(([names.index(n) for n in c] for c in _COMPOSITES if set(c) <= set(names)), [0, 0, 0])
    out = np.zeros((*pixels.shape[1:], 3), np.uint8)
    for channel, index in enumerate(chosen):
        good = valid[index]
        if good.any():
            low, high = np.percentile(pixels[index][good], (2, 98))
            scaled = (pixels[index] - low) / max(high - low, 1e-12)
            out[..., channel] = np.where(good, np.clip(255 * scaled, 0, 255), 0)
    return out


def label_picture(labels: np.ndarray, count: int) -> np.ndarray:
    """uint8 [H, W, 3] of a map of class + 1 with 0 where there is none."""
    table = np.zeros((256, 3), np.uint8)
    for value, colour in colours(count).items():
        table[value] = colour
    return table[labels]


def side_by_side(pictures: list[np.ndarray]) -> str:
    """The base64 text of a PNG with ``pictures`` [H, W, 3] in a row."""
    gap = np.full((pictures[0].shape[0], 4, 3), 255, np.uint8)
    row: list[np.ndarray] = []
    for picture in pictures:
        row += [picture, gap]
    image = Image.fromarray(np.concatenate(row[:-1], axis=1))
    image.thumbnail((len(pictures) * _LARGEST, _LARGEST))
    out = io.BytesIO()
    image.save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()
