"""Tensors of a base with a change of an adapter, formed slice by slice while they are read.

LoRA (Hu et al., 2021), equation 3: W + s B A. DoRA (Liu et al., 2024), equation 5: m (W + s B A) / ||W + s B A||, the
norm over the inputs of each output. Rows of trained tokens replace those of an embedding.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyone.weights.checkpoint import Entry
from manyone.weights.tensor_info import TensorInfo, stored_form

_ELEMENTS = 1 << 18  # read at a time for the norms


class LowRank(NamedTuple):
    """``scale`` * ``left`` @ ``right``, [experts, rows, r] and [experts, r, columns]; 1 expert for all but stacks."""

    left: Tensor
    right: Tensor
    scale: float = 1.0

    @classmethod
    def of(cls, left: Tensor, right: Tensor, scale: float = 1.0, transposed: bool = False) -> LowRank:
        """That of one matrix from [rows, r] and [r, columns], or its transpose."""
        if transposed:
            left, right = right.T, left.T
        return cls(left.float().contiguous()[None], right.float().contiguous()[None], scale)

    @property
    def columns(self) -> int:
        """Length of a row."""
        return self.right.shape[2]

    def slice(self, start: int, stop: int) -> Tensor:
        """Elements ``start`` to ``stop`` of the product in row-major order."""
        rows, columns = self.left.shape[1], self.columns
        if start >= stop:
            return self.left.new_empty(0)
        first, last = start // columns, -(-stop // columns)
        pieces = [
            self.left[e, max(first - e * rows, 0) : min(last - e * rows, rows)] @ self.right[e]
            for e in range(first // rows, -(-last // rows))
        ]
        product = (pieces[0] if len(pieces) == 1 else torch.cat(pieces)).view(-1)
        return self.scale * product[start - first * columns : stop - first * columns]


class LoraEntry:
    """W + s B A, or with ``magnitude`` m (W + s B A) / ||W + s B A||.

    ``taken`` gives what peft takes out of W when it sets the adapter up (see :mod:`manyone.weights.lora.start`); that
    and the norms need the whole tensor: they are computed once, when the first slice is read. ``by_column``: the
    outputs are the columns of the stored matrix (fan_in_fan_out, embeddings), not its rows.
    """

    def __init__(
        self,
        base: Entry,
        delta: LowRank,
        *,
        taken: Callable[[], LowRank] | None = None,
        magnitude: Tensor | None = None,
        by_column: bool = False,
    ) -> None:
        self.info: TensorInfo = base.info
        self._base, self._delta, self._find_taken = base, delta, taken
        self._magnitude = None if magnitude is None else magnitude.float()
        self._by_column = by_column
        self._taken: LowRank | None = None
        self._factor: Tensor | None = None
        self._lock = threading.Lock()

    def flat(self, start: int, stop: int) -> Tensor:
        if self._find_taken is None and self._magnitude is None:
            return self._changed(start, stop)
        with self._lock:
            if self._find_taken is not None and self._taken is None:
                self._taken = self._find_taken()
            if self._magnitude is not None and self._factor is None:
                self._factor = self._magnitude / self._norms()
        values = self._changed(start, stop)
        return values if self._factor is None else values * self._along(self._factor, start, stop)

    def array(self, start: int, stop: int) -> np.ndarray:
        return self.flat(start, stop).numpy()

    def _changed(self, start: int, stop: int) -> Tensor:
        """W + s B A, in float32 (float64 where W is)."""
        values = self._base.flat(start, stop)
        if values.dtype != torch.float64:
            values = values.float()
        if self._taken is not None:  # peft trains beside the rounded rest
            values = (values - self._taken.slice(start, stop)).to(self.info.dtype.torch).to(values.dtype)
        return values + self._delta.slice(start, stop)

    def _along(self, factor: Tensor, start: int, stop: int) -> Tensor:
        """``factor`` (one value per output) beside elements ``start`` to ``stop``."""
        columns = self._delta.columns
        first, last = start // columns, -(-stop // columns)
        repeated = factor.repeat(last - first) if self._by_column else factor[first:last].repeat_interleave(columns)
        return repeated[start - first * columns : stop - first * columns]

    def _norms(self) -> Tensor:
        """||W + s B A|| of every output, from chunks of whole rows."""
        columns = self._delta.columns
        rows = self.info.numel // columns
        step = max(1, _ELEMENTS // columns)
        squares = torch.zeros(columns if self._by_column else rows, dtype=torch.float64)
        for first in range(0, rows, step):
            last = min(first + step, rows)
            square = self._changed(first * columns, last * columns).view(-1, columns).double().square()
            if self._by_column:
                squares += square.sum(0)
            else:
                squares[first:last] = square.sum(1)
        return squares.sqrt().to(torch.float64 if self.info.dtype.code == "F64" else torch.float32)


class RowsEntry:
    """A matrix with rows ``indices`` replaced by ``rows`` [len(indices), columns]."""

    def __init__(self, base: Entry, indices: Sequence[int], rows: Tensor) -> None:
        self.info: TensorInfo = base.info
        self._base = base
        self._rows = rows.to(base.info.dtype.torch)
        self._places = sorted({row: place for place, row in enumerate(indices)}.items())
        self._starts = np.array([row for row, _ in self._places])

    def flat(self, start: int, stop: int) -> Tensor:
        values = self._base.flat(start, stop).clone()
        columns = self.info.shape[1]
        first, last = np.searchsorted(self._starts, [start // columns, -(-stop // columns)])
        for row, place in self._places[first:last]:
            low, high = max(start, row * columns), min(stop, (row + 1) * columns)
            values[low - start : high - start] = self._rows[place, low - row * columns : high - row * columns].to(
                values.dtype
            )
        return values

    def array(self, start: int, stop: int) -> np.ndarray:
        return stored_form(self.flat(start, stop))
