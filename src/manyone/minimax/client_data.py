"""The clients' samples: one pool of tensors and a table of which rows belong to whom. Shards are never copied.

Public: ``ClientData``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from manyone.errors import ManyoneError
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
        smallest = int(self.sizes.min())
        if smallest < 1:
            raise ManyoneError(f"client {int(self.sizes.argmin())} has {smallest} samples: each needs at least 1")
        if int(self.sizes.max()) > self.table.shape[3]:
            raise ManyoneError(f"a client has {int(self.sizes.max())} samples, the table {self.table.shape[3]} places")
        counts = {name: len(value) for name, value in self.fields.items()}
        if len(set(counts.values())) > 1:
            raise ManyoneError(f"the fields have unequal numbers of samples: {counts}")
        pool = next(iter(counts.values()), None)
        if pool is not None and not 0 <= int(self.table.min()) <= int(self.table.max()) < pool:
            raise ManyoneError(f"the table names row {int(self.table.max())} of a pool of {pool} samples")

    @classmethod
    def of_parts(cls, fields: Mapping[str, Any], parts: Sequence[Any]) -> ClientData:
        """From one array of pool rows per client (a partition); fields are what ``fields.as_field`` takes, [N, ...]."""
        rows = [torch.as_tensor(part, dtype=torch.int64).flatten() for part in parts]
        sizes = torch.tensor([len(r) for r in rows])
        table = torch.zeros(len(rows), max(1, int(sizes.max())) if len(rows) else 1, dtype=torch.int64)
        for i, r in enumerate(rows):
            table[i, : len(r)] = r
        return cls({name: as_field(value) for name, value in fields.items()}, table[None, None], sizes)

    @classmethod
    def of_shards(cls, fields: Mapping[str, Any]) -> ClientData:
        """From fields [m, n, ...]: client i holds row i."""
        tensors = {name: as_field(value) for name, value in fields.items()}
        m, n = next(iter(tensors.values())).shape[:2]
        table = torch.arange(m * n).view(m, n)
        return cls({k: v.flatten(0, 1) for k, v in tensors.items()}, table[None, None], torch.full((m,), n))

    @classmethod
    def of_loaders(cls, loaders: Sequence[Iterable[Any]], names: Sequence[str] = ("features", "labels")) -> ClientData:
        """From one loader (of batches: tuples in the order of ``names``, or mappings) per client, each read once."""
        pools: dict[str, list[Tensor]] = {}
        parts, at = [], 0
        for loader in loaders:
            count = 0
            for item in loader:
                batch = dict(item) if isinstance(item, Mapping) else dict(zip(names, item, strict=True))
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
