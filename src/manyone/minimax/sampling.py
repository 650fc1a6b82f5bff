"""Which samples a client draws: a pure function of (seed, replica, client, global step), never of a stream's past.

Counters go through Philox4x32-10 (Salmon et al., SC 2011), vectorised over clients and steps, so that a simulation, a
rank of a real run and a resumed run draw the same numbers whatever else they do.
Public: ``sample_indices``, ``sample_normals``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.randomness import Words, counter_words, seed_for


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
    return torch.from_numpy(((words * n[None, :, None]) >> np.uint64(32)).astype(np.int64))


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
    """32-bit words [steps, clients, count] of the counter (step, client, replica)."""
    if not 1 <= count <= 4 << 24 or not 0 <= stream < 256:
        raise ManyoneError(
            f"{count} draws a step (stream {stream}): from 1 to {4 << 24} in streams 0..255 are possible"
        )
    step = np.asarray(steps, dtype=np.uint64)[:, None]
    client = np.asarray(clients, dtype=np.uint64)[None, :]
    copy = np.broadcast_to(np.asarray(replica, dtype=np.uint64), (len(clients),))[None, :]
    return counter_words(key, (step, client, copy), count, stream)
