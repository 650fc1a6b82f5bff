"""Counter-based randomness: every draw depends on what it is for, never on what was drawn before.

A client, task, worker, seed or step names its own stream, so the number of workers changes nothing and a resumed
run draws what the uninterrupted one would have drawn. PyTorch is imported by what draws with it: who only needs seeds
and words (intervals on a report's page) does without.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    import torch
    from torch import Tensor

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
Words = NDArray[np.uint64]


def seed_for(*names: str | int) -> int:
    """A 63-bit seed that is a fixed function of ``names``, e.g. ``seed_for(seed, "adapt", task, epoch)``."""
    text = "\x1f".join(f"{type(n).__name__}:{n}" for n in names)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator_for(*names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh ``torch.Generator`` at the start of the stream called ``names``."""
    import torch

    return torch.Generator(device=device).manual_seed(seed_for(*names))


def philox4x32(counter: Sequence[ArrayLike], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Ten rounds of Philox4x32 (Salmon et al., SC 2011): four arrays of 32-bit words (as uint64) for four arrays of
    32-bit counters."""
    c0, c1, c2, c3 = (np.asarray(c, dtype=np.uint64) for c in counter)
    k0, k1 = key
    for _ in range(10):
        first, second = _MULTIPLIERS[0] * c0, _MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (
            (second >> _SHIFT) ^ c1 ^ np.uint64(k0),
            second & _MASK,
            (first >> _SHIFT) ^ c3 ^ np.uint64(k1),
            first & _MASK,
        )
        k0, k1 = (k0 + _WEYL[0]) & 0xFFFFFFFF, (k1 + _WEYL[1]) & 0xFFFFFFFF
    return c0, c1, c2, c3


def counter_words(key: int, counters: Sequence[ArrayLike], count: int, stream: int = 0) -> Words:
    """``count`` 32-bit words (as uint64, shape [*S, count]) for each entry of three 32-bit counters of joint shape S.

    The draw is a pure function of (key, the entry's three counters, stream, position): a vectorised stand-in for one
    generator per entry. ``key`` has up to 64 bits (from ``seed_for``); ``stream`` < 256 tells apart several draws of
    one entry; ``count`` is at most 4 * 2^24.
    """
    blocks = (count + 3) // 4
    if count < 1 or blocks > 1 << 24 or not 0 <= stream < 256 or len(counters) != 3:
        raise ValueError(f"{len(counters)} counters, {count} words, stream {stream}: needs 3, 1..2^26 and 0..255")
    block = np.arange(blocks, dtype=np.uint64) | np.uint64(stream << 24)
    grid = np.broadcast_arrays(*(np.asarray(c, dtype=np.uint64)[..., None] for c in counters), block)
    words = np.stack(philox4x32(grid, (key & 0xFFFFFFFF, key >> 32)), axis=-1)
    return words.reshape(*words.shape[:-2], 4 * blocks)[..., :count]


class BatchOrder:
    """Shuffled mini-batches without state: ``order.batch(k)`` is batch ``k`` of an endless, reshuffled pass.

    Every epoch is a permutation drawn from (names, epoch); the last batch of an epoch is dropped when it is short,
    unless the data set is smaller than one batch, in which case every batch is a whole permutation.
    """

    def __init__(self, length: int, batch_size: int, *names: str | int) -> None:
        if length < 1 or batch_size < 1:
            raise ValueError(f"BatchOrder needs length >= 1 and batch_size >= 1, got {length} and {batch_size}")
        self.length, self.batch_size, self.names = length, min(batch_size, length), names
        self.per_epoch = length // self.batch_size
        self._cached: tuple[int, Tensor] | None = None

    def batch(self, k: int) -> Tensor:
        """Indices of batch ``k`` (int64, shape [batch_size])."""
        import torch

        epoch, position = divmod(k, self.per_epoch)
        if self._cached is None or self._cached[0] != epoch:
            order = torch.randperm(self.length, generator=generator_for(*self.names, "epoch", epoch))
            self._cached = (epoch, order)
        return self._cached[1][position * self.batch_size : (position + 1) * self.batch_size]
