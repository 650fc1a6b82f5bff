"""Neighbouring data sets for the stability laboratory: who holds what, and which sample is replaced by what.

In replica r the pool is dealt anew: unseen test rows, rows kept for replacements, and the clients' training rows. Two
neighbours: ``"one"``, one sample of one client is an independent copy; ``"per_client"``, one sample of EVERY client is
(m times weaker a notion); ``"none"``, S' = S, the control whose distances must be exactly 0.
Public: ``Twins``, ``draw_twins``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from manyone.data.tables.partitions import Kind, partition
from manyone.errors import ManyoneError
from manyone.minimax.client_data import ClientData
from manyone.randomness import generator_for, seed_for

Neighbour = Literal["one", "per_client", "none"]
_RESERVE = 0.05


@dataclass(frozen=True)
class Twins:
    """``data``: client data with replicas and two twins; ``test``: pool rows int64 [R, N]; ``changed``: bool [R, m],
    whose sample differs; ``place``: int64 [R, m], which one."""

    data: ClientData
    test: Tensor
    changed: Tensor
    place: Tensor

    @property
    def client(self) -> Tensor:
        """The first client whose sample differs, int64 [R] (0 for the control)."""
        return self.changed.to(torch.int8).argmax(1)


def draw_twins(
    fields: Mapping[str, Tensor],
    labels: Tensor,
    *,
    clients: int,
    samples: int,
    replicas: int,
    seed: int = 0,
    neighbour: Neighbour = "one",
    kind: Kind = "iid",
    alpha: float = 0.5,
    test: int = 1000,
) -> Twins:
    """Deals the pool ``fields`` (rows with class numbers ``labels`` [N]) to ``clients`` x ``samples``, R times.

    The replacement is a fresh draw from the SAME client's distribution: a kept row whose label is that of a random
    sample of the client. Test rows and the order of rows depend on (seed, replica) alone, so that grid points with
    other numbers of clients or samples see nested data.
    """
    if neighbour not in ("one", "per_client", "none"):
        raise ManyoneError(f"neighbour = {neighbour!r}: choose 'one', 'per_client' or 'none'")
    total = len(labels)
    reserve = max(len(labels.unique()), round(_RESERVE * total))
    if test < 1 or total < test + reserve + clients * samples:
        raise ManyoneError(
            f"{total} rows are too few for {clients} clients x {samples} samples, {test} test rows and {reserve} kept "
            f"for replacements: take fewer clients, samples or test rows"
        )
    tables, twins, tests, changed, places = [], [], [], [], []
    for r in range(replicas):
        order = torch.randperm(total, generator=generator_for(seed, "stability split", r))
        tests.append(order[:test])
        kept, train = order[test : test + reserve], order[test + reserve :]
        deal = partition(labels[train], clients, kind=kind, seed=seed_for(seed, "stability deal", r), alpha=alpha,
                         per_client=samples)  # fmt: skip
        table = train[torch.stack(deal)]
        source = generator_for(seed, "stability neighbour", r)
        draws = torch.rand(4, generator=source, dtype=torch.float64)
        chosen = torch.full((clients,), neighbour == "per_client")
        if neighbour == "one":
            chosen[int(draws[0] * clients)] = True
        place = torch.rand(clients, generator=source, dtype=torch.float64)
        alike = torch.rand(clients, 2, generator=source, dtype=torch.float64)
        if neighbour == "one":  # the same draws whatever the number of clients
            place, alike = draws[1].expand(clients), draws[2:].expand(clients, 2)
        place = (place * samples).long()
        twin = table.clone()
        for i in chosen.nonzero().flatten().tolist():
            label = labels[table[i, int(alike[i, 0] * samples)]]
            candidates = kept[labels[kept] == label]
            if not len(candidates):
                raise ManyoneError(f"no row of class {int(label)} is left as a replacement: take fewer test rows")
            twin[i, place[i]] = candidates[int(alike[i, 1] * len(candidates))]
        tables.append(table)
        twins.append(twin)
        changed.append(chosen)
        places.append(place)
    both = torch.stack([torch.stack(tables), torch.stack(twins)], 1)
    data = ClientData(fields, both, torch.full((clients,), samples))
    return Twins(data, torch.stack(tests), torch.stack(changed), torch.stack(places))
