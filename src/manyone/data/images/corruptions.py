"""Corruptions of images and texts at severities 1 to 5, for testing how merged models bear what they never saw.

The kinds and strengths follow Hendrycks & Dietterich (2019): they published one table for 224-pixel and one for
32-pixel images, and other sizes lie between the two on a logarithmic scale of the size. What image i looks like depends
on (seed, kind, severity, i) alone, so chunks, subsets and orders agree.

Public names: :data:`CORRUPTIONS`, :func:`corrupt`, :data:`TEXT_CORRUPTIONS`, :func:`corrupt_texts`,
:data:`TOKEN_CORRUPTIONS`, :func:`corrupt_tokens`.
"""

from __future__ import annotations

import io
import math
import string
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.randomness import generator_for

Generators = Sequence[torch.Generator]

_TABLES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    # kind or kind:parameter -> severities 1..5 at 32 pixels, at 224 pixels
    "gaussian-noise": ((0.04, 0.06, 0.08, 0.09, 0.10), (0.08, 0.12, 0.18, 0.26, 0.38)),  # standard deviation
    "shot-noise": ((500, 250, 100, 75, 50), (60, 25, 12, 5, 3)),  # photons at full brightness
    "impulse-noise": ((0.01, 0.02, 0.03, 0.05, 0.07), (0.03, 0.06, 0.09, 0.17, 0.27)),  # fraction of values
    "gaussian-blur": ((0.4, 0.6, 0.7, 0.8, 1.0), (1, 2, 3, 4, 6)),  # sigma in pixels
    "defocus-blur": ((0.6, 0.8, 1.0, 1.2, 1.6), (3, 4, 6, 8, 10)),  # radius in pixels
    "motion-blur:radius": ((2, 2.5, 3, 3.5, 4), (10, 15, 15, 15, 20)),  # pixels
    "motion-blur:sigma": ((1, 1.3, 1.6, 2, 2.5), (3, 5, 8, 12, 15)),  # pixels
    "pixelate": ((0.95, 0.9, 0.85, 0.75, 0.65), (0.6, 0.5, 0.4, 0.3, 0.25)),  # linear scale
    "spatter:blur": ((0.7, 0.7, 0.8, 0.7, 0.6), (4, 3, 2, 1, 1)),  # sigma of the drops in pixels
    "spatter:cover": ((0.04, 0.07, 0.11, 0.15, 0.2), (0.04, 0.07, 0.11, 0.15, 0.2)),  # covered fraction
    "contrast": ((0.75, 0.5, 0.4, 0.3, 0.15), (0.4, 0.3, 0.2, 0.1, 0.05)),  # factor about the mean
    "brightness": ((0.05, 0.1, 0.15, 0.2, 0.3), (0.1, 0.2, 0.3, 0.4, 0.5)),  # added
    "jpeg": ((80, 65, 58, 50, 40), (25, 18, 15, 10, 7)),  # quality
}


def corrupt(images: Tensor, kind: str, severity: int = 2, seed: int = 0, *, first: int = 0) -> Tensor:
    """Corrupted copies of images, in their own type and shape.

    Args:
        images: [n, C, H, W], uint8 or floating point in [0, 1].
        kind: a member of :data:`CORRUPTIONS` (underscores are read as hyphens).
        severity: 1 (mild) to 5.
        first: the index of ``images[0]`` in the whole set, when a set is corrupted in chunks.
    """
    kind = kind.replace("_", "-")
    if kind not in _KINDS:
        raise ManyoneError(f"unknown corruption {kind!r}: use {', '.join(CORRUPTIONS)}")
    _check_severity(severity)
    if images.ndim != 4:
        raise ManyoneError(f"images must be [n, C, H, W], got {tuple(images.shape)}")
    x = images.float() / 255 if images.dtype == torch.uint8 else images.float()
    size = min(images.shape[2:])
    result = []
    for start in range(0, len(x), 256):
        part = x[start : start + 256]
        generators = [generator_for(seed, kind, severity, first + start + i) for i in range(len(part))]
        result.append(_KINDS[kind](part, severity, size, generators).clamp(0, 1))
    y = torch.cat(result) if result else x
    return (y * 255).round().to(torch.uint8) if images.dtype == torch.uint8 else y.to(images.dtype)


