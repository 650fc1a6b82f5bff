"""Distributed-SGDA in one process: clients, replicas, twins and grid points stacked in one tensor program.

    Z^{t,0} = Z^t;  K times, for every client i:  Z_i <- Proj(Z_i + eta(s) sgn grad f_i(Z_i; xi));
    Z^{t+1} = W(t) Z^{t,K}

Local-SGDA is W = 11^T/m, Local-DSGDA a gossip matrix, SGDA m = 1 (Zhu et al., "Stability and Generalization for
Distributed SGDA"). Rows of Z are ordered (grid point, replica, twin, client); grid points may differ in step sizes,
K, rounds, topology, data and number of clients: each mixes at its own global steps and leaves when it is done.
Public: ``Simulated``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.arguments import compute_device, float_type, tensor, whole
from manyone.minimax.client_data import ClientData, client_data
from manyone.minimax.divergence import check_finite, has_grown
from manyone.minimax.layout import Point, lay_out, resolve_points
from manyone.minimax.local import LocalSteps, Members, Rates, starting_rows
from manyone.minimax.method import DistributedSGDA, resolve_method
from manyone.minimax.mixing.rounds import Round
from manyone.minimax.mixing.topology import Topology
from manyone.minimax.problems.problem import Problem
from manyone.minimax.schedules import step_size
from manyone.minimax.steps import local_step

Callback = Callable[["Simulated", int, int], None]


class Simulated:
    """One stacked run of Distributed-SGDA.

    Args:
        problem, data: what is solved, and the clients' samples (``data`` None: a deterministic game of ``clients``).
        method: the algorithm, see ``DistributedSGDA``.
        points: grid points as mappings that override eta (both), eta_x, eta_y, steps, rounds, topology, data; all are
            computed together. Replicas come from the data's replica axis or from ``replicas``.
        backend: "stacked", "vmap", "loop" or "auto", see ``Gradient``; chunk: members whose batches and activations
            exist at a time (None: all).
        start: the initial flat state, [P] or [rows, P], instead of ``problem.init``.
        time_average: keeps the mean of the consensus model over rounds.
        old: a topology instead of ``method``, and its fields as single keywords, are deprecated.

    Raises ``ManyoneError`` when the state is no longer finite.

    Attributes: ``z`` [rows, P] (in internal order: use ``state``), ``step`` (global step reached), ``points``,
    ``records`` (one dict per recorded round: point, round, consensus and norm [replicas, twins]).
    """

    def __init__(
        self,
        problem: Problem,
        data: ClientData | None = None,
        method: DistributedSGDA | Topology | str | None = None,
        *,
        points: Sequence[Mapping[str, Any]] | None = None,
        clients: int = 1,
        replicas: int | None = None,
        seed: int = 0,
        backend: str = "auto",
        chunk: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        start: Tensor | None = None,
        time_average: bool = False,
        **old: Any,
    ) -> None:
        method = resolve_method(method, old, "Simulated")
        data = client_data(data, clients)
        self.problem, self.method, self.seed = problem, method, whole("seed", seed)
        self.dtype, self.device = float_type(dtype), compute_device(device)
        replicas = None if replicas is None else whole("replicas", replicas, 1)
        self.points: list[Point] = resolve_points(method, data, points or [{}], replicas)
        layout = lay_out(self.points, method.weighting)
        self.replicas, self.twins = layout.replicas, layout.twins
        self._rows, self._order = layout.rows, layout.order
        self._totals = [self.points[i].ends[-1] for i in self._order]
        parts = [(self._width(i), self.points[i].eta_x, self.points[i].eta_y) for i in self._order]
        self.local = LocalSteps(
            problem, layout.fields, layout.members, self._initial(start, layout.members),
            Rates(parts, dtype, str(self.device)), local_step(method.local_step),
            batch=method.batch, seed=self.seed, backend=backend, chunk=chunk,
        )  # fmt: skip
        replica = [r for r in range(self.replicas) for _ in range(self.twins)]
        self._rounds = [
            Round(point, rows, self.local, method, replica) for point, rows in zip(self.points, self._rows, strict=True)
        ]
        self.step = 0
        self.records: list[dict[str, Any]] = []
        self._first_norm = [float(r.norm().max()) for r in self._rounds]
        self._warned = False
        self._average_of: list[Tensor] | None = None
        if time_average:
            self._average_of = [torch.zeros_like(self.consensus(i)) for i in range(len(self.points))]

    @property
    def z(self) -> Tensor:
        """The whole state [rows, P], in internal order."""
        return self.local.z

    @property
    def total_steps(self) -> int:
        """Global steps until the last grid point is done."""
        return self._totals[0]

    def state(self, point: int = 0) -> Tensor:
        """The state of one grid point, a view [replicas, twins, m, P]."""
        return self.z[self._rows[point]].view(self.replicas, self.twins, self.points[point].clients, -1)

    def consensus(self, point: int = 0) -> Tensor:
        """zbar, the mean over the clients: [replicas, twins, P]."""
        return self.state(point).mean(2)

    def time_average(self, point: int = 0) -> Tensor:
        """The mean of zbar over the rounds done: [replicas, twins, P]."""
        if self._average_of is None:
            raise ManyoneError("there is no time average: construct the simulation with time_average=True")
        return self._average_of[point]

    def rounds_done(self, point: int = 0) -> int:
        """Rounds that this grid point has completed."""
        return sum(end <= self.step for end in self.points[point].ends)

    def round(self, t: int | None = None) -> Tensor:
        """Runs to the end of round ``t`` (None: one more round) and returns the consensus of point 0.

        All grid points must have the same rounds; for others use ``run`` or ``advance``.
        """
        ends = self.points[0].ends
        if any(point.ends != ends for point in self.points):
            raise ManyoneError("the grid points have rounds of unequal length: use run() or advance(step)")
        t = self.rounds_done() if t is None else t
        if not 0 <= t < len(ends):
            raise ManyoneError(f"round {t}: there are rounds 0 to {len(ends) - 1}")
        self.advance(ends[t])
        return self.consensus()

    def run(self, callback: Callback | None = None, record_every: int | None = None) -> Tensor:
        """Runs to the end; returns the consensus of point 0. ``callback(self, point, rounds_done)`` follows each round.

        Every ``record_every``-th round of a point, and its last, goes into ``records`` (None: about 20 in all).
        """
        self.advance(self.total_steps, callback, record_every)
        return self.consensus()

    @torch.no_grad()
    def advance(self, until: int, callback: Callback | None = None, record_every: int | None = None) -> None:
        """Runs to global step ``until``."""
        every = {i: record_every or max(1, len(p.ends) // 20) for i, p in enumerate(self.points)}
        while self.step < min(until, self.total_steps):
            s = self.step
            running = [i for i, total in zip(self._order, self._totals, strict=True) if total > s]
            for i in running:
                self._rounds[i].begin_if_due(s)
            rows = slice(0, self._rows[running[-1]].stop)
            self.local.advance(s, rows, self._mask(s, rows))
            self.step = s + 1
            for i in running:
                t = self._rounds[i].end_if_due(s + 1)
                if t is not None:
                    self._after_round(i, t, every[i])
                    if callback is not None:
                        callback(self, i, t + 1)

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on; restoring it goes on bit for bit."""
        return {
            "step": self.step,
            "z": self.z.clone(),
            "buffers": {name: value.clone() for name, value in self.local.buffers.items()},
            "rounds": [r.state_dict() for r in self._rounds],
            "records": [dict(record) for record in self.records],
            "average": None if self._average_of is None else [a.clone() for a in self._average_of],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned, into a simulation constructed with the same arguments."""
        if state["z"].shape != self.z.shape or set(state["buffers"]) != set(self.local.buffers):
            raise ManyoneError(
                f"this state has {list(state['z'].shape)} numbers and buffers {sorted(state['buffers'])}, the "
                f"simulation {list(self.z.shape)} and {sorted(self.local.buffers)}: construct it as it was"
            )
        self.step = int(state["step"])
        self.z.copy_(state["z"])
        for name, value in state["buffers"].items():
            self.local.buffers[name].copy_(value)
        for r, saved in zip(self._rounds, state["rounds"], strict=True):
            r.load_state_dict(saved)
        self.records = [dict(record) for record in state["records"]]
        if self._average_of is not None:
            self._average_of = [a.to(self.device) for a in state["average"]]

    def _width(self, point: int) -> int:
        rows = self._rows[point]
        return rows.stop - rows.start

    def _initial(self, start: Tensor | None, members: Members) -> Tensor:
        if start is None:
            return starting_rows(self.problem, members, self.replicas, self.seed, self.dtype, self.device)
        size = self.problem.spec.size
        z = tensor("start", start).to(self.device, self.dtype)
        if z.shape not in ((size,), (len(members), size)):
            raise ManyoneError(f"start is {list(z.shape)}: needs [{size}] or [{len(members)}, {size}]")
        return z.expand(len(members), -1).clone()

    def _mask(self, s: int, rows: slice) -> Tensor | None:
        masks = [self._rounds[i].mask(s) for i in self._order if self._rows[i].start < rows.stop]
        if all(m is None for m in masks):
            return None
        widths = [self._width(i) for i in self._order]
        full = [torch.ones(w, dtype=torch.bool, device=self.device) if m is None else m for m, w in zip(masks, widths)]
        return torch.cat(full)

    def _after_round(self, i: int, t: int, every: int) -> None:
        state, point = self.state(i), self.points[i]
        at = f" of grid point {i}" if len(self.points) > 1 else ""
        etas = step_size(point.eta_x, self.step - 1), step_size(point.eta_y, self.step - 1)
        check_finite(state, t + 1, etas, self.local.fields, at)
        if self._average_of is not None:
            self._average_of[i] += (self.consensus(i) - self._average_of[i]) / (t + 1)
        if (t + 1) % every and t + 1 < len(point.ends):
            return
        spread = (state - state.mean(2, keepdim=True)).square().sum(-1).mean(-1).sqrt()
        norm = self._rounds[i].norm().view(self.replicas, self.twins)
        self.records.append({"point": i, "round": t + 1, "consensus": spread, "norm": norm})
        self._warned = self._warned or has_grown(float(norm.max()), self._first_norm[i], t + 1, at)
