"""Applying mixing matrices to stacked states: Z [runs, m, P] <- W Z.

Public: ``Mixer``, ``push_sum``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.minimax.mixing.topology import Topology, repair


class Mixer:
    """The matrices of one topology for ``m`` clients, in the form that is cheapest to apply."""

    def __init__(self, topology: Topology, m: int, dtype: torch.dtype, device: torch.device | str) -> None:
        self.topology, self.m, self.dtype, self.device = topology, m, dtype, device
        self._plans: dict[int, tuple[Tensor, Tensor | None]] = {}
        self._period = topology.period(m)

    def __call__(self, z: Tensor, t: int, up: Tensor | None = None, by: str = "rows") -> Tensor:
        """W(t) z for ``z`` [runs, m, P]; with ``up`` (bool [runs, m]) the matrices repaired for these clients."""
        if up is not None and not bool(up.all()):
            w = repair(self.topology.weights(t, self.m).to(self.device), up, by)
            return w.to(self.dtype) @ z
        if self.topology.averages(t, self.m):
            return z.mean(1, keepdim=True).expand_as(z)
        weights, neighbours = self._plan(t)
        if neighbours is None:
            return weights @ z
        mixed = weights[:, :1] * z[:, neighbours[:, 0]]
        for k in range(1, weights.shape[1]):
            mixed.addcmul_(weights[:, k : k + 1], z[:, neighbours[:, k]])
        return mixed

    def _plan(self, t: int) -> tuple[Tensor, Tensor | None]:
        """(W, None), or for sparse W the weights and numbers [m, width] of the senders, ascending."""
        key = t if self._period is None else t % self._period
        plan = self._plans.get(key)
        if plan is None:
            w = self.topology.weights(t, self.m)
            width = int((w > 0).sum(1).max())
            if 8 * width <= self.m:
                order = (w > 0).to(torch.int8).sort(dim=1, descending=True, stable=True).indices[:, :width]
                plan = w.gather(1, order).to(self.device, self.dtype), order.to(self.device)
            else:
                plan = w.to(self.device, self.dtype), None
            if self._period is None:
                self._plans.clear()
            self._plans[key] = plan
        return plan


def push_sum(mixer: Mixer, start: Tensor, z: Tensor, mass: Tensor, t: int, up: Tensor | None) -> tuple[Tensor, Tensor]:
    """One round of push-sum: numerators and masses are pushed with column-stochastic weights; z = numerator / mass.

    ``start`` and ``z`` [runs, m, P] are the estimates before and after the local steps, whose displacement enters the
    numerator with weight 1 (stochastic gradient push, Assran et al. 2019); ``mass`` [runs, m, 1], all 1 at first.
    Sums of numerators and of masses are conserved on directed graphs and under failures. Returns (z, mass).
    """
    numerator = torch.cat([mass * start + (z - start), mass], -1)
    pushed = mixer(numerator, t, up, by="columns")
    return pushed[..., :-1] / pushed[..., -1:], pushed[..., -1:].clone()