def strength(name: str, severity: int, size: int) -> float:
    """The parameter ``name`` of a corruption at ``severity`` for images of ``size`` pixels."""
    small, large = (table[severity - 1] for table in _TABLES[name])
    weight = min(max(math.log(size / 32) / math.log(224 / 32), 0.0), 1.0)
    return small + weight * (large - small)


def _check_severity(severity: int) -> None:
    if severity not in (1, 2, 3, 4, 5):
        raise ManyoneError(f"severity is {severity}: use 1 (mild) to 5")


def _each(shape: torch.Size, generators: Generators, draw: Callable[[torch.Size, torch.Generator], Tensor]) -> Tensor:
    return torch.stack([draw(shape, g) for g in generators])


def _normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=generator)


def _uniform(shape: torch.Size, generator: torch.Generator) -> Tensor:
    return torch.rand(shape, generator=generator)


def _gaussian_noise(x: Tensor, severity: int, size: int, generators: Generators) -> Tensor:
    return x + strength("gaussian-noise", severity, size) * _each(x.shape[1:], generators, _normal)


def _shot_noise(x: Tensor, severity: int, size: int, generators: Generators) -> Tensor:
    photons = strength("shot-noise", severity, size)
    return torch.stack([torch.poisson(v * photons, generator=g) for v, g in zip(x, generators)]) / photons


def _impulse_noise(x: Tensor, severity: int, size: int, generators: Generators) -> Tensor:
    share = strength("impulse-noise", severity, size)
    u = _each(x.shape[1:], generators, _uniform)
    return torch.where(u < share / 2, 0.0, torch.where(u > 1 - share / 2, 1.0, x))


def _gaussian_kernel(sigma: float) -> Tensor:
    radius = max(int(4 * sigma + 0.5), 1)
    at = torch.arange(-radius, radius + 1).float()
    kernel = torch.exp(-0.5 * (at / sigma) ** 2)
    return kernel / kernel.sum()


def _padded(x: Tensor, top: int, left: int) -> Tensor:
    """Mirrored edges; as many as the image is long are mirrored, the rest repeats the last pixel."""
    height, width = x.shape[2:]
    a, b = min(top, height - 1), min(left, width - 1)
    x = F.pad(x, (b, b, a, a), mode="reflect")
    return F.pad(x, (left - b, left - b, top - a, top - a), mode="replicate")


