"""Images that are drawn here from real measurements or fonts; every task made of them says "rendered"."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from manyone.randomness import seed_for

LETTERS = tuple("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
_FONTS = (
    "DejaVuSans",
    "DejaVuSans-*",
    "DejaVuSansMono*",
    "DejaVuSerif",
    "DejaVuSerif-*",
    "cmr10*",
    "cmb10*",
    "cmss10*",
    "cmtt10*",
    "STIXGeneral*",
)


def draw_strokes(points: Tensor, size: int) -> Tensor:
    """Pen positions [n, p, 2] in 0..100 (y upwards) drawn as uint8 images [n, size, size].

    The brightness of a pixel falls linearly with its distance from the nearest segment between consecutive points.
    """
    margin, width = 0.12 * size, size / 28
    scaled = points.float() / 100 * (size - 1 - 2 * margin) + margin
    x, y = scaled[..., 0], size - 1 - scaled[..., 1]
    start, end = torch.stack([x, y], -1)[:, :-1, None], torch.stack([x, y], -1)[:, 1:, None]
    rows, columns = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    pixels = torch.stack([columns, rows], -1).reshape(-1, 2).float()
    images = []
    for a, b in zip(start.split(500), end.split(500), strict=True):
        along = b - a
        length = along.square().sum(-1).clamp_min(1e-9)
        place = (((pixels - a) * along).sum(-1) / length).clamp(0, 1)[..., None]
        distance = (pixels - a - place * along).norm(dim=-1).amin(1)
        images.append(((1.8 - distance / width).clamp(0, 1) * 255).round().byte())
    return torch.cat(images).reshape(-1, size, size)


def letter_fonts() -> list[Path]:
    """The text fonts that matplotlib carries, sorted by name."""
    import matplotlib

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted(path for pattern in _FONTS for path in folder.glob(f"{pattern}.ttf"))


def draw_letters(per_class: int, size: int) -> tuple[Tensor, Tensor]:
    """Capital letters in random fonts, places, slants and colours: uint8 [26 * per_class, 3, size, size] and labels.

    Letter ``k`` of a class depends on (class, k) alone, so fewer letters are a prefix of more.
    """
    large = 2 * size
    fonts = [[ImageFont.truetype(str(f), round(large * s)) for s in (0.5, 0.65, 0.8)] for f in letter_fonts()]
    images, labels = [], []
    for label, letter in enumerate(LETTERS):
        for k in range(per_class):
            rng = np.random.default_rng(seed_for("letters", label, k))
            font = fonts[rng.integers(len(fonts))][rng.integers(3)]
            mask = Image.new("L", (large, large))
            place = ((0.5 + rng.uniform(-0.08, 0.08)) * large, (0.5 + rng.uniform(-0.08, 0.08)) * large)
            ImageDraw.Draw(mask).text(place, letter, fill=255, font=font, anchor="mm")
            slant = rng.uniform(-0.25, 0.25)
            matrix = (1, slant, -slant * large / 2, 0, 1, 0)
            mask = mask.rotate(rng.uniform(-12, 12), Image.Resampling.BILINEAR)
            mask = mask.transform((large, large), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            ink, paper = _two_colours(rng)
            picture = Image.composite(
                Image.new("RGB", (large, large), ink), Image.new("RGB", (large, large), paper), mask
            )
            images.append(np.asarray(picture.resize((size, size), Image.Resampling.BOX)))
            labels.append(label)
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous(), torch.tensor(labels)


def _two_colours(rng: np.random.Generator) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Two colours whose mean brightness differs by at least 80 of 255."""
    while True:
        ink, paper = rng.integers(0, 256, size=(2, 3))
        if abs(int(ink.sum()) - int(paper.sum())) >= 240:
            return tuple(map(int, ink)), tuple(map(int, paper))
