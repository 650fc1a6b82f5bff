"""Image files as pixels, in the size, colour and normalisation that a model wants.

Public names: ``ImageFormat``, ``image_format``, ``read_images``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from manyone.errors import ManyoneError

MAX_PIXELS = 50_000_000
"""Larger images are refused before they are decoded."""


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
        if found.get("do_center_crop", True) and "crop_size" in found:
            size = found["crop_size"]
        else:
            vision = found.get("vision_config") or {}
            size = found.get("size") or found.get("image_size") or vision.get("image_size") or 224
        if isinstance(size, Mapping):
            size = size.get("height") or size.get("shortest_edge") or 224
        normalise = found.get("do_normalize", True)
        mean = tuple(found.get("image_mean") or (0.5,) * 3) if normalise else (0.0,) * 3
        std = tuple(found.get("image_std") or (0.5,) * 3) if normalise else (1.0,) * 3
        crop = bool(found.get("do_center_crop", False))
        return ImageFormat(int(size), len(mean), mean, std, int(found.get("resample") or 3), crop)


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
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ManyoneError(f"{path}: line {error.lineno} is not JSON ({error.msg})") from error
