"""What a rank holds of the clients: their samples, sizes, weights and first rows.

Public: ``own_clients``, ``all_sizes``, ``loss_weights``, ``members_of``, ``given_rows``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.client_data import ClientData
from manyone.minimax.local import Members
from manyone.minimax.ranks.exchange import Channel, RankLayout


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
    client = torch.arange(own.start, own.stop).repeat(runs)
    return Members(
        client=client,
        replica=torch.arange(mine.replicas).repeat_interleave(mine.twins * count),
        clients=torch.full((runs * count,), m),
        table=mine.table.reshape(runs * count, -1),
        sizes=mine.sizes.repeat(runs),
        weight=loss_weights(sizes)[client] if weighting == "loss" else None,
    )


def given_rows(start: Tensor, members: Members, layout: RankLayout, runs: int, size: int) -> Tensor:
    """The own rows [rows, P] of a ``start`` that is [P], or has a row for every client of every run."""
    every = (runs * layout.clients, size)
    if start.shape == every:
        return start.view(-1, layout.clients, size)[:, members.client.unique()].flatten(0, 1).clone()
    if start.shape != (size,):
        raise ManyoneError(f"start is {list(start.shape)}: needs [{size}] or {list(every)}")
    return start.expand(len(members), -1).clone()
