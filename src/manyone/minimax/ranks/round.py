"""A round of Distributed-SGDA as one rank of a process group sees it.

Public: ``RankRound``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.minimax.layout import Point
from manyone.minimax.local import LocalSteps
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.mixing.participation import normalise_steps
from manyone.minimax.mixing.rounds import Round
from manyone.minimax.ranks.exchange import Channel, RankLayout, RankMixer


class RankRound(Round):
    """The rounds of one run as one rank sees them: own rows [runs, own, P], masks and weights over all m clients."""

    def __init__(
        self, point: Point, sizes: Tensor, local: LocalSteps, method: DistributedSGDA, replica: list[int],
        layout: RankLayout, channel: Channel,
    ) -> None:  # fmt: skip
        own = layout.rows(channel.rank)
        self.own, self.width, self.sizes, self.layout = slice(own.start, own.stop), len(own), sizes, layout
        super().__init__(point, slice(0, len(replica) * len(own)), local, method, replica)
        self.alive: Tensor | None = None
        self.connect(channel)

    def connect(self, channel: Channel, alive: Tensor | None = None) -> None:
        """Talks through ``channel`` from now on; ``alive`` (bool [m]): the clients whose ranks are left."""
        self.channel, self.alive = channel, alive
        self.mixer = RankMixer(self.point.topology, self.layout, channel, self.local.dtype, alive)  # type: ignore[assignment]

    @property
    def z(self) -> Tensor:
        """The state of the own clients, a view [runs, own, P]."""
        return self.local.z[self.rows].view(self.runs, self.width, -1)

    def mask(self, s: int) -> Tensor | None:
        """Which own rows make local step ``s``; None: all."""
        full = super().mask(s)
        return None if full is None else full.view(self.runs, self.m)[:, self.own].flatten()

    def _draw(self, t: int) -> None:
        super()._draw(t)
        if self.alive is not None and self.up is not None and self.counts is not None:
            alive = self.alive.to(self.up.device)
            left = self.up & alive
            self.up = torch.where(left.any(-1, keepdim=True), left, alive)

    def _normalised(self, start: Tensor, z: Tensor, counts: Tensor) -> Tensor:
        """The displacements scaled as ``normalise_steps`` would scale those of all m clients."""
        nothing = torch.zeros(self.runs, self.m, 1, dtype=z.dtype, device=z.device)
        scale = normalise_steps(nothing, nothing + 1, counts, self.up)
        return start + scale[:, self.own] * (z - start)

    def _combine(self, z: Tensor, t: int) -> Tensor:
        if not self.method.local_y:
            return super()._combine(z, t)
        p = self.local.problem.spec.p  # a local y does not travel
        return torch.cat([super()._combine(z[..., :p].contiguous(), t), z[..., p:]], -1)

    def _average_rows(self, z: Tensor) -> Tensor:
        weighted = self.method.weighting == "average"
        if self.up is None and not weighted and self.alive is None:
            return (self.channel.sum(z.sum(1, keepdim=True)) / self.m).expand_as(z)
        weight = torch.ones(self.runs, self.m, dtype=z.dtype, device=z.device)
        if weighted:
            weight = weight * self.sizes.to(z.device, z.dtype)
        for present in (self.up, self.alive):
            if present is not None:
                weight = weight * present.to(z.device)
        weight = weight / weight.sum(-1, keepdim=True)
        return self.channel.sum(weight[:, None, self.own] @ z).expand_as(z)

    def _average(self, values: Tensor) -> Tensor:
        return self._average_rows(values.view(self.runs, self.width, -1)).reshape(values.shape)
