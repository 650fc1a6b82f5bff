"""Image files as pixels, in the size, colour and normalisation that a model wants.

Public names: ``ImageFormat``, ``image_format``, ``read_images``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from manyone.engine.documents import read_json
from manyone.errors import ManyoneError

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded."""


LARGEST_SIDE = 4096
"""Pixels a side of a model's input."""


@dataclass(frozen=True)
class ImageFormat:
    """How images become pixels, and the mean and deviation that the model then applies (per channel, in [0, 1])."""

    size: int = 32
    channels: int = 3
    mean: tuple[float, ...] = (0.5, 0.5, 0.5)
    std: tuple[float, ...] = (0.5, 0.5, 0.5)
    resample: int = 3
    crop: bool = True

    @staticmethod
    def of_model(folder: Path) -> ImageFormat:
        """From a model folder's ``preprocessor_config.json``, else from ``image_size`` in its ``config.json``."""
        processor, config = folder / "preprocessor_config.json", folder / "config.json"
        found: dict[str, Any] = {}
        for path in (processor, config):
            if path.is_file():
                found = _json(path)
                break
        else:
            raise ManyoneError(f"{folder}: no preprocessor_config.json or config.json that tells the image size")
        try:
            return _format(found)
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise ManyoneError(f"{path}: not a preprocessing of images ({error})") from None


def _format(found: Mapping[str, Any]) -> ImageFormat:
    """The format that a configuration describes; ``ValueError`` and the like for what it cannot mean."""
    if found.get("do_center_crop", True) and "crop_size" in found:
        size = found["crop_size"]
    else:
        vision = found.get("vision_config") or {}
        size = found.get("size") or found.get("image_size") or vision.get("image_size") or 224
    if isinstance(size, Mapping):
        size = size.get("height") or size.get("shortest_edge") or 224
    normalise = found.get("do_normalize", True)
    mean = _numbers(found.get("image_mean") or (0.5,) * 3) if normalise else (0.0,) * 3
    std = _numbers(found.get("image_std") or (0.5,) * 3) if normalise else (1.0,) * 3
    if not 1 <= int(size) <= LARGEST_SIDE or len(mean) != len(std) or len(mean) not in (1, 3) or min(std) <= 0:
        raise ValueError(f"size {size!r:.40}, mean {mean}, deviation {std}")
    resample = int(found.get("resample") or 3)
    if resample not in {int(one) for one in Image.Resampling}:
        raise ValueError(f"resample {resample}")
    return ImageFormat(int(size), len(mean), mean, std, resample, bool(found.get("do_center_crop", False)))


def _numbers(values: Any) -> tuple[float, ...]:
    found = tuple(map(float, values if not isinstance(values, str) else ()))
    if not found or not all(map(math.isfinite, found)):
        raise ValueError(f"{values!r:.60} are no numbers")
    return found


def image_format(model: Path | str | None, size: int | None, channels: int | None) -> ImageFormat:
    """The format of a model folder, where one is named, with ``size`` and ``channels`` (1 or 3) in place of its own."""
    if model is not None and Path(model).is_dir():
        shape = ImageFormat.of_model(Path(model))
        return ImageFormat(
            size or shape.size, channels or shape.channels, shape.mean, shape.std, shape.resample, shape.crop
        )
    channels = channels or 3
    if channels not in (1, 3):
        raise ManyoneError(f"channels is {channels}: use 1 (grey) or 3 (colour)")
    return ImageFormat(size or 32, channels, (0.5,) * channels, (0.5,) * channels)


def read_images(items: Sequence[Any], shape: ImageFormat) -> Tensor:
    """uint8 [n, C, size, size]; ``items`` are paths or PIL images."""
    result = torch.empty(len(items), shape.channels, shape.size, shape.size, dtype=torch.uint8)
    for i, item in enumerate(items):
        result[i] = _pixels(item, shape)
    return result


def _pixels(item: Any, shape: ImageFormat) -> Tensor:
    try:
        image = Image.open(item) if isinstance(item, Path) else item
        if image.width * image.height > MAX_PIXELS:
            raise ManyoneError(f"{item}: {image.width} x {image.height} pixels; at most {MAX_PIXELS} are read")
        image = image.convert("RGB" if shape.channels == 3 else "L")
        scale = shape.size / min(image.size)
        if shape.crop:
            width, height = (max(round(s * scale), shape.size) for s in image.size)
        else:
            width = height = shape.size
        image = image.resize((width, height), Image.Resampling(shape.resample))
        left, top = (width - shape.size) // 2, (height - shape.size) // 2
        image = image.crop((left, top, left + shape.size, top + shape.size))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ManyoneError(f"{item}: cannot be read as an image ({error}); remove or replace it") from error
    pixels = torch.from_numpy(np.array(image))
    return pixels.permute(2, 0, 1) if shape.channels == 3 else pixels.unsqueeze(0)


def _json(path: Path) -> dict[str, Any]:
    found = read_json(path, "the preprocessing")
    if not isinstance(found, dict):
        raise ManyoneError(f"{path}: not a preprocessing: it must be a JSON object")
    return found
