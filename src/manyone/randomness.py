"""Counter-based randomness: every draw depends on what it is for, never on what was drawn before.

A client, task, worker, seed or step names its own stream, so the number of workers changes nothing and a resumed
run draws what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def seed_for(*names: str | int) -> int:
    """A 63-bit seed that is a fixed function of ``names``, e.g. ``seed_for(seed, "adapt", task, epoch)``."""
    text = "\x1f".join(f"{type(n).__name__}:{n}" for n in names)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def generator_for(*names: str | int, device: str | torch.device = "cpu") -> torch.Generator:
    """A fresh ``torch.Generator`` at the start of the stream called ``names``."""
    return torch.Generator(device=device).manual_seed(seed_for(*names))


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
        epoch, position = divmod(k, self.per_epoch)
        if self._cached is None or self._cached[0] != epoch:
            order = torch.randperm(self.length, generator=generator_for(*self.names, "epoch", epoch))
            self._cached = (epoch, order)
        return self._cached[1][position * self.batch_size : (position + 1) * self.batch_size]