def _filtered(x: Tensor, kernels: Tensor) -> Tensor:
    """Each image with its own kernel [n, k, k] (or one for all, [1, k, k]), k odd."""
    n, c, _, _ = x.shape
    k = kernels.shape[-1]
    planes = _padded(x, k // 2, k // 2).reshape(1, n * c, *(s + k - 1 for s in x.shape[2:]))
    weight = kernels.expand(n, k, k).repeat_interleave(c, 0).unsqueeze(1)
    return F.conv2d(planes, weight, groups=n * c).view_as(x)


def _gaussian_smooth(x: Tensor, sigma: float) -> Tensor:
    kernel = _gaussian_kernel(sigma)
    r, c = len(kernel) // 2, x.shape[1]
    rows = F.conv2d(_padded(x, r, 0), kernel.view(1, 1, -1, 1).expand(c, 1, -1, 1), groups=c)
    return F.conv2d(_padded(rows, 0, r), kernel.view(1, 1, 1, -1).expand(c, 1, 1, -1), groups=c)


def _gaussian_blur(x: Tensor, severity: int, size: int, generators: Generators) -> Tensor:
    return _gaussian_smooth(x, strength("gaussian-blur", severity, size))


def _defocus_blur(x: Tensor, severity: int, size: int, generators: Generators) -> Tensor:
    radius = strength("defocus-blur", severity, size)
    reach = math.ceil(radius)
    at = (torch.arange(-reach * 8 - 3.5, reach * 8 + 4) / 8).float()  # eight samples a pixel give a smooth rim
    disk = ((at[:, None] ** 2 + at**2) <= radius**2).float()
    disk = F.avg_pool2d(disk[None], 8)[0]
    return _filtered(x, (disk / disk.sum())[None])


def _motion_blur(x: Tensor, severity: int, size: int, generators: Generators) -> Tensor:
    radius, sigma = (strength(f"motion-blur:{name}", severity, size) for name in ("radius", "sigma"))
    reach = math.ceil(radius)
    width = 2 * reach + 1
    steps = torch.arange(0, radius + 1e-6, 0.25)
    weights = torch.exp(-0.5 * (steps / sigma) ** 2)
    angles = torch.stack([(torch.rand((), generator=g) - 0.5) * (math.pi / 2) for g in generators])[:, None]
    row, column = steps * angles.sin() + reach, steps * angles.cos() + reach
    top, left = row.floor().long(), column.floor().long()
    kernels = torch.zeros(len(x), width * width)
    for dy in (0, 1):
        for dx in (0, 1):
            share = (1 - (row - top - dy).abs()) * (1 - (column - left - dx).abs()) * weights
            cell = (top + dy).clamp(0, 2 * reach) * width + (left + dx).clamp(0, 2 * reach)
            kernels.scatter_add_(1, cell, share)
    kernels = kernels.view(-1, width, width)
    return _filtered(x, kernels / kernels.sum((1, 2), keepdim=True))


def _pixelate(x: Tensor, severity: int, size: int, generators: Generators) -> Tensor:
    scale = strength("pixelate", severity, size)
    height, width = (max(round(s * scale), 1) for s in x.shape[2:])
    return F.interpolate(F.interpolate(x, (height, width), mode="area"), x.shape[2:], mode="nearest")


def _spatter(x: Tensor, severity: int, size: int, generators: Generators) -> Tensor:
    """Drops: bright water up to severity 3, dark mud above. A drop is where smoothed noise is highest."""
    noise = _each(torch.Size((1, *x.shape[2:])), generators, _normal)
    noise = _gaussian_smooth(noise, strength("spatter:blur", severity, size))
    cover = strength("spatter:cover", severity, size)
    level = torch.quantile(noise.flatten(1), 1 - cover, dim=1).view(-1, 1, 1, 1)
    depth = ((noise - level) / noise.flatten(1).std(1).view(-1, 1, 1, 1)).clamp(0, 1)
    cover_at = (depth > 0).float() * (0.5 + 0.5 * depth)
    if severity <= 3:
        colour = torch.tensor([0.69, 0.93, 0.93]) if x.shape[1] == 3 else torch.full((x.shape[1],), 0.9)
    else:
        colour = torch.tensor([0.25, 0.16, 0.08]) if x.shape[1] == 3 else torch.full((x.shape[1],), 0.17)
    return x + cover_at * 0.8 * (colour.view(1, -1, 1, 1) - x)


def _contrast(x: Tensor, severity: int, size: int, generators: Generators) -> Tensor:
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean) * strength("contrast", severity, size) + mean


def _brightness(x: Tensor, severity: int, size: int, generators: Generators) -> Tensor:
    return x + strength("brightness", severity, size)


def _jpeg(x: Tensor, severity: int, size: int, generators: Generators) -> Tensor:
    quality = round(strength("jpeg", severity, size))
    pixels = (x.clamp(0, 1) * 255).round().to(torch.uint8)

    def coded(plane: Tensor) -> Tensor:
        """[H, W] or [H, W, 3], there and back."""
        buffer = io.BytesIO()
        Image.fromarray(plane.contiguous().numpy()).save(buffer, "JPEG", quality=quality)
        return torch.from_numpy(np.array(Image.open(buffer)))

    result = []
    for image in pixels:
        if len(image) == 3:
            result.append(coded(image.permute(1, 2, 0)).permute(2, 0, 1))
        else:
            result.append(torch.stack([coded(plane) for plane in image]))
    return torch.stack(result).float() / 255


_KINDS: dict[str, Callable[[Tensor, int, int, Generators], Tensor]] = {
    "gaussian-noise": _gaussian_noise,
    "shot-noise": _shot_noise,
    "impulse-noise": _impulse_noise,
    "gaussian-blur": _gaussian_blur,
    "defocus-blur": _defocus_blur,
    "motion-blur": _motion_blur,
    "pixelate": _pixelate,
    "spatter": _spatter,
    "contrast": _contrast,
    "brightness": _brightness,
    "jpeg": _jpeg,
}
CORRUPTIONS = tuple(_KINDS)

