"""What a minimax problem is: min over x, max over y of a loss on a batch; or two losses, one for each player.

Public: ``Problem``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor

from manyone.minimax.problems.constants import Exact
from manyone.minimax.problems.flat import FlatSpec
from manyone.weights.checkpoint import Weights

Batch = Mapping[str, Tensor]
Loss = Tensor | tuple[Tensor, Tensor]


class Problem(ABC):
    """Base of all problems. Override ``init`` and ``loss``; everything else is optional.

    Attributes:
        zero_sum: ``loss`` returns one scalar that x descends and y ascends; else a pair (loss_x, loss_y), each
            descended by its own player.
        stackable: ``loss`` also accepts a leading member axis on x, y, batch and noise, and returns [members]
            (hand-stacked layers: faster than vmap).
        uses_client: the batch carries ``client`` (int64, the client's number) and ``clients`` (int64, m).
        prox_at: the proximal maps act after every local ``"step"`` (and after mixing), or only after a ``"round"``'s
            mixing.
    """

    zero_sum: bool = True
    stackable: bool = False
    uses_client: bool = False
    prox_at: Literal["step", "round"] = "step"

    _spec: FlatSpec | None = None

    @abstractmethod
    def init(self, seed: int) -> tuple[Weights, Weights]:
        """The starting point (x, y), a fixed function of ``seed``; the same for all clients."""

    @abstractmethod
    def loss(self, x: Weights, y: Weights, batch: Batch, noise: Tensor | None = None) -> Loss:
        """The mean loss over a batch of one client: every batch entry is [b, ...], ``noise`` has ``noise_shape(b)``."""

    def prox_x(self, x: Tensor, eta: float | Tensor) -> Tensor:
        """Proximal map (or projection) of the flat x [..., p] for the step size ``eta`` (0 after mixing)."""
        return x

    def prox_y(self, y: Tensor, eta: float | Tensor) -> Tensor:
        """Proximal map (or projection) of the flat y [..., q]."""
        return y

    def noise_shape(self, batch: int) -> tuple[int, ...] | None:
        """Shape of the standard normal numbers that one loss evaluation on ``batch`` samples needs; None: none."""
        return None

    def stacked_gradient(self, z: Tensor, batch: Batch, noise: Tensor | None = None) -> Tensor | None:
        """Gradients [M, P] of every member's own loss at ``z`` [M, P] (loss_x for x, loss_y for y), or None.

        A closed form, when the problem has one. ``batch`` entries are [M, b, ...].
        """
        return None

    def prepare(self, fields: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """The samples' fields (name -> [N, ...]) as ``loss`` wants them; called once, before a run."""
        return fields

    def memory(self, members: int, dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
        """Per-member state that depends on the samples seen so far (tensors [members, ...]); mostly none."""
        return {}

    def observe(self, memory: dict[str, Tensor], batch: dict[str, Tensor], update: bool = True) -> dict[str, Tensor]:
        """The batch with what ``memory`` adds to it, after ``memory`` (changed in place) has seen it if ``update``."""
        return batch

    @property
    def exact(self) -> Exact:
        """What is computed in closed form on a data set: "nothing"; the primal "risk" (``value``, ``primal_risk``); or
        the "gaps" too (``pd_gap``, ``weak_pd_gap``, ``saddle``, ``least_risk``, ``constants``)."""
        return "nothing"

    @property
    def spec(self) -> FlatSpec:
        """The flat layout of (x, y)."""
        if self._spec is None:
            self._spec = FlatSpec.of(*self.init(0))
        return self._spec

    def start(self, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """``init(seed)`` as one flat vector [P]."""
        x, y = self.init(seed)
        return self.spec.pack(x, y).to(dtype)

    @property
    def has_prox(self) -> bool:
        """Whether any proximal map is not the identity."""
        kind = type(self)
        return kind.prox_x is not Problem.prox_x or kind.prox_y is not Problem.prox_y

    def project(self, z: Tensor, eta_x: float | Tensor = 0.0, eta_y: float | Tensor = 0.0) -> Tensor:
        """``z`` [..., P] after both proximal maps; ``z`` itself when there are none."""
        if not self.has_prox:
            return z
        p = self.spec.p
        return torch.cat([self.prox_x(z[..., :p], eta_x), self.prox_y(z[..., p:], eta_y)], -1)
