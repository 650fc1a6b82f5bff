"""What .npz files claim is compared with what they hold before NumPy makes arrays of that size.

Public name: ``check_npz``.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from pathlib import Path

import numpy as np

from manyone.engine.arrays import DAMAGED
from manyone.errors import ManyoneError

_SMALL = 64 << 20  # bytes that may be packed as tightly as deflate packs zeros
_RATIO = 100  # of larger arrays: data of an environment pack far less


def check_npz(path: Path) -> None:
    """Raises ``ManyoneError`` where an array of the archive ``path`` is not as large as its header says, or a bomb."""
    try:
        with zipfile.ZipFile(path) as archive:
            for entry in archive.infolist():
                if entry.file_size > _SMALL and entry.file_size > _RATIO * entry.compress_size:
                    size = f"{entry.file_size / 1e9:.3g} GB of {entry.compress_size / 1e6:.3g} MB"
                    raise ManyoneError(f"{path}: {entry.filename} unpacks to {size}: fetch or make it again")
                if entry.filename.endswith(".npy"):
                    _check_array(path, archive, entry)
    except (OSError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError) as problem:
        # RuntimeError: zipfile's answer to a flag that says that a member is encrypted
        raise ManyoneError(f"{path}: not a readable .npz file ({problem}); fetch it again") from None


def _check_array(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    with archive.open(entry) as file:
        try:
            version = np.lib.format.read_magic(file)
            shape, _, kind = read.get(version, np.lib.format.read_array_header_2_0)(file)
        except (*DAMAGED, KeyError):
            return  # no array of numbers: NumPy says so itself, in words, when it is asked for
    if math.prod(shape) * kind.itemsize > entry.file_size:
        claimed = f"{math.prod(shape) * kind.itemsize / 1e9:.3g} GB"
        raise ManyoneError(f"{path}: {entry.filename} says it has {claimed}, the file holds {entry.file_size} bytes")
