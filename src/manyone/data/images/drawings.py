"""Decoders of pictures in files: clip-art, emoji and photographs of solar cells, as uint8 [n, 3, 32, 32].

Decoded once and kept in the cache. A picture that would unpack to more than two megapixels is skipped unread: a few
files of the clip-art collection are decompression bombs.
"""

from __future__ import annotations

import io
import json
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from manyone.assets.archives import Archive, open_archive
from manyone.assets.fetch import get
from manyone.data.decoded import decoded
from manyone.engine.progress import Progress
from manyone.errors import ManyoneError

SIZE = 32
MAX_PIXELS = 2_000_000
CLIPART = (
    "animals",
    "buildings",
    "food",
    "people",
    "plants",
    "recreation",
    "signs_and_symbols",
    "tools",
    "transportation",
)
EMOJI = (
    "Activities",
    "Animals & Nature",
    "Flags",
    "Food & Drink",
    "Objects",
    "People & Body",
    "Smileys & Emotion",
    "Symbols",
    "Travel & Places",
)
_CLIPART_ROOT = "usr/share/openclipart/png/"


@dataclass(frozen=True)
class Pictures:
    """Images (uint8 [n, 3, 32, 32]) with the names they have in their package."""

    images: Tensor
    names: tuple[str, ...]


def png_size(raw: bytes) -> tuple[int, int] | None:
    """(width, height) from a PNG's header without decoding anything; None when it is no PNG."""
    if len(raw) < 24 or raw[:8] != b"\x89PNG\r\n\x1a\n" or raw[12:16] != b"IHDR":
        return None
    return struct.unpack(">II", raw[16:24])


def decode_png(raw: bytes, size: int = SIZE) -> np.ndarray | None:
    """A PNG as uint8 [size, size, 3]: composited on white, fitted into a white square. None when it is too large to be
    decoded safely, empty, or damaged."""
    shape = png_size(raw)
    if shape is None or not 0 < shape[0] * shape[1] <= MAX_PIXELS:
        return None
    try:
        picture = Image.open(io.BytesIO(raw)).convert("RGBA")
    except (OSError, SyntaxError, ValueError):
        return None  # what Pillow raises for damaged files
    paper = Image.new("RGBA", picture.size, "white")
    paper.alpha_composite(picture)
    scale = size / max(picture.size)
    small = paper.convert("RGB").resize(
        (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)), Image.Resampling.LANCZOS
    )
    square = Image.new("RGB", (size, size), "white")
    square.paste(small, ((size - small.width) // 2, (size - small.height) // 2))
    return np.asarray(square)


def _decode_all(asset: str, archive: Archive, members: Iterable[tuple[str, str]]) -> dict[str, Tensor]:
    """Tensors ``images`` and ``names`` (the names joined by newlines, as bytes) of (name, member) pairs."""
    images, names, skipped = [], [], 0
    chosen = list(members)
    with Progress(f"decoding {asset}", len(chosen), unit="pictures") as bar:
        for number, (name, member) in enumerate(chosen):
            bar.update(number)
            image = decode_png(archive.read(member))
            if image is None:
                skipped += 1
                continue
            images.append(image)
            names.append(name)
    if not images:
        raise ManyoneError(f"{archive.path}: no picture could be decoded; remove the file and fetch it again")
    if skipped:
        print(f"{asset}: {skipped} pictures skipped (larger than {MAX_PIXELS} pixels, or damaged)", file=sys.stderr)
    pixels = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)
    return {"images": pixels, "names": torch.frombuffer(bytearray("\n".join(names).encode()), dtype=torch.uint8)}


def _pictures(tensors: dict[str, Tensor]) -> Pictures:
    return Pictures(tensors["images"], tuple(tensors["names"].numpy().tobytes().decode().split("\n")))


def clipart() -> Pictures:
    """All clip-art that is no link to another drawing; names are ``<category>/<folders>/<file>``."""

    def make() -> dict[str, Tensor]:
        archive = open_archive(get("openclipart"))
        members = [n for n in archive.names() if n.startswith(_CLIPART_ROOT) and n.endswith(".png")]
        return _decode_all("openclipart", archive, ((n.removeprefix(_CLIPART_ROOT), n) for n in members))

    return _pictures(decoded("openclipart", make, variant=f"{SIZE}px"))


def emoji(style: Literal["google", "twitter"]) -> Pictures:
    """Base emoji (no skin tones) of one drawing style; names are ``<category>/<subcategory>/<code points>``."""

    def make() -> dict[str, Tensor]:
        archive = open_archive(get(f"emoji-{style}"))
        table = json.loads(archive.read("package/emoji.json"))
        rows = sorted(
            (e for e in table if e[f"has_img_{style}"] and e["category"] in EMOJI), key=lambda e: e["unified"]
        )
        members = (
            (f"{e['category']}/{e['subcategory']}/{e['unified']}", f"package/img/{style}/64/{e['image']}") for e in rows
        )
        return _decode_all(f"emoji-{style}", archive, members)

    return _pictures(decoded(f"emoji-{style}", make, variant=f"{SIZE}px"))


def elpv() -> Pictures:
    """Photographs of solar cells; names are ``<defect probability>/<mono or poly>/<file>``."""

    def make() -> dict[str, Tensor]:
        archive = open_archive(get("elpv"))
        rows = [line.split() for line in archive.read("elpv_dataset/data/labels.csv").decode().splitlines() if line]
        members = ((f"{p}/{kind}/{file.rsplit('/', 1)[-1]}", f"elpv_dataset/data/{file}") for file, p, kind in rows)
        return _decode_all("elpv", archive, members)

    return _pictures(decoded("elpv", make, variant=f"{SIZE}px"))
