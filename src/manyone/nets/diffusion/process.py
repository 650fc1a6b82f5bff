"""The way from data to noise and what a network is asked for on the way back.

    x_n = sqrt(alpha_bar_n) x_0 + sqrt(1 - alpha_bar_n) eps                             Process.noisy
    a network predicts eps, x_0 or v = sqrt(alpha_bar_n) eps - sqrt(1 - alpha_bar_n) x_0    Process.target
    (Ho et al., arXiv 2006.11239, eq. 4 and 14; v: Salimans and Ho, arXiv 2202.00512, appendix D)

and, the other way round, x_0 and eps from what it gives (:meth:`Process.estimates`). Entries that are known (the first
state of a plan) are set to their values in x_n, and count for nothing in the loss.
Public names: :class:`Process`, :class:`Known`, :data:`Prediction`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.nets.diffusion.schedules import Schedule

Prediction = Literal["noise", "data", "velocity"]
Network = Callable[[Tensor, Tensor], Tensor]
"""(x_n [B, ...], n int64 [B]) -> as x_n."""


class Known(NamedTuple):
    """Entries of x that are given."""

    where: Tensor
    """bool, broadcastable to x: True where the entry is known."""
    values: Tensor
    """Broadcastable to x; read where known."""

    def put(self, x: Tensor) -> Tensor:
        """``x`` with the known entries set."""
        return torch.where(self.where, self.values, x)


class Process:
    """``schedule`` and what networks predict in it.

    ``clip`` bounds estimates of the data: a number c for [-c, c], or tensors (low, high) that broadcast to x.
    """

    def __init__(
        self,
        schedule: Schedule,
        prediction: Prediction = "noise",
        clip: float | tuple[Tensor, Tensor] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
    ) -> None:
        if prediction not in ("noise", "data", "velocity"):
            raise ManyoneError(f"prediction {prediction!r}: must be noise, data or velocity")
        if isinstance(clip, (int, float)) and clip <= 0:
            raise ManyoneError(f"clip = {clip}: must be above 0")
        self.schedule, self.prediction, self.clip = schedule, prediction, clip
        signal, spread = schedule.alpha_bar.sqrt(), (1 - schedule.alpha_bar).sqrt()
        self.signal, self.spread = signal.to(device, dtype), spread.to(device, dtype)
        """sqrt(alpha_bar) and sqrt(1 - alpha_bar), [N + 1] each"""
        self._numbers = list(zip(signal.tolist(), spread.tolist()))

    @property
    def steps(self) -> int:
        """N"""
        return self.schedule.steps

    def noisy(self, x0: Tensor, noise: Tensor, n: Tensor) -> Tensor:
        """x_n [B, ...] for data and noise [B, ...] and steps n int64 [B]."""
        return _rows(self.signal, n, x0) * x0 + _rows(self.spread, n, x0) * noise

    def target(self, x0: Tensor, noise: Tensor, n: Tensor) -> Tensor:
        """What the network should give at x_n."""
        if self.prediction == "noise":
            return noise
        if self.prediction == "data":
            return x0
        return _rows(self.signal, n, x0) * noise - _rows(self.spread, n, x0) * x0

    def estimates(self, x: Tensor, output: Tensor, n: Tensor | int) -> tuple[Tensor, Tensor]:
        """x_0, clipped, and the noise, both [B, ...], from the network's ``output`` at x_n = ``x``.

        The noise is the network's own, also where x_0 was clipped. ``n`` int64 [B], or one step for all.
        """
        if isinstance(n, int):
            data, noise = self._estimates(x, output, *self._numbers[n])
        else:
            signal, spread = _rows(self.signal, n, x), _rows(self.spread, n, x)
            if self.prediction == "noise":
                data, noise = (x - spread * output) / signal, output
            elif self.prediction == "data":
                data, noise = output, (x - signal * output) / spread
            else:
                data, noise = signal * x - spread * output, spread * x + signal * output
        return self.clipped(data), noise

    def _estimates(self, x: Tensor, output: Tensor, signal: float, spread: float) -> tuple[Tensor, Tensor]:
        """The same at one step for all rows: in a chain every pass over x counts."""
        if self.prediction == "noise":
            return torch.sub(x, output, alpha=spread) / signal, output
        if self.prediction == "data":
            return output, torch.sub(x, output, alpha=signal) / spread
        return torch.sub(x * signal, output, alpha=spread), torch.add(x * spread, output, alpha=signal)

    def clipped(self, data: Tensor) -> Tensor:
        """``data`` within ``clip``."""
        if self.clip is None:
            return data
        if isinstance(self.clip, tuple):
            return torch.clamp(data, *self.clip)
        return data.clamp(-self.clip, self.clip)

    def loss(self, network: Network, x0: Tensor, noise: Tensor, n: Tensor, known: Known | None = None) -> Tensor:
        """Mean squared error of ``network`` over the entries of [B, ...] that are not known."""
        x = self.noisy(x0, noise, n)
        x = x if known is None else known.put(x)
        error = network(x, n) - self.target(x0, noise, n)
        if known is None:
            return error.square().mean()
        free = (~known.where).sum() * (error.numel() / known.where.numel())
        return error.masked_fill(known.where, 0).square().sum() / free


def _rows(table: Tensor, n: Tensor, x: Tensor) -> Tensor:
    """Entries ``n`` of ``table``, shaped to multiply x [B, ...] (or [M, B, ...] with n [M, B])."""
    return table[n].view(*n.shape, *[1] * (x.ndim - n.ndim))
