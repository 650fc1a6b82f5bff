"""Memory that a thread of a streaming merge uses again for every chunk."""

from __future__ import annotations

from typing import Any

import numpy as np

from manyone.merging.static.plan import CHUNK
from manyone.weights.checkpoint import Checkpoint


class Buffers:
    """Re-used buffers of one thread, by name; they hold one chunk each."""

    def __init__(self) -> None:
        self._kept: dict[tuple[str, np.dtype[Any]], np.ndarray] = {}

    def get(self, name: str, length: int, dtype: np.dtype[Any]) -> np.ndarray:
        """A buffer with undefined content."""
        key = (name, dtype)
        if key not in self._kept:
            self._kept[key] = np.empty(CHUNK, dtype=dtype)
        return self._kept[key][:length]

    def rows(self, count: int, length: int, dtype: np.dtype[Any]) -> np.ndarray:
        """``count`` rows of ``length`` elements each, with undefined content."""
        key = (f"{count} rows", dtype)
        if key not in self._kept:
            self._kept[key] = np.empty((count, CHUNK), dtype=dtype)
        return self._kept[key][:, :length]

    def read(self, model: Checkpoint, name: str, start: int, stop: int, dtype: np.dtype[Any], key: str) -> np.ndarray:
        """A slice of a model as ``dtype`` (a view of the file where it is stored so; not to be written to)."""
        return model.floats(name, start, stop, self.get(key, stop - start, dtype))
