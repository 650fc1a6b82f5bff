"""Decoded arrays in the cache: what takes seconds to decode is decoded once, under a lock, and kept as safetensors."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from manyone.assets.cache import cache_folder, locked, workspace
from manyone.assets.fetch import get
from manyone.assets.registry import ASSETS
from manyone.engine.files import writing
from manyone.engine.tensors import save_tensors

VERSION = 1
"""Raised whenever a decoder changes what it makes, so that old files are not read."""


def decoded(asset: str, make: Callable[[], dict[str, Tensor]], *, variant: str = "") -> dict[str, Tensor]:
    """``make()``, or what an earlier call made from the same bytes.

    ``asset`` is a record's name, or any other name for what is drawn without a package; ``variant`` separates several
    decodings of it.
    """
    path = decoded_path(asset, variant)
    with locked(f"decode-{path.stem}"):
        if path.is_file():
            try:
                return load_file(path)
            except SafetensorError:
                path.unlink()  # cut short by a full disk or a damaged file system: decode again
        if asset in ASSETS:
            get(asset)  # first, so that a source that does not answer is not announced as being decoded
        print(f"decoding {asset} {variant}".rstrip() + ", once", file=sys.stderr)
        tensors = make()
        with writing(path), workspace() as folder:
            save_tensors({k: v.contiguous() for k, v in tensors.items()}, folder / "decoded")
            (folder / "decoded").rename(path)
    return tensors


def decoded_path(asset: str, variant: str = "") -> Path:
    """The file in the cache; its name changes with the package's sum and :data:`VERSION`."""
    origin = ASSETS[asset].sha256 if asset in ASSETS else asset
    key = hashlib.sha256(f"{origin} {variant} {VERSION}".encode()).hexdigest()[:12]
    return cache_folder("decoded") / f"{asset}-{key}.safetensors"
