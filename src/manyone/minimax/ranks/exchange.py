"""Messages between ranks: clients live on ranks, rows of Z travel, W is applied where the rows end.

m clients are dealt to the ranks in consecutive blocks (``RankLayout``). For gossip every rank posts one
``batch_isend_irecv`` a round, with only those rows that an edge of W needs, one message per peer and direction, sorted
by (peer, direction); it then applies its rows of W to the rows it has, in ascending order of the clients, as the
simulation does. An exact average is one all-reduce (SUM, then divide: gloo has no average).

What a dead or silent peer raises in ``torch.distributed`` becomes ``PeerLost`` here.
Public: ``RankLayout``, ``Channel``, ``RankMixer``, ``PeerLost``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.mixing.topology import Topology, repair

Weights = Callable[[int], Tensor]


class PeerLost(ManyoneError):
    """Another rank died, hung or left in the middle of an exchange."""


@dataclass(frozen=True)
class RankLayout:
    """``counts``: clients on every rank, in rank order; clients are numbered through."""

    counts: tuple[int, ...]

    @classmethod
    def of(cls, clients: int, ranks: int, per_rank: int | Sequence[int] | None = None) -> RankLayout:
        """``clients`` on ``ranks``: as even as possible, or as ``per_rank`` says (a number, or one for every rank)."""
        if per_rank is None:
            if clients < ranks:
                raise ManyoneError(f"{clients} clients on {ranks} ranks: every rank needs one; start {clients} ranks")
            return cls(tuple(clients // ranks + (r < clients % ranks) for r in range(ranks)))
        counts = (per_rank,) * ranks if isinstance(per_rank, int) else tuple(per_rank)
        if len(counts) != ranks or min(counts) < 1 or sum(counts) != clients:
            raise ManyoneError(
                f"clients_per_rank = {per_rank} on {ranks} ranks does not make {clients} clients: give one number per "
                f"rank, each at least 1, that sum to {clients}, or leave it out for an even deal"
            )
        return cls(counts)

    @property
    def clients(self) -> int:
        """m."""
        return sum(self.counts)

    def rows(self, rank: int) -> range:
        """The clients of ``rank``."""
        first = sum(self.counts[:rank])
        return range(first, first + self.counts[rank])


class Channel:
    """One rank's end of a process group: sums and messages of tensors on ``device``.

    ``ranks`` are the members of ``group`` by their numbers in the layout, ascending; a group that was made anew after
    a loss has fewer. Tensors travel through host memory when the group is gloo.
    """

    def __init__(self, group: dist.ProcessGroup, ranks: Sequence[int], device: torch.device) -> None:
        self.ranks, self.device = tuple(ranks), device
        self._group: dist.ProcessGroup | None = group
        self.rank = self.ranks[dist.get_rank(group)]
        self._wire = torch.device("cpu") if dist.get_backend(group) == "gloo" else device

    @property
    def group(self) -> dist.ProcessGroup:
        """The process group; raises once the channel is closed."""
        if self._group is None:
            raise ManyoneError(f"rank {self.rank} has left its process group: make a new run")
        return self._group

    def close(self) -> None:
        """Lets go of the process group."""
        self._group = None

    def sum(self, values: Tensor) -> Tensor:
        """The sum over the ranks, on every rank the same to the last bit."""
        if len(self.ranks) == 1:
            return values.clone()
        total = values.to(self._wire, copy=True).contiguous()
        try:
            dist.all_reduce(total, group=self.group)
        except RuntimeError as problem:
            raise self._lost(problem) from None
        return total.to(self.device)

    def gather(self, values: Sequence[float]) -> Tensor:
        """``values`` of every rank: float64 [ranks, len(values)], in rank order."""
        table = torch.zeros(len(self.ranks), len(values), dtype=torch.float64, device=self.device)
        table[self.ranks.index(self.rank)] = torch.tensor(values, dtype=torch.float64)
        return self.sum(table)

    def swap(self, outgoing: dict[int, Tensor], incoming: dict[int, Tensor]) -> None:
        """Sends ``outgoing`` and fills ``incoming`` (rank -> contiguous tensor) in one batch."""
        landed = {peer: torch.empty_like(buffer, device=self._wire) for peer, buffer in incoming.items()}
        operations = []
        for peer in sorted({*outgoing, *incoming}):
            there = dist.get_global_rank(self.group, self.ranks.index(peer))
            if peer in landed:
                operations.append(dist.P2POp(dist.irecv, landed[peer], there, self.group))
            if peer in outgoing:
                operations.append(dist.P2POp(dist.isend, outgoing[peer].to(self._wire), there, self.group))
        if not operations:
            return
        try:
            for work in dist.batch_isend_irecv(operations):
                work.wait()
        except RuntimeError as problem:
            raise self._lost(problem) from None
        for peer, buffer in incoming.items():
            buffer.copy_(landed[peer])

    def _lost(self, problem: RuntimeError) -> PeerLost:
        reason = next(iter(str(problem).splitlines()), type(problem).__name__).rpartition("] ")[2][:120]
        return PeerLost(
            f"rank {self.rank}: another rank died or did not answer in time ({reason}); look for its error above; the "
            "run goes on from its last checkpoint when it is started again"
        )


@dataclass(frozen=True)
class _Plan:
    """One matrix as seen from one rank: what to send and receive, and its rows of W over the clients that it sees."""

    send: dict[int, Tensor]  # peer -> positions of own rows, ascending
    receive: dict[int, int]  # peer -> number of rows
    gather: Tensor  # where the seen clients, ascending, lie in (own rows, then received rows)
    weights: Tensor  # [runs or 1, own, seen]


class RankMixer:
    """Z <- W(t) Z for the rows ``z`` [runs, own, P] of one rank: the counterpart of the simulation's mixer.

    ``alive`` (bool [m]) leaves out the clients of ranks that were lost; see ``surviving_weights``.
    """

    def __init__(
        self, topology: Topology, layout: RankLayout, channel: Channel, dtype: torch.dtype, alive: Tensor | None = None
    ) -> None:
        self.topology, self.layout, self.channel, self.dtype = topology, layout, channel, dtype
        self.m, self.alive = layout.clients, alive
        self._weights = topology_weights(topology, self.m) if alive is None else surviving_weights(topology, alive)
        self._period = topology.period(self.m)
        self._plans: dict[int, _Plan] = {}

    def __call__(self, z: Tensor, t: int, up: Tensor | None = None, by: str = "rows") -> Tensor:
        """W(t) z; with ``up`` (bool [runs, m]) the matrices repaired for these clients."""
        if up is not None and not bool(up.all()):
            w = repair(self._weights(t), up.cpu(), by)
            return self._apply(z, self._make_plan(w))
        if self.topology.averages(t, self.m):
            present = self.m if self.alive is None else int(self.alive.sum())
            return (self.channel.sum(z.sum(1, keepdim=True)) / present).expand_as(z)
        key = t if self._period is None else t % self._period
        if key not in self._plans:
            if self._period is None:
                self._plans.clear()
            self._plans[key] = self._make_plan(self._weights(t))
        return self._apply(z, self._plans[key])

    def rows_per_round(self, t: int) -> int:
        """Rows of Z that this rank sends in round ``t`` (0 for an exact average, which is an all-reduce)."""
        if self.topology.averages(t, self.m):
            return 0
        return sum(len(rows) for rows in self._make_plan(self._weights(t)).send.values())

    def _make_plan(self, w: Tensor) -> _Plan:
        w = w if w.ndim == 3 else w[None]
        linked = (w != 0).any(0)
        own = self.layout.rows(self.channel.rank)
        mine = slice(own.start, own.stop)
        send, receive, seen = {}, {}, list(own)
        for peer in self.channel.ranks:
            if peer == self.channel.rank:
                continue
            theirs = self.layout.rows(peer)
            them = slice(theirs.start, theirs.stop)
            wanted = linked[them, mine].any(0).nonzero().flatten()
            needed = linked[mine, them].any(0).nonzero().flatten()
            if len(wanted):
                send[peer] = wanted.to(self.channel.device)
            if len(needed):
                receive[peer] = len(needed)
                seen += (needed + theirs.start).tolist()
        order = torch.tensor(seen).argsort()
        weights = w[:, mine][:, :, torch.tensor(seen)[order]]
        device = self.channel.device
        return _Plan(send, receive, order.to(device), weights.to(device, self.dtype))

    def _apply(self, z: Tensor, plan: _Plan) -> Tensor:
        runs, _, width = z.shape
        outgoing = {peer: z.index_select(1, rows) for peer, rows in plan.send.items()}
        incoming = {peer: z.new_empty(runs, count, width) for peer, count in plan.receive.items()}
        self.channel.swap(outgoing, incoming)
        seen = torch.cat([z, *incoming.values()], 1).index_select(1, plan.gather)
        return plan.weights @ seen


def topology_weights(topology: Topology, m: int) -> Weights:
    """W(t) as a function of t."""
    return lambda t: topology.weights(t, m)


def surviving_weights(topology: Topology, alive: Tensor) -> Weights:
    """W(t) [m, m] when only ``alive`` (bool [m]) are left for good: doubly stochastic on them, identity on the lost.

    An exact average stays one, over the survivors. A symmetric W is repaired (lost weight to the diagonal) as long as
    the survivors stay connected over its period; else, and for directed graphs, the topology is built anew for the
    survivors. A custom graph that falls apart keeps its pieces, a custom directed matrix cannot be repaired.
    """
    m, count = len(alive), int(alive.sum())
    index = alive.nonzero().flatten()
    custom = topology.edges is not None or topology.matrix is not None
    if topology.matrix is not None and not topology.symmetric(m):
        raise ManyoneError(
            f"topology {topology.name!r} is a directed matrix: it cannot be repaired after a loss; give an undirected "
            "graph or a named topology"
        )

    def embed(part: Tensor) -> Tensor:
        w = torch.eye(m, dtype=torch.float64)
        w[index[:, None], index[None, :]] = part
        return w

    def repaired(t: int) -> Tensor:
        if topology.averages(t, m):
            return embed(torch.full((count, count), 1 / count, dtype=torch.float64))
        return repair(topology.weights(t, m), alive)

    def rebuilt(t: int) -> Tensor:
        return embed(topology.weights(t, count))

    if topology.symmetric(m) and (custom or topology.name == "hierarchical" or _connected(repaired, topology, alive)):
        return repaired
    return rebuilt


def _connected(weights: Weights, topology: Topology, alive: Tensor) -> bool:
    """Whether information reaches every survivor (always taken for granted for random matchings and the isolated)."""
    period = topology.period(len(alive))
    if period is None or topology.name == "isolated":
        return True
    reach = torch.eye(len(alive), dtype=torch.bool)
    for t in range(period):
        reach |= weights(t) != 0
    for _ in range(len(alive).bit_length()):  # paths of 2, 4, 8, ... edges
        reach = (reach.float() @ reach.float()) > 0
    return bool(reach[alive][:, alive].all())
