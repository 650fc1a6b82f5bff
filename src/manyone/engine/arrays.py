"""NumPy files, opened so that damage is one kind of exception. Public name: :func:`load_npy`."""

from __future__ import annotations

import os
import tokenize
from typing import Literal

import numpy as np

DAMAGED = (OSError, ValueError, EOFError, TypeError, SyntaxError, MemoryError, RecursionError, OverflowError,
           tokenize.TokenError)  # fmt: skip
"""What NumPy raises about a damaged file: its header is an expression of Python, which it tokenises."""


def load_npy(path: str | os.PathLike[str], mode: Literal["r"] | None = None) -> np.ndarray:
    """The array of an ``.npy`` file (``mode`` "r": memory-mapped); ``ValueError`` for anything else.

    The file is mapped first, which fails where its header claims more than it holds.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except DAMAGED as problem:
        words = "no array of numbers" if "pickle" in str(problem) else " ".join(str(problem).split())
        raise ValueError(f"{words:.200}") from None
    if not isinstance(found, np.ndarray):
        raise ValueError("an archive, not one array")
    return found if mode else np.array(found)
