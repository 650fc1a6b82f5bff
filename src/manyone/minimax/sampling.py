"""Which samples a client draws: a pure function of (seed, replica, client, global step), never of a stream's past.

Counters go through Philox4x32-10 (Salmon et al., SC 2011), vectorised over clients and steps, so that a simulation, a
rank of a real run and a resumed run draw the same numbers whatever else they do.
Public: ``sample_indices``, ``sample_normals``, ``philox4x32``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.randomness import seed_for

_MASK = np.uint64(0xFFFFFFFF)
_SHIFT = np.uint64(32)
_MULTIPLIERS = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)
Words = NDArray[np.uint64]


def philox4x32(counter: Sequence[ArrayLike], key: tuple[int, int]) -> tuple[Words, Words, Words, Words]:
    """Ten rounds of Philox: four arrays of 32-bit words (as uint64) for four arrays of 32-bit counters."""
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


def sample_indices(
    seed: int,
    replica: int | Sequence[int] | Tensor,
    clients: Sequence[int] | Tensor,
    steps: Sequence[int] | range,
    sizes: int | Sequence[int] | Tensor,
    batch: int,
    stream: int = 0,
) -> Tensor:
    """Sample positions, drawn uniformly with replacement: int64 [steps, clients, batch], entries in [0, n_i).

    ``replica`` and ``sizes`` are one number or one per client; ``steps`` are global local-step numbers; ``stream``
    tells apart the draws within one step (extragradient with two samples). The position is floor(word * n / 2^32):
    its deviation from uniform is below n / 2^32, and clients of unequal size stay coupled.
    """
    words = _words(seed_for(seed, "samples"), replica, clients, steps, batch, stream)
    n = np.broadcast_to(np.asarray(sizes, dtype=np.uint64), (len(clients),))
    if (n < 1).any() or (n > 0xFFFFFFFF).any():
        raise ManyoneError(f"client {int(clients[int(n.argmin())])} has {int(n.min())} samples: each needs at least 1")
    return torch.from_numpy(((words * n[None, :, None]) >> _SHIFT).astype(np.int64))


def sample_normals(
    seed: int,
    replica: int | Sequence[int] | Tensor,
    clients: Sequence[int] | Tensor,
    steps: Sequence[int] | range,
    shape: Sequence[int],
    stream: int = 0,
) -> Tensor:
    """Independent standard normal numbers, float64 [steps, clients, *shape] (Box-Muller on 32-bit words)."""
    count = math.prod(shape)
    pairs = (count + 1) // 2
    words = _words(seed_for(seed, "normals"), replica, clients, steps, 2 * pairs, stream).astype(np.float64)
    radius = np.sqrt(-2.0 * np.log((words[..., :pairs] + 1.0) / 4294967296.0))
    angle = (2.0 * np.pi / 4294967296.0) * words[..., pairs:]
    normals = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)[..., :count]
    return torch.from_numpy(np.ascontiguousarray(normals)).view(len(steps), len(clients), *shape)


def _words(
    key: int,
    replica: int | Sequence[int] | Tensor,
    clients: Sequence[int] | Tensor,
    steps: Sequence[int] | range,
    count: int,
    stream: int,
) -> Words:
    """32-bit words [steps, clients, count]; counter = (step, client, replica, stream and block of four)."""
    blocks = (count + 3) // 4
    if count < 1 or blocks > 1 << 24 or not 0 <= stream < 256:
        raise ManyoneError(
            f"{count} draws a step (stream {stream}): from 1 to {4 << 24} in streams 0..255 are possible"
        )
    step = np.asarray(steps, dtype=np.uint64)[:, None, None]
    client = np.asarray(clients, dtype=np.uint64)[None, :, None]
    copy = np.broadcast_to(np.asarray(replica, dtype=np.uint64), (len(clients),))[None, :, None]
    block = np.arange(blocks, dtype=np.uint64)[None, None, :] | np.uint64(stream << 24)
    grid = np.broadcast_arrays(step, client, copy, block)
    words = philox4x32(grid, (key & 0xFFFFFFFF, key >> 32))
    return np.stack(words, axis=-1).reshape(len(steps), len(clients), 4 * blocks)[..., :count]
