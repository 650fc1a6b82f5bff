"""Distributed-SGDA for real: clients on ranks of ``torch.distributed``, the same words and the same numbers as
``Simulated``.

    torchrun --nproc-per-node 4 train.py            # or: python -m manyone.minimax.launch --ranks 4 train.py

    run = TorchDistributed(problem, data, DistributedSGDA(topology="ring", steps=5))    # in train.py, on every rank
    zbar = run.run()                                                  # the consensus model, the same everywhere

A rank holds a consecutive block of the m clients and runs the stacked program of the simulation on their rows; between
rounds it exchanges rows with other ranks (``exchange``). What a client computes depends on (seed, client, step) and
its own row alone, so neither the number of ranks nor the deal of clients changes the trajectory. gloo on a CPU, NCCL
on CUDA. Checkpoints: ``checkpoints``; ranks that die: ``failures``.
Public: ``TorchDistributed``.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.arguments import compute_device, float_type, tensor, whole
from manyone.minimax.client_data import ClientData, client_data
from manyone.minimax.divergence import check_finite, has_grown
from manyone.minimax.layout import resolve_points
from manyone.minimax.local import LocalSteps, Rates, starting_rows
from manyone.minimax.method import DistributedSGDA, resolve_method
from manyone.minimax.mixing.topology import Topology
from manyone.minimax.problems.problem import Problem
from manyone.minimax.ranks.checkpoints import load_newest, save_rows
from manyone.minimax.ranks.clients import all_sizes, given_rows, loss_weights, members_of, own_clients
from manyone.minimax.ranks.exchange import Channel, PeerLost, RankLayout
from manyone.minimax.ranks.failures import Membership
from manyone.minimax.ranks.round import RankRound
from manyone.minimax.schedules import step_size
from manyone.minimax.steps import local_step

Callback = Callable[["TorchDistributed", int], None]


class TorchDistributed:
    """One run of Distributed-SGDA on the ranks of a process group.

    Args as in ``Simulated``, without a grid of points, and:
        data: the samples of all clients (the same on every rank; each keeps those of its own clients in memory), or,
            with ``own_data=True``, of this rank's clients alone.
        clients_per_rank: an even deal of the m clients (None), one number, or one number for every rank.
        membership: who the ranks are (``failures.Membership``); None: what torchrun's environment says.
        checkpoints, checkpoint_every: a folder that all ranks see, and after how many rounds it gets a new state.

    Attributes: ``z`` [own rows, P]; ``rounds_done``; ``records`` as in ``Simulated``; ``losses``: one dict for every
    loss of ranks that was survived (round, ranks, clients left).
    """

    def __init__(
        self,
        problem: Problem,
        data: ClientData | None = None,
        method: DistributedSGDA | Topology | str | None = None,
        *,
        clients: int = 1,
        replicas: int | None = None,
        seed: int = 0,
        backend: str = "auto",
        chunk: int | None = None,
        dtype: torch.dtype = torch.float32,
        device: str | torch.device = "cpu",
        start: Tensor | None = None,
        time_average: bool = False,
        own_data: bool = False,
        clients_per_rank: int | Sequence[int] | None = None,
        membership: Membership | None = None,
        checkpoints: Path | str | None = None,
        checkpoint_every: int = 0,
        **old: Any,
    ) -> None:
        method = resolve_method(method, old, "TorchDistributed")
        self.method = method
        self.problem, self.seed, self.dtype = problem, (seed := whole("seed", seed)), float_type(dtype)
        self.device = compute_device(device)
        self.membership = membership or Membership.join(device=self.device)
        channel = self._channel()
        data = None if data is None else client_data(data, clients)
        if data is not None and own_data:
            counts = channel.gather([data.clients])[:, 0].long().tolist()
            self.layout = RankLayout.of(sum(counts), len(counts), counts)
        else:
            total = clients if data is None else data.clients
            self.layout = RankLayout.of(total, len(channel.ranks), clients_per_rank)
        m, own = self.layout.clients, self.layout.rows(channel.rank)
        data = data if data is not None else ClientData.empty(len(own) if own_data else m)
        if replicas is not None:
            data = data.repeated(whole("replicas", replicas, 1))
        self.replicas, self.twins = data.replicas, data.twins
        mine = data if own_data else own_clients(data, own)
        sizes = all_sizes(mine, self.layout, channel) if own_data else data.sizes
        self.point = resolve_points(method, ClientData.empty(m), [{}], None)[0]
        members = members_of(mine, own, m, sizes, method.weighting)
        if start is None:
            z = starting_rows(problem, members, self.replicas, seed, dtype, self.device)
        else:
            runs = self.replicas * self.twins
            z = given_rows(tensor("start", start).to(self.device, dtype), members, self.layout, runs, problem.spec.size)
        plug_in = local_step(method.local_step)
        rates = Rates([(len(members), *method.step_sizes)], dtype, str(self.device))
        self.local = LocalSteps(
            problem, mine.fields, members, z, rates, plug_in, batch=method.batch, seed=seed, backend=backend,
            chunk=chunk,
        )  # fmt: skip
        replica = [r for r in range(self.replicas) for _ in range(self.twins)]
        self._round = RankRound(self.point, sizes, self.local, method, replica, self.layout, channel)
        self._sizes = sizes
        self.step, self.rounds_done = 0, 0
        self.records: list[dict[str, Any]] = []
        self.losses: list[dict[str, Any]] = []
        self._sum: Tensor | None = None
        if time_average:
            self._sum = torch.zeros(self.replicas * self.twins, problem.spec.size, dtype=dtype, device=self.device)
        self.checkpoints = None if checkpoints is None else Path(checkpoints)
        self.checkpoint_every = checkpoint_every
        self._history: dict[int, dict[str, Any]] = {}
        self._warned = False
        etas = [step_size(e, s, "eta") for e in method.step_sizes for s in (0, 1, 1000)]
        self._settings = _digest(
            type(problem).__name__, problem.spec, self.point.topology, method.batch, etas, plug_in, seed, method.order,
            method.weighting, method.push_sum, method.outer, method.local_y, method.participation, str(dtype),
            self.replicas, self.twins, sizes.tolist(),
        )  # fmt: skip
        self._first_norm = float(self._round.norm().max())
        self._same_everywhere()

    @property
    def z(self) -> Tensor:
        """The own clients' rows [rows, P], ordered (replica, twin, client)."""
        return self.local.z

    @property
    def clients(self) -> list[int]:
        """The numbers of the clients that take part, all m unless ranks were lost."""
        return self._alive().nonzero().flatten().tolist()

    def consensus(self) -> Tensor:
        """zbar, the mean over the clients: [replicas, twins, P], the same on every rank. All ranks must call it."""
        total = self._round.channel.sum(self._round.z.sum(1))
        return (total / len(self.clients)).view(self.replicas, self.twins, -1)

    def state(self) -> Tensor:
        """All clients' rows [replicas, twins, clients, P] on every rank (m P numbers). All ranks must call it."""
        own = self.layout.rows(self._round.channel.rank)
        full = self.z.new_zeros(self.replicas * self.twins, self.layout.clients, self.z.shape[1])
        full[:, own.start : own.stop] = self._round.z
        full = self._round.channel.sum(full)[:, self._alive().to(self.device)]
        return full.view(self.replicas, self.twins, len(self.clients), -1)

    def time_average(self) -> Tensor:
        """The mean of zbar over the rounds done: [replicas, twins, P]."""
        if self._sum is None:
            raise ManyoneError("there is no time average: construct the run with time_average=True")
        return self._sum.view(self.replicas, self.twins, -1)

    @torch.no_grad()
    def run(
        self, rounds: int | None = None, callback: Callback | None = None, record_every: int | None = None
    ) -> Tensor:
        """Runs until ``rounds`` rounds are done (None: all); returns the consensus.

        ``callback(self, rounds_done)`` follows each round, on every rank; after a survived loss a round can come
        twice. Every ``record_every``-th round, and the last, goes into ``records`` (None: about 20 in all).
        """
        target = len(self.point.ends) if rounds is None else min(rounds, len(self.point.ends))
        every = record_every or max(1, len(self.point.ends) // 20)
        lost = False
        while True:
            try:
                if lost:
                    self._survive()
                    lost = False
                while self.rounds_done < target:
                    self._one_round(every, callback)
                zbar = self.consensus()
                self._check_finite(zbar, self.rounds_done)
                return zbar
            except PeerLost:
                if not self.membership.survives:
                    raise
                lost = True  # dealt with outside: the exception keeps the broken connections alive

    def round(self, t: int | None = None) -> Tensor:
        """Runs to the end of round ``t`` (None: one more round) and returns the consensus."""
        return self.run((self.rounds_done if t is None else t) + 1)

    def resume(self) -> int:
        """Loads the newest whole checkpoint, if there is one; returns the number of rounds done."""
        if self.checkpoints is None:
            raise ManyoneError("there is nothing to resume from: construct the run with checkpoints=FOLDER")
        found = load_newest(self.checkpoints, self.layout.rows(self._round.channel.rank), self._settings)
        if found is not None:
            meta, tensors = found
            if meta["ends"] != list(self.point.ends[: meta["round"]]):
                raise ManyoneError(f"{self.checkpoints}: made with other local steps a round; take another folder")
            self.rounds_done, self.step = meta["round"], self.point.ends[meta["round"] - 1]
            for name, value in self._rows_to_save().items():
                value.copy_(tensors[name].view_as(value))
            if self._sum is not None:
                self._sum.copy_(tensors["shared/time average"])
            self.records = [
                r | {k: torch.tensor(r[k], dtype=self.dtype) for k in ("consensus", "norm")} for r in meta["records"]
            ]
        return self.rounds_done

    def save(self) -> None:
        """Writes a checkpoint of the present state; all ranks must call it, after the same round."""
        if self.checkpoints is None:
            raise ManyoneError("nowhere to save to: construct the run with checkpoints=FOLDER")
        if not self.rounds_done:
            raise ManyoneError("there is nothing to save before the first round")
        rows = {k: v.reshape(self._round.runs, self._round.width, -1) for k, v in self._rows_to_save().items()}
        shared = {} if self._sum is None else {"shared/time average": self._sum}
        meta = {
            "round": self.rounds_done,
            "ends": self.point.ends[: self.rounds_done],
            "clients": self.layout.clients,
            "settings": self._settings,
            "records": [r | {k: r[k].tolist() for k in ("consensus", "norm")} for r in self.records],
        }
        channel = self._round.channel
        save_rows(
            self.checkpoints, meta, self.layout.rows(channel.rank), rows, shared,
            first=channel.rank == channel.ranks[0], barrier=self._meet,
        )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """What later rounds depend on, of all clients and the same on every rank; all ranks must call it."""
        runs, own = self._round.runs, self.layout.rows(self._round.channel.rank)
        alive = self._alive()
        rows = {}
        for name, value in self._rows_to_save().items():
            full = value.new_zeros(runs, self.layout.clients, value.numel() // (runs * len(own)))
            full[:, own.start : own.stop] = value.reshape(runs, len(own), -1)
            full = self._round.channel.sum(full)
            if not bool(alive.all()):  # clients of lost ranks start from the mean of the others
                full[:, ~alive] = full[:, alive].mean(1, keepdim=True)
            rows[name] = full
        return {
            "round": self.rounds_done,
            "settings": self._settings,
            "rows": rows,
            "records": [dict(r) for r in self.records],
            "average": None if self._sum is None else self._sum.clone(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restores what ``state_dict`` returned, on any number of ranks, into a run with the same arguments."""
        if state["settings"] != self._settings:
            raise ManyoneError("this state belongs to a run with other options or data: construct it as it was")
        self.rounds_done = int(state["round"])
        self.step = self.point.ends[self.rounds_done - 1] if self.rounds_done else 0
        own = self.layout.rows(self._round.channel.rank)
        for name, value in self._rows_to_save().items():
            value.copy_(state["rows"][name][:, own.start : own.stop].reshape(value.shape))
        self.records = [dict(r) for r in state["records"]]
        if self._sum is not None:
            self._sum.copy_(state["average"])

    def _one_round(self, every: int, callback: Callback | None) -> None:
        t = self.rounds_done
        if self.membership.survives:
            self._history = {k: v for k, v in self._history.items() if k == t - 1} | {t: self._snapshot()}
        rows = slice(0, len(self.z))
        while self.step < self.point.ends[t]:
            self._round.begin_if_due(self.step)
            self.local.advance(self.step, rows, self._round.mask(self.step))
            self.step += 1
        self._round.end_if_due(self.step)
        if self._sum is not None:
            self._sum += (self.consensus().flatten(0, 1) - self._sum) / (t + 1)
        if (t + 1) % every == 0 or t + 1 == len(self.point.ends):
            self._record(t + 1)
        if self.membership.survives:
            self._meet()  # so that nobody is more than one round ahead of anybody, and two kept copies are enough
        self.rounds_done = t + 1
        if self.checkpoint_every and self.rounds_done % self.checkpoint_every == 0:
            self.save()
        if callback is not None:
            callback(self, self.rounds_done)

    def _survive(self) -> None:
        """Goes on with the ranks that are left, from the start of the round that the last of them was in."""
        before = self.membership.ranks
        t = self.membership.regroup(self.rounds_done)
        alive = self._alive()
        kept = self._history.get(t)
        if kept is not None:  # else all were between two rounds
            self.step, self.rounds_done, self.records = kept["step"], t, self.records[: kept["records"]]
            for name, value in self._rows_to_save().items():
                value.copy_(kept["rows"][name])
            if self._sum is not None:
                self._sum.copy_(kept["average"])
        if self.method.weighting == "loss":
            self.local.weigh(loss_weights(self._sizes, alive)[self.local.members.client])
        gone = sorted(set(before) - set(self.membership.ranks))
        self.losses.append({"round": t, "ranks": gone, "clients": int(alive.sum())})
        if self.membership.rank == self.membership.ranks[0]:
            print(
                f"lost rank {', '.join(map(str, gone))} in round {t}: {len(self.membership.ranks)} ranks with "
                f"{int(alive.sum())} of {len(alive)} clients go on from the start of that round",
                file=sys.stderr,
                flush=True,
            )
        self._round.connect(self._channel(), alive)

    def _meet(self) -> None:
        """Returns when all ranks have called it."""
        self._round.channel.sum(torch.zeros(1, device=self.device))

    def _channel(self) -> Channel:
        channel = self.membership.channel(self.device)
        channel.sum(torch.zeros(1, device=self.device))  # NCCL: the first call must involve all ranks
        return channel

    def _alive(self) -> Tensor:
        """bool [m]: clients on ranks that are left."""
        alive = torch.zeros(self.layout.clients, dtype=torch.bool)
        for rank in self.membership.ranks:
            rows = self.layout.rows(rank)
            alive[rows.start : rows.stop] = True
        return alive

    def _rows_to_save(self) -> dict[str, Tensor]:
        """Every tensor with one row per own client that later rounds depend on."""
        found = {"z": self.z, **{f"buffers/{k}": v for k, v in self.local.buffers.items()}}
        for name in ("velocity", "mass"):
            value = getattr(self._round, name)
            if value is not None:
                found[name] = value
        return found

    def _snapshot(self) -> dict[str, Any]:
        return {
            "step": self.step,
            "rows": {name: value.clone() for name, value in self._rows_to_save().items()},
            "records": len(self.records),
            "average": None if self._sum is None else self._sum.clone(),
        }

    def _record(self, t: int) -> None:
        channel, z = self._round.channel, self._round.z
        mean = self.consensus().view(z.shape[0], 1, -1)
        spread = channel.sum((z - mean).square().sum(-1).sum(-1)) / len(self.clients)
        norms = channel.gather(self._round.norm().tolist()).amax(0)
        shape = (self.replicas, self.twins)
        norm = norms.to(self.dtype).view(shape)
        self._check_finite(norm, t)
        self.records.append({"point": 0, "round": t, "consensus": spread.sqrt().view(shape), "norm": norm})
        self._warned = self._warned or (
            channel.rank == channel.ranks[0] and has_grown(float(norm.max()), self._first_norm, t, "")
        )

    def _check_finite(self, values: Tensor, rounds: int) -> None:
        """Raises, on all ranks alike, unless ``values``, which all ranks have, are finite."""
        eta_x, eta_y = (step_size(eta, max(0, self.step - 1)) for eta in self.method.step_sizes)
        check_finite(values, rounds, (eta_x, eta_y), self.local.fields, "")

    def _same_everywhere(self) -> None:
        """Raises when a rank was started with other options than the first."""
        own = _digest(self._settings, self.layout.counts, self.point.ends)
        table = self._round.channel.gather([float(own)])[:, 0]
        if bool((table != table[0]).any()):
            other = self._round.channel.ranks[int((table != table[0]).nonzero()[0])]
            raise ManyoneError(f"rank {other} was started with other options or data than rank 0: start all alike")


def _digest(*settings: Any) -> int:
    """48 bits that tell settings apart (exact as a float64)."""
    return int(hashlib.blake2b(repr(settings).encode(), digest_size=6).hexdigest(), 16)
