"""The exact k-th largest magnitude of data that does not fit into memory.

The bit pattern of a non-negative float32 orders like the number itself, so selection is counting in bins of bit
patterns: one pass finds the bin that holds the k-th value, the next one resolves that bin down to single values
(radix selection, no sort). A small sample beforehand usually puts the first pass straight onto a bracket narrow enough
to be resolved at once; a bracket that turns out not to hold the value costs one more pass, never exactness.
Public names: ``kth_largest_magnitude``, ``MagnitudeSelector``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable

import numpy as np
from torch import Tensor

_LARGEST = 0x7F7FFFFF  # bit pattern of the largest finite float32
_BINS = 1 << 18  # at most; 1 MB of counts per selector
_FIRST_SHIFT = 16  # the plain radix method's first pass: sign-free upper half of the pattern


class MagnitudeSelector:
    """Finds the ``k``-th largest (1-based) of ``total`` magnitudes that are shown in passes.

    Use: optionally ``sample`` part of the data and ``use_sample()``; then until ``done``: ``add`` all of it and
    ``end_pass()``. ``threshold`` is then the k-th largest magnitude. ``add`` may be called by several threads.
    """

    def __init__(self, k: int, total: int) -> None:
        if not 1 <= k <= total:
            raise ValueError(f"k must lie in 1..{total}, got {k}")
        self.k, self.total = k, total
        self.threshold: float | None = None
        self.passes = 0
        self._samples: list[np.ndarray] = []
        self._held: list[np.ndarray] = []
        self._held_length = 0
        self._bins: np.ndarray = np.zeros(0, np.int32)
        self._lock = threading.Lock()
        self._search(0, _LARGEST, _FIRST_SHIFT)

    @property
    def done(self) -> bool:
        """Whether ``threshold`` is known."""
        return self.threshold is not None

    def sample(self, magnitudes: Tensor) -> None:
        """Shows part of the data in advance (float32, non-negative)."""
        with self._lock:
            self._samples.append(magnitudes.reshape(-1).numpy().copy())

    def use_sample(self) -> None:
        """Starts with a bracket of about 1 % of the data around the sample's quantile."""
        values = np.concatenate(self._samples) if self._samples else np.zeros(0, np.float32)
        self._samples = []
        if len(values) < 1024:
            return
        rank = self.k / self.total
        slack = 0.002 + 6 * np.sqrt(rank * (1 - rank) / len(values))
        places = [(1 - min(1.0, rank + slack)) * (len(values) - 1), (1 - max(0.0, rank - slack)) * (len(values) - 1)]
        low, high = int(np.floor(places[0])), int(np.ceil(places[1]))
        part = np.partition(values, [low, high])
        lower = 0 if rank + slack >= 1 else int(part[low : low + 1].view(np.int32)[0])
        upper = _LARGEST if rank - slack <= 0 else int(part[high : high + 1].view(np.int32)[0])
        width = upper - lower + 1
        self._search(lower, upper, max(0, width.bit_length() - _BINS.bit_length()))

    def add(self, magnitudes: Tensor) -> None:
        """Counts one piece of the data: flat, contiguous, float32, non-negative, finite."""
        values = magnitudes.numpy()
        if self._low == 0 and self._high == _LARGEST:
            counts = np.bincount(values.view(np.int32) >> self._shift, minlength=len(self._bins))
            with self._lock:
                np.add(self._bins, counts, out=self._bins, casting="unsafe")
            return
        at_least = values >= self._lower
        above = values > self._upper
        over = int(np.count_nonzero(above))
        if self._low == self._high:  # one value, as the zeros of a sparse task vector are: counting it is enough
            count = int(np.count_nonzero(at_least)) - over
            with self._lock:
                self._above += over
                self._bins[0] += count
            return
        inside = (values[np.flatnonzero(at_least ^ above)].view(np.int32) - self._low) >> self._shift
        with self._lock:
            self._above += over
            self._held.append(inside)
            self._held_length += len(inside)
            if self._held_length >= len(self._bins):
                self._count_held()

    def end_pass(self) -> None:
        """Evaluates the counts: either ``threshold`` is known now or the next pass looks closer."""
        self.passes += 1
        self._count_held()
        position = self.k - self._above  # rank inside the bracket, 1 = its largest
        if not 1 <= position <= int(self._bins.sum(dtype=np.int64)):
            self._search(0, _LARGEST, _FIRST_SHIFT)
            return
        reached = np.cumsum(self._bins[::-1], dtype=np.int64)
        bin_ = len(self._bins) - 1 - int(np.searchsorted(reached, position))
        low = self._low + (bin_ << self._shift)
        if self._shift == 0:
            self.threshold = float(np.array([low], np.int32).view(np.float32)[0])
        else:
            high = min(low + (1 << self._shift) - 1, self._high)
            self._search(low, high, max(0, self._shift - (_BINS.bit_length() - 1)))

    def _count_held(self) -> None:
        """Bins are counted for about as many elements as there are bins: one pass over the bins a chunk would cost more
        than the chunk."""
        if self._held:
            counts = np.bincount(np.concatenate(self._held), minlength=len(self._bins))
            np.add(self._bins, counts, out=self._bins, casting="unsafe")
        self._held, self._held_length = [], 0

    def _search(self, low: int, high: int, shift: int) -> None:
        self._low, self._high, self._shift = low, high, shift
        self._lower, self._upper = np.array([low, high], np.int32).view(np.float32)
        self._above = 0
        self._held, self._held_length = [], 0
        self._bins = np.zeros(((high - low) >> shift) + 1, np.int32 if self.total < 1 << 31 else np.int64)


def kth_largest_magnitude(chunks: Callable[[], Iterable[Tensor]], k: int, *, sample_every: int = 64) -> float:
    """The ``k``-th largest |x| (k = 1: the largest) over all elements of the tensors that ``chunks()`` yields.

    ``chunks`` is called once per pass (two or three times) and must yield the same finite data each time. Memory: bins
    and a sample, independent of the length of the data.
    """
    total = 0
    samples = []
    for chunk in chunks():
        flat = chunk.detach().reshape(-1)
        total += flat.numel()
        samples.append(flat[:: sample_every if flat.numel() >= 1 << 16 else 1].float().abs())
    selector = MagnitudeSelector(k, total)
    for piece in samples:
        selector.sample(piece)
    selector.use_sample()
    while not selector.done:
        for chunk in chunks():
            selector.add(chunk.detach().reshape(-1).float().abs())
        selector.end_pass()
    assert selector.threshold is not None
    return selector.threshold
