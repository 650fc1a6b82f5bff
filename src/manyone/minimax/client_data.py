"""The clients' samples: one pool of tensors and a table of which rows belong to whom. Shards are never copied.

Public: ``ClientData``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, SubsetRandomSampler

from manyone.errors import ManyoneError
from manyone.minimax.arguments import tensor, whole
from manyone.minimax.fields import as_field


@dataclass(frozen=True)
class ClientData:
    """``fields``: name -> pool [N, ...] (class names become class numbers, in sorted order); ``table``: rows of the
    pool, int64 [replicas, twins, m, n_max] (unused places hold 0); ``sizes``: n_i, int64 [m].

    Replicas are independent repetitions; twins run on neighbouring data sets with the same draws (same
    ``sample_indices``). Both axes have length 1 for an ordinary run.
    """

    fields: Mapping[str, Tensor]
    table: Tensor
    sizes: Tensor

    def __post_init__(self) -> None:
        if self.table.ndim != 4 or self.sizes.shape != self.table.shape[2:3]:
            raise ManyoneError(
                f"client data needs a table [replicas, twins, clients, samples] and sizes [clients], got "
                f"{list(self.table.shape)} and {list(self.sizes.shape)}"
            )
        if not len(self.sizes):
            raise ManyoneError("client data needs at least one client")
        smallest = int(self.sizes.min())
        if smallest < 1:
            raise ManyoneError(f"client {int(self.sizes.argmin())} has {smallest} samples: each needs at least 1")
        if int(self.sizes.max()) > self.table.shape[3]:
            raise ManyoneError(f"a client has {int(self.sizes.max())} samples, the table {self.table.shape[3]} places")
        if (scalar := next((name for name, value in self.fields.items() if not value.ndim), None)) is not None:
            raise ManyoneError(f"field {scalar!r} is one number: a field has a row for every sample, [N, ...]")
        counts = {name: len(value) for name, value in self.fields.items()}
        if len(set(counts.values())) > 1:
            raise ManyoneError(f"the fields have unequal numbers of samples: {counts}")
        pool = next(iter(counts.values()), None)
        if pool is not None and not 0 <= int(self.table.min()) <= int(self.table.max()) < pool:
            wrong = int(self.table.min() if int(self.table.min()) < 0 else self.table.max())
            raise ManyoneError(f"the table names row {wrong} of a pool of {pool} samples")

    @classmethod
    def of_parts(cls, fields: Mapping[str, Any], parts: Sequence[Any]) -> ClientData:
        """From one array of pool rows per client (a partition): their numbers, or a boolean mask [N]; fields are what
        ``fields.as_field`` takes, [N, ...]."""
        pool = _fields(fields)
        if isinstance(parts, str) or not hasattr(parts, "__len__"):
            raise ManyoneError(f"parts = {parts!r}: one array of row numbers for every client is needed")
        count = next((len(value) for value in pool.values() if value.ndim), None)
        rows = [_rows(part, i, count) for i, part in enumerate(parts)]
        sizes = torch.tensor([len(r) for r in rows])
        table = torch.zeros(len(rows), max(1, int(sizes.max())) if len(rows) else 1, dtype=torch.int64)
        for i, r in enumerate(rows):
            table[i, : len(r)] = r
        return cls(pool, table[None, None], sizes)

    @classmethod
    def of_shards(cls, fields: Mapping[str, Any]) -> ClientData:
        """From fields [m, n, ...]: client i holds row i."""
        tensors = _fields(fields)
        shapes = {name: tuple(value.shape[:2]) for name, value in tensors.items()}
        if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != 2:
            raise ManyoneError(f"shards are fields [m, n, ...] of the same m clients and n samples, got {shapes}")
        m, n = next(iter(tensors.values())).shape[:2]
        table = torch.arange(m * n).view(m, n)
        return cls({k: v.flatten(0, 1) for k, v in tensors.items()}, table[None, None], torch.full((m,), n))

    @classmethod
    def of_loaders(cls, loaders: Sequence[Iterable[Any]], names: Sequence[str] = ("features", "labels")) -> ClientData:
        """From one loader (of batches: tuples in the order of ``names``, or mappings) per client, each read once.

        Clients draw their batches themselves: a ``DataLoader`` that shuffles is read in its data set's order, so that
        the result depends on the seed alone; one that draws samples in another way is refused.
        """
        if isinstance(loaders, DataLoader):
            raise ManyoneError("loaders: give a list with one loader for every client, not a single loader")
        pools: dict[str, list[Tensor]] = {}
        parts, at = [], 0
        for i, loader in enumerate(loaders):
            count = 0
            for item in _in_order(loader, i):
                if not isinstance(item, Mapping) and (not isinstance(item, list | tuple) or len(item) != len(names)):
                    given = f"{len(item)} tensors" if isinstance(item, list | tuple) else f"a {type(item).__name__}"
                    wanted = ", ".join(names)
                    raise ManyoneError(
                        f"client {i}'s loader: batches of ({wanted}) are needed, it gives {given}: say names=(...)"
                    )
                batch = dict(item) if isinstance(item, Mapping) else dict(zip(names, item))
                for name, value in batch.items():
                    pools.setdefault(name, []).append(torch.as_tensor(value))
                count += len(next(iter(batch.values())))
            parts.append(torch.arange(at, at + count))
            at += count
        return cls.of_parts({name: torch.cat(values) for name, values in pools.items()}, parts)

    @classmethod
    def empty(cls, m: int) -> ClientData:
        """Clients without samples, for deterministic games."""
        return cls({}, torch.zeros(1, 1, m, 1, dtype=torch.int64), torch.ones(m, dtype=torch.int64))

    @property
    def clients(self) -> int:
        """m."""
        return len(self.sizes)

    @property
    def replicas(self) -> int:
        """Length of the replica axis."""
        return self.table.shape[0]

    @property
    def twins(self) -> int:
        """Length of the twin axis: 1, or 2 for a data set and its neighbour."""
        return self.table.shape[1]

    def repeated(self, replicas: int) -> ClientData:
        """The same data for several replicas, which differ by their draws alone."""
        if self.replicas not in (1, replicas):
            raise ManyoneError(f"replicas = {replicas}, but the data has a replica axis of {self.replicas}")
        return ClientData(self.fields, self.table.expand(replicas, -1, -1, -1), self.sizes)

    def with_twin(self, client: Sequence[int] | Tensor, place: Sequence[int] | Tensor, row: Any) -> ClientData:
        """Adds the neighbour: in replica r, sample ``place[r]`` of ``client[r]`` becomes pool row ``row[r]``."""
        if self.twins != 1:
            raise ManyoneError(f"this data has {self.twins} twins already")
        r = torch.arange(self.replicas)
        twin = self.table.clone()
        where = (torch.as_tensor(client), torch.as_tensor(place), torch.as_tensor(row))
        i, j, new = (torch.broadcast_to(value, (self.replicas,)) for value in where)
        if bool((j >= self.sizes[i]).any()):
            raise ManyoneError(f"sample {int(j.max())} does not exist on the client whose sample is to be replaced")
        twin[r, 0, i, j] = new
        return ClientData(self.fields, torch.cat([self.table, twin], 1), self.sizes)

    def shard(self, client: int) -> dict[str, Tensor]:
        """All samples of one client (a copy; of the first replica and twin)."""
        rows = self.table[0, 0, client, : int(self.sizes[client])]
        return {name: value[rows] for name, value in self.fields.items()}

    def pooled(self, replica: int = 0) -> dict[str, Tensor]:
        """The samples of all clients (a copy; of the first twin), client after client."""
        table = self.table[replica, 0]
        rows = torch.cat([table[i, :n] for i, n in enumerate(self.sizes.tolist())])
        return {name: value[rows] for name, value in self.fields.items()}


def client_data(data: Any, clients: int) -> ClientData:
    """``data``; without any, that of a deterministic game of ``clients``."""
    if data is None:
        return ClientData.empty(whole("clients", clients, 1))
    if not isinstance(data, ClientData):
        raise ManyoneError(f"data: a {type(data).__name__} does not say who holds what: make a ClientData, for example "
                           "with ClientData.of_parts(fields, parts)")  # fmt: skip
    return data


def _fields(fields: Any) -> dict[str, Tensor]:
    if not isinstance(fields, Mapping):
        raise ManyoneError(
            f"fields: a mapping is needed, {{'features': x, 'labels': y}}, not a {type(fields).__name__}"
        )
    return {name: as_field(value) for name, value in fields.items()}


def _rows(part: Any, client: int, count: int | None) -> Tensor:
    """Row numbers int64 [n] from numbers or a mask."""
    name = f"parts of client {client}"
    rows = tensor(name, part).flatten()
    if rows.dtype == torch.bool:
        if len(rows) != count:
            raise ManyoneError(f"{name}: a mask of {len(rows)} rows for a pool of {count}")
        return rows.nonzero()[:, 0]
    if len(rows) and (rows.is_floating_point() or rows.is_complex()):
        raise ManyoneError(f"{name}: row numbers are whole numbers, these are {rows.dtype}: .astype(int)")
    return rows.long()


def _in_order(loader: Iterable[Any], client: int) -> Iterable[Any]:
    """``loader``, in an order that no global random number decides."""
    sampler = getattr(loader, "sampler", None)
    if not isinstance(loader, DataLoader) or sampler is None or isinstance(sampler, SequentialSampler):
        return loader
    every = isinstance(sampler, RandomSampler) and not sampler.replacement
    if every and sampler.num_samples == len(sampler.data_source):
        order: Any = range(sampler.num_samples)
    elif isinstance(sampler, SubsetRandomSampler):
        order = list(sampler.indices)
    elif type(sampler).__module__.startswith("torch.utils.data"):
        if isinstance(loader.dataset, IterableDataset):
            return loader
        raise ManyoneError(
            f"client {client}'s loader draws samples at random ({type(sampler).__name__}): give one with all samples; "
            "clients draw their batches themselves"
        )
    else:
        return loader
    return DataLoader(loader.dataset, batch_size=loader.batch_size, sampler=order, collate_fn=loader.collate_fn,
                      num_workers=loader.num_workers)  # fmt: skip