_TEXT_RATES = {
    "character-noise": (0.02, 0.05, 0.10, 0.15, 0.25),  # of letters and digits
    "word-drop": (0.05, 0.10, 0.20, 0.30, 0.45),  # of words
}
TEXT_CORRUPTIONS = tuple(_TEXT_RATES)

_TOKEN_RATES = {"token-drop": (0.05, 0.10, 0.20, 0.30, 0.45), "token-swap": (0.05, 0.10, 0.20, 0.35, 0.5)}
TOKEN_CORRUPTIONS = tuple(_TOKEN_RATES)


def corrupt_texts(texts: Sequence[str], kind: str, severity: int = 2, seed: int = 0, *, first: int = 0) -> list[str]:
    """Texts with ``character-noise`` (letters replaced, dropped, doubled or swapped) or ``word-drop``.

    Applies before tokenisation. A text that has words keeps at least one. ``first`` is the index of ``texts[0]``.
    """
    kind = kind.replace("_", "-")
    if kind not in _TEXT_RATES:
        raise ManyoneError(f"unknown text corruption {kind!r}: use {', '.join(TEXT_CORRUPTIONS)}")
    _check_severity(severity)
    rate, change = _TEXT_RATES[kind][severity - 1], _noisy if kind == "character-noise" else _thinned
    return [change(t, rate, generator_for(seed, kind, severity, first + i)) for i, t in enumerate(texts)]


def _noisy(text: str, rate: float, generator: torch.Generator) -> str:
    hit = (torch.rand(len(text), generator=generator) < rate).tolist()
    how = torch.randint(4, (len(text),), generator=generator).tolist()
    letter = torch.randint(26, (len(text),), generator=generator).tolist()
    result: list[str] = []
    i = 0
    while i < len(text):
        if not hit[i] or not text[i].isalnum():
            result.append(text[i])
        elif how[i] == 0:
            result.append(string.ascii_lowercase[letter[i]])
        elif how[i] == 1:
            result.append(text[i] * 2)
        elif how[i] == 2 and i + 1 < len(text):
            result += [text[i + 1], text[i]]
            i += 1
        i += 1
    return "".join(result)


def _thinned(text: str, rate: float, generator: torch.Generator) -> str:
    words = text.split()
    if not words:
        return text
    draw = torch.rand(len(words), generator=generator)
    keep = (draw >= rate).tolist()
    keep[int(draw.argmax())] = True
    return " ".join(w for w, k in zip(words, keep) if k)


def corrupt_tokens(
    inputs: Mapping[str, Tensor],
    kind: str,
    severity: int = 2,
    seed: int = 0,
    *,
    first: int = 0,
    keep: Sequence[int] = (0, -1),
) -> dict[str, Tensor]:
    """Tokenised texts with tokens dropped (the rest moves up, padding grows) or neighbours swapped.

    Args:
        inputs: ``input_ids`` and ``attention_mask``, int64 [n, L], padded on the right.
        keep: positions within each text that stay as they are, by default its first and last token ([CLS] and [SEP]).
        first: the index of the first row in the whole set.
    """
    kind = kind.replace("_", "-")
    if kind not in _TOKEN_RATES:
        raise ManyoneError(f"unknown token corruption {kind!r}: use {', '.join(TOKEN_CORRUPTIONS)}")
    _check_severity(severity)
    rate = _TOKEN_RATES[kind][severity - 1]
    ids, mask = inputs["input_ids"].clone(), inputs["attention_mask"].clone()
    for i in range(len(ids)):
        length = int(mask[i].sum())
        fixed = {k % length for k in keep if -length <= k < length} if length else set()
        generator = generator_for(seed, kind, severity, first + i)
        hit = (torch.rand(length, generator=generator) < rate).tolist()
        row = ids[i, :length].tolist()
        if kind == "token-drop":
            kept = [t for k, t in enumerate(row) if k in fixed or not hit[k]] or row[:1]
            ids[i, : len(kept)] = torch.tensor(kept, dtype=ids.dtype)
            ids[i, len(kept) : length] = 0
            mask[i, len(kept) : length] = 0
        else:
            for k in range(length - 1):
                if hit[k] and k not in fixed and k + 1 not in fixed:
                    row[k], row[k + 1] = row[k + 1], row[k]
            ids[i, :length] = torch.tensor(row, dtype=ids.dtype)
    return {**inputs, "input_ids": ids, "attention_mask": mask}
