"""Dropout whose masks are a fixed function of named streams, for one network or a stack of them.

PyTorch's own draws from the global generator, which is no function of (seed, step): a resumed run and a member of a
stack would see other masks. Public names: :class:`DropoutNoise`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from manyone.randomness import generator_for


class DropoutNoise:
    """Dropout masks as a fixed function of named streams: one generator for each member of the data.

    ``names`` are the streams' names, e.g. ``[(seed, "dropout", step), ...]``; what a member draws does not depend on
    the others, so a member of a stack sees what it would see alone. One draw per step covers all dropout sites; the
    probability is rounded to a multiple of 2^-16.
    """

    def __init__(self, probability: float, names: Sequence[tuple[str | int, ...]], device: torch.device) -> None:
        self.probability, self.names, self.device = probability, names, device
        self._keep: Tensor | None = None
        self._used = 0

    def start(self, width: int) -> None:
        """Draws ``width`` numbers for each member."""
        words = torch.empty(len(self.names), -(-width // 4), dtype=torch.int64, device=self.device)
        for row, name in zip(words, self.names):
            row.random_(-(2**63), None, generator=generator_for(*name, device=self.device))
        self._keep = words.view(torch.int16) >= round(self.probability * 65536) - 32768
        self._used = 0

    def drop(self, x: Tensor) -> Tensor:
        """``x`` [members, ...] (or [members x batch, ...]) with dropped entries zero and the others scaled up."""
        assert self._keep is not None
        count = x.numel() // len(self._keep)
        keep = self._keep[:, self._used : self._used + count]
        self._used += count
        return x * keep.to(x.dtype).mul_(1 / (1 - self.probability)).view(x.shape)
