"""Distributed-SGDA in one process: clients, replicas, twins and grid points stacked in one tensor program.

    Z^{t,0} = Z^t;  K times, for every client i:  Z_i <- Proj(Z_i + eta(s) sgn grad f_i(Z_i; xi));
    Z^{t+1} = W(t) Z^{t,K}

Local-SGDA is W = 11^T/m, Local-DSGDA a gossip matrix, SGDA m = 1 (Zhu et al., "Stability and Generalization for
Distributed SGDA"). Rows of Z are ordered (grid point, replica, twin, client); grid points may differ in step sizes,
K, rounds, topology, data and number of clients: each mixes at its own global steps and leaves when it is done.
Public: ``Simulated``.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.client_data import ClientData
from manyone.minimax.layout import Point, lay_out, resolve_points
from manyone.minimax.local import BatchSize, LocalSteps, Rates
from manyone.minimax.mixing.participation import Participation
from manyone.minimax.mixing.rounds import Mixture, Round, StepCounts, Uptime, round_of
from manyone.minimax.mixing.topology import Topology
from manyone.minimax.problems.problem import Problem
from manyone.minimax.schedules import LocalStepCount, StepSize
from manyone.minimax.steps import LocalStep, OuterStep, local_step
from manyone.randomness import seed_for

Callback = Callable[["Simulated", int, int], None]
_GROWTH = 1e3


class Simulated:
    """One stacked run of Distributed-SGDA.

    Args:
        problem, data: what is solved, and the clients' samples (``data`` None: a deterministic game of ``clients``).
        topology: a name of ``TOPOLOGIES`` or a ``Topology``.
        steps: K, local steps a round (a number or a function of t); rounds: T; batch: samples a step or "full".
        eta_x, eta_y: step sizes, each a number, ``decaying(c0)`` or a function of the global local step.
        local_step: a name of ``STEPS`` or a plug-in; outer: the server's step on a round's displacement.
        points: grid points as mappings that override eta (both), eta_x, eta_y, steps, rounds, topology, data; all are
            computed together. Replicas come from the data's replica axis or from ``replicas``.
        order: "adapt-then-combine", Z+ = W Z^K, or "combine-then-adapt", Z+ = W Z^0 + (Z^K - Z^0).
        participation: server only, who takes part; failures: ``alive(t, m, replica)``, who is up (gossip repairs W).
        client_steps: K_i as numbers or a function (t, m, replica) -> int64 [m], at most K; normalise: then correct
            the displacements for the unequal K_i.
        weighting: "uniform"; "loss", client i's loss times m n_i / sum n; "average", the server's mean weighted by n_i.
        push_sum: mass-corrected mixing for directed graphs with failures.
        local_y: only x is mixed; every client keeps its own y (adversarial perturbations of its own samples).
        backend: "stacked", "vmap" or "auto", see ``Gradient``; chunk: members whose batches and activations exist at
            a time (None: all).
        start: the initial flat state, [P] or [rows, P], instead of ``problem.init``.
        time_average: keeps the mean of the consensus model over rounds.

    Attributes: ``z`` [rows, P] (in internal order: use ``state``), ``step`` (global step reached), ``points``,
    ``records`` (one dict per recorded round: point, round, consensus and norm [replicas, twins]).
    """

    def __init__(
        self,
        problem: Problem,
        data: ClientData | None = None,
        topology: Topology | str = "server",
        *,
        steps: LocalStepCount = 5,
        rounds: int = 100,
        batch: BatchSize = 1,
        eta_x: StepSize = 0.1,
        eta_y: StepSize = 0.1,
        local_step: LocalStep | str = "simultaneous",
        outer: OuterStep | None = None,
        points: Sequence[Mapping[str, Any]] | None = None,
        clients: int = 1,
        replicas: int | None = None,
        seed: int = 0,
        order: Literal["adapt-then-combine", "combine-then-adapt"] = "adapt-then-combine",
        participation: Participation | None = None,
        failures: Uptime | None = None,
        client_steps: Sequence[int] | StepCounts | None = None,
        normalise: bool = True,
        weighting: Literal["uniform", "loss", "average"] = "uniform",
        push_sum: bool = False,
        local_y: bool = False,
        backend: str = "auto",
        chunk: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        start: Tensor | None = None,
        time_average: bool = False,
    ) -> None:
        plug_in = _plug_in(local_step)
        base = {"eta_x": eta_x, "eta_y": eta_y, "steps": steps, "rounds": rounds, "topology": topology,
                "data": data if data is not None else ClientData.empty(clients)}  # fmt: skip
        self.problem, self.seed, self.dtype, self.device = problem, seed, dtype, torch.device(device)
        self.points: list[Point] = resolve_points(base, points or [{}], replicas)
        layout = lay_out(self.points, weighting, seed)
        self.replicas, self.twins = layout.replicas, layout.twins
        self._rows, self._order = layout.rows, layout.order
        self._totals = [self.points[i].ends[-1] for i in self._order]
        z = self._initial(start, layout.members)
        parts = [(self._width(i), self.points[i].eta_x, self.points[i].eta_y) for i in self._order]
        self.local = LocalSteps(
            problem, layout.fields, layout.members, z, Rates(parts, dtype, str(self.device)), plug_in,
            batch=batch, seed=seed, backend=backend, chunk=chunk,
        )  # fmt: skip
        mixture = Mixture(
            order=order, participation=participation, failures=failures, client_steps=client_steps,
            normalise=normalise, weighting=weighting, push_sum=push_sum, outer=outer, local_y=local_y,
        )  # fmt: skip
        self._rounds: list[Round] = [
            round_of(self.points[i], self._rows[i], self.local, mixture, self.replicas, self.twins)
            for i in range(len(self.points))
        ]
        self.step = 0
        self.records: list[dict[str, Any]] = []
        self._first_norm = [r.norm() for r in self._rounds]
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

    def _initial(self, start: Tensor | None, members: Any) -> Tensor:
        spec = self.problem.spec
        if start is None:
            starts = [self.problem.start(seed_for(self.seed, "start", r), self.dtype) for r in range(self.replicas)]
            return torch.stack(starts).to(self.device)[members.replica.to(self.device)]
        z = start.to(self.device, self.dtype)
        if z.shape not in ((spec.size,), (len(members), spec.size)):
            raise ManyoneError(f"start is {list(z.shape)}: needs [{spec.size}] or [{len(members)}, {spec.size}]")
        return z.expand(len(members), -1).clone()

    def _mask(self, s: int, rows: slice) -> Tensor | None:
        masks = [self._rounds[i].mask(s) for i in self._order if self._rows[i].start < rows.stop]
        if all(m is None for m in masks):
            return None
        widths = [self._width(i) for i in self._order]
        full = [torch.ones(w, dtype=torch.bool, device=self.device) if m is None else m for m, w in zip(masks, widths)]
        return torch.cat(full)

    def _after_round(self, i: int, t: int, every: int) -> None:
        if self._average_of is not None:
            self._average_of[i] += (self.consensus(i) - self._average_of[i]) / (t + 1)
        if (t + 1) % every and t + 1 < len(self.points[i].ends):
            return
        state = self.state(i)
        spread = (state - state.mean(2, keepdim=True)).square().sum(-1).mean(-1).sqrt()
        norm = self._rounds[i].norm().view(self.replicas, self.twins)
        self.records.append({"point": i, "round": t + 1, "consensus": spread, "norm": norm})
        worst = float(norm.max())
        if not self._warned and not worst <= _GROWTH * (1.0 + float(self._first_norm[i].max())):
            self._warned = True
            warnings.warn(
                f"||z|| has grown to {worst:.3g} by round {t + 1} of grid point {i}: simultaneous steps diverge on "
                "games without curvature; try local_step='extragradient' or a smaller step size",
                stacklevel=3,
            )


def _plug_in(value: LocalStep | str) -> LocalStep:
    return local_step(value)
