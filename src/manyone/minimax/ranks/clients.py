"""What a rank holds of the clients: their samples, sizes, weights and first rows.

Public: ``own_clients``, ``all_sizes``, ``loss_weights``, ``members_of``, ``starting_rows``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.client_data import ClientData
from manyone.minimax.local import Members
from manyone.minimax.ranks.exchange import Channel, RankLayout
from manyone.randomness import seed_for

if TYPE_CHECKING:
    from manyone.minimax.ranks.distributed import TorchDistributed


def own_clients(data: ClientData, own: range) -> ClientData:
    """The clients ``own`` with only the pool rows that they use."""
    table = data.table[:, :, own.start : own.stop]
    sizes = data.sizes[own.start : own.stop]
    table = table[..., : int(sizes.max())]
    if not data.fields:
        return ClientData({}, table, sizes)
    used, places = table.unique(return_inverse=True)
    return ClientData({name: value[used] for name, value in data.fields.items()}, places.view_as(table), sizes)


def all_sizes(mine: ClientData, layout: RankLayout, channel: Channel) -> Tensor:
    """n_i of all clients, from what every rank knows of its own."""
    sizes = torch.zeros(layout.clients, dtype=torch.int64, device=channel.device)
    own = layout.rows(channel.rank)
    sizes[own.start : own.stop] = mine.sizes.to(channel.device)
    return channel.sum(sizes).cpu()


def loss_weights(sizes: Tensor, alive: Tensor | None = None) -> Tensor:
    """m n_i / sum n over the clients that are left."""
    kept = sizes.double() if alive is None else sizes.double() * alive
    count = len(sizes) if alive is None else int(alive.sum())
    return count * kept / kept.sum()


def members_of(mine: ClientData, own: range, m: int, sizes: Tensor, weighting: str) -> Members:
    """The rows (replica, twin, client) of the clients ``own`` out of ``m``."""
    runs, count = mine.replicas * mine.twins, len(own)
    if weighting not in ("uniform", "loss", "average"):
        raise ManyoneError(f"weighting = {weighting!r}: choose 'uniform', 'loss' or 'average'")
    client = torch.arange(own.start, own.stop).repeat(runs)
    return Members(
        client=client,
        replica=torch.arange(mine.replicas).repeat_interleave(mine.twins * count),
        clients=torch.full((runs * count,), m),
        table=mine.table.reshape(runs * count, -1),
        sizes=mine.sizes.repeat(runs),
        weight=loss_weights(sizes)[client] if weighting == "loss" else None,
    )


def starting_rows(run: TorchDistributed, start: Tensor | None, members: Members) -> Tensor:
    """The own rows [rows, P] that the run begins with, from ``start`` as ``TorchDistributed`` takes it."""
    if start is None:
        starts = [run.problem.start(seed_for(run.seed, "start", r), run.dtype) for r in range(run.replicas)]
        return torch.stack(starts).to(run.device)[members.replica.to(run.device)]
    size = run.problem.spec.size
    z = start.to(run.device, run.dtype)
    every = (run.replicas * run.twins * run.layout.clients, size)
    if z.shape == every:
        return z.view(-1, run.layout.clients, size)[:, members.client.unique()].flatten(0, 1).clone()
    if z.shape != (size,):
        raise ManyoneError(f"start is {list(z.shape)}: needs [{size}] or {list(every)}")
    return z.expand(len(members), -1).clone()
