"""Who takes part in a round, who fails, and who does fewer local steps.

All draws are functions of (seed, replica, round), so every rank of a real run knows them without asking.
Public: ``Participation``, ``Uptime``, ``RandomFailures``, ``FailureTrace``, ``StepCounts``, ``RandomStepCounts``,
``normalise_steps``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.randomness import generator_for

StepCounts = Callable[[int, int, int], Tensor]
"""Round, number of clients, replica -> local steps of every client, int64 [m]."""


class Uptime(Protocol):
    """Who is up in a round."""

    def alive(self, t: int, m: int, replica: int = 0) -> Tensor: ...


@dataclass(frozen=True)
class Participation:
    """Server form: in every round ``count`` clients, or a ``fraction`` of them, drawn without replacement."""

    count: int | None = None
    fraction: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if (self.count is None) == (self.fraction is None):
            raise ManyoneError("participation: give count or fraction, one of them")
        if self.fraction is not None and not 0 < self.fraction <= 1:
            raise ManyoneError(f"participation: fraction = {self.fraction}, must be in (0, 1]")

    def taking_part(self, t: int, m: int, replica: int = 0) -> Tensor:
        """bool [m]: the clients A_t of round ``t``."""
        count = self.count if self.count is not None else max(1, round(float(self.fraction or 0) * m))
        if not 1 <= count <= m:
            raise ManyoneError(f"participation: count = {count} of {m} clients, must be from 1 to {m}")
        order = torch.randperm(m, generator=generator_for(self.seed, "participation", replica, t))
        mask = torch.zeros(m, dtype=torch.bool)
        mask[order[:count]] = True
        return mask


@dataclass(frozen=True)
class RandomFailures:
    """Every client is down in a round with ``probability``, independently; never all of them at once."""

    probability: float
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.probability < 1:
            raise ManyoneError(f"failures: probability = {self.probability}, must be in [0, 1)")

    def alive(self, t: int, m: int, replica: int = 0) -> Tensor:
        """bool [m]: the clients that are up in round ``t``."""
        draws = torch.rand(m, generator=generator_for(self.seed, "failures", replica, t), dtype=torch.float64)
        mask = draws >= self.probability
        mask[draws.argmax()] = True
        return mask


@dataclass(frozen=True)
class FailureTrace:
    """A replayable record: round -> the clients that are down in it."""

    down: Mapping[int, Sequence[int]] = field(default_factory=dict)

    def alive(self, t: int, m: int, replica: int = 0) -> Tensor:
        """bool [m]: the clients that are up in round ``t``."""
        mask = torch.ones(m, dtype=torch.bool)
        for client in self.down.get(t, ()):
            if not 0 <= client < m:
                raise ManyoneError(f"failures: round {t} names client {client} of {m}")
            mask[client] = False
        if not mask.any():
            raise ManyoneError(f"failures: no client is up in round {t}")
        return mask


@dataclass(frozen=True)
class RandomStepCounts:
    """Stragglers: client i does K_i local steps, uniform in [low, high], drawn anew every round."""

    low: int
    high: int
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise ManyoneError(f"step counts from {self.low} to {self.high}: need 1 <= low <= high")

    def __call__(self, t: int, m: int, replica: int = 0) -> Tensor:
        """int64 [m]."""
        source = generator_for(self.seed, "step counts", replica, t)
        return torch.randint(self.low, self.high + 1, (m,), generator=source)


def normalise_steps(start: Tensor, z: Tensor, counts: Tensor, taking_part: Tensor | None = None) -> Tensor:
    """z^t + Keff (z_i - z^t) / K_i for [..., m, P] and counts K_i [..., m] (Sharma et al., TMLR 2023).

    Averaging the result optimises the clients' uniform (or n_i-weighted) objective although they did unequal numbers
    of steps. Keff is the mean K_i over the clients taking part. Clients with K_i = 0 stay.
    """
    counted = counts > 0 if taking_part is None else (counts > 0) & taking_part
    k = counts.to(z.dtype)
    keff = (k * counted).sum(-1, keepdim=True) / counted.sum(-1, keepdim=True).clamp_min(1)
    scale = torch.where(counted, keff / k.clamp_min(1), torch.zeros_like(k))
    return start + scale[..., None] * (z - start)
