"""Reads a pickled numpy array without running what the pickle asks for.

A pickle may name any callable of any module; this reader knows four names (what numpy itself writes for an array) and
refuses every other one, so code in the file is never looked up, let alone called.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np

from manyone.errors import ManyoneError


def _reconstruct() -> Any:
    return np.empty(0).__reduce__()[0]


class _ArraysOnly(pickle.Unpickler):
    def __init__(self, stream: io.BytesIO, origin: str) -> None:
        super().__init__(stream)
        self.origin = origin

    def find_class(self, module: str, name: str) -> Any:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return _reconstruct()
        if (module, name) == ("numpy", "ndarray"):
            return np.ndarray
        if (module, name) == ("numpy", "dtype"):
            return np.dtype
        raise ManyoneError(
            f"{self.origin}: the pickle asks for {module}.{name}, which is refused: only plain arrays are read"
        )


def load_array(raw: bytes, origin: str) -> np.ndarray:
    """The array in the pickle ``raw``; ``origin`` names the file in errors. Object arrays are refused as well."""
    try:
        value = _ArraysOnly(io.BytesIO(raw), origin).load()
    except ManyoneError:
        raise
    except Exception as problem:
        # A damaged pickle may raise almost anything (EOFError, KeyError, UnicodeError, struct.error ...).
        raise ManyoneError(f"{origin}: not a readable pickle ({problem}); fetch the file again") from None
    if not isinstance(value, np.ndarray) or value.dtype.hasobject:
        raise ManyoneError(f"{origin}: the pickle holds a {type(value).__name__}, not a plain array")
    return value
