"""The ends of a round: who takes part, how the clients' states are combined, what happens to momentum.

Public: ``Round``.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.layout import Point
from manyone.minimax.local import LocalSteps
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.mixing.mixture import Mixer, push_sum
from manyone.minimax.mixing.participation import normalise_steps


class Round:
    """The rounds of one grid point: a contiguous range of rows of ``local``, seen as [runs, m, P]."""

    def __init__(
        self, point: Point, rows: slice, local: LocalSteps, method: DistributedSGDA, replica: list[int]
    ) -> None:
        self.point, self.rows, self.local, self.method, self.replica = point, rows, local, method, replica
        self.m, self.runs = point.clients, len(replica)
        method.check(point.topology, self.m, local.plug_in.needs_average)
        self.mixer = Mixer(point.topology, self.m, local.dtype, local.device)
        self.start: Tensor | None = None
        self.up: Tensor | None = None
        self.counts: Tensor | None = None
        self.velocity = torch.zeros_like(self.z) if method.outer is not None else None
        self.mass = torch.ones_like(self.z[..., :1]) if method.push_sum else None

    @property
    def z(self) -> Tensor:
        """The state of these clients, a view [runs, m, P]."""
        return self.local.z[self.rows].view(self.runs, self.m, -1)

    def norm(self) -> Tensor:
        """The largest ||z_i|| of every run, [runs]."""
        return torch.linalg.vector_norm(self.z, dim=-1).amax(-1)

    def begin_if_due(self, s: int) -> None:
        """Starts a round if one begins at global step ``s``."""
        ends = self.point.ends
        t = bisect_left(ends, s + 1)  # the round that step s belongs to
        if s != (ends[t - 1] if t else 0):
            return
        self._draw(t)
        if self.method.needs_start:
            self.start = self.z.clone()
        self.local.plug_in.begin_round(self.local.view(s, self.rows, self._average), t)

    def mask(self, s: int) -> Tensor | None:
        """Which rows (bool [rows]) make local step ``s``; None: all."""
        if self.counts is None:
            return None
        t = bisect_left(self.point.ends, s + 1)
        done = s - (self.point.ends[t - 1] if t else 0)
        return (self.counts > done).flatten()

    def end_if_due(self, s: int) -> int | None:
        """Mixes if a round ends after ``s`` steps; its number, or None."""
        t = bisect_left(self.point.ends, s)
        if t == len(self.point.ends) or self.point.ends[t] != s:
            return None
        mixed = self._mixed(t)
        if self.method.outer is not None and self.start is not None and self.velocity is not None:
            mixed = self.method.outer(self.start, mixed, self.velocity)
        if self.method.local_y:
            p = self.local.problem.spec.p
            mixed = torch.cat([mixed[..., :p], self.z[..., p:]], -1)
        self.z.copy_(self.local.problem.project(mixed))
        self._carry()
        return t

    def state_dict(self) -> dict[str, Any]:
        """What the rest of a round and the next ones depend on."""
        values = {"start": self.start, "up": self.up, "counts": self.counts, "velocity": self.velocity,
                  "mass": self.mass}  # fmt: skip
        return {name: None if value is None else value.clone() for name, value in values.items()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned."""
        for name, value in state.items():
            setattr(self, name, None if value is None else value.to(self.local.device, copy=True))

    def _draw(self, t: int) -> None:
        """Who is up in round ``t`` and how many steps each client makes."""
        method, m = self.method, self.m
        if not method.partial:
            return
        k = self.point.ends[t] - (self.point.ends[t - 1] if t else 0)
        up, counts = [], []
        for replica in self.replica:
            mask = torch.ones(m, dtype=torch.bool)
            if method.failures is not None:
                mask &= method.failures.alive(t, m, replica)
            if method.participation is not None:
                chosen = mask & method.participation.taking_part(t, m, replica)
                mask = chosen if chosen.any() else mask
            steps = torch.full((m,), k)
            if callable(method.client_steps):
                steps = method.client_steps(t, m, replica)
            elif method.client_steps is not None:
                steps = torch.as_tensor(method.client_steps)
            if steps.shape != (m,) or int(steps.max()) > k or int(steps.min()) < 0:
                raise ManyoneError(f"client_steps in round {t} must be {m} numbers from 0 to {k}, got {steps.tolist()}")
            mask &= steps > 0
            if not mask.any():
                raise ManyoneError(f"no client makes a step in round {t}")
            up.append(mask)
            counts.append(steps * mask)
        self.up = torch.stack(up).to(self.local.device)
        self.counts = torch.stack(counts).to(self.local.device)

    def _mixed(self, t: int) -> Tensor:
        method, z, start, up = self.method, self.z, self.start, self.up
        if method.client_steps is not None and method.normalise and start is not None and self.counts is not None:
            z = self._normalised(start, z, self.counts)
        if self.mass is not None and start is not None:
            mixed, self.mass = push_sum(self.mixer, start, z, self.mass, t, up)
            return mixed
        if method.order == "combine-then-adapt" and start is not None:
            return self._combine(start, t) + (z - start)
        return self._combine(z, t)

    def _normalised(self, start: Tensor, z: Tensor, counts: Tensor) -> Tensor:
        return normalise_steps(start, z, counts, self.up)

    def _combine(self, z: Tensor, t: int) -> Tensor:
        if self.point.topology.name == "server":
            return self._average_rows(z)
        return self.mixer(z, t, self.up)

    def _average_rows(self, z: Tensor) -> Tensor:
        """The (weighted) mean over the clients that took part, in every client's row."""
        weighted = self.method.weighting == "average"
        if self.up is None and not weighted:
            return z.mean(1, keepdim=True).expand_as(z)
        weight = torch.ones(self.runs, self.m, dtype=z.dtype, device=z.device)
        if weighted:
            weight = weight * self.point.data.sizes.to(z.device, z.dtype)
        if self.up is not None:
            weight = weight * self.up
        weight = weight / weight.sum(-1, keepdim=True)
        return (weight[:, None, :] @ z).expand_as(z)

    def _average(self, values: Tensor) -> Tensor:
        """``values`` [rows, P]: the mean over the clients of each run that take part."""
        return self._average_rows(values.view(self.runs, self.m, -1)).reshape(values.shape)

    def _carry(self) -> None:
        """Momentum buffers at the end of a round: kept, reset or averaged."""
        plug_in = self.local.plug_in
        policy = plug_in.sync
        if policy == "auto":
            policy = "reset" if self.point.topology.name in ("server", "complete") else "keep"
        for name in plug_in.carried if policy != "keep" else ():
            value = self.local.buffers[name][self.rows]
            if policy == "reset":
                value.zero_()
            else:
                value.copy_(self._average(value))
