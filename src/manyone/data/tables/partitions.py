"""Who holds which rows: a table's rows dealt to m clients, iid, by class or by Dirichlet shares.

Every function returns one int64 index tensor per client, disjoint, a function of (labels, m, seed) alone.

- ``iid``: a random, equal deal.
- ``by-class``: rows sorted by label and cut into m runs, so that most clients see one class (label-sorted).
- ``dirichlet``: class c is dealt by shares ~ Dirichlet(alpha, ..., alpha); small alpha is heterogeneous. Hsu, Qi,
  Brown, "Measuring the effects of non-identical data distribution", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.randomness import generator_for, seed_for

Kind = Literal["iid", "by-class", "dirichlet"]


def partition(
    labels: Tensor,
    clients: int,
    *,
    kind: Kind = "iid",
    seed: int = 0,
    alpha: float = 0.5,
    per_client: int | None = None,
    minimum: int = 1,
) -> list[Tensor]:
    """Deals the rows of ``labels`` (int64 [N]) to ``clients`` clients.

    ``per_client`` = n gives every client exactly n rows (iid and by-class use the first m n rows of the random order;
    dirichlet deals quotas), None deals all rows, sizes then differ by one (iid, by-class) or freely (dirichlet), but
    none falls below ``minimum``. Raises :class:`ManyoneError` when there are too few rows.
    """
    total = len(labels)
    if clients < 1:
        raise ManyoneError(f"clients must be at least 1, got {clients}")
    least = per_client if per_client is not None else minimum
    if least < 1 or clients * least > total:
        raise ManyoneError(
            f"{clients} clients with {least} rows each need {max(clients * least, clients)} rows, the training set has "
            f"{total}: take fewer clients or fewer rows (at most {total // clients} each)"
        )
    if kind == "iid":
        return _cut(torch.randperm(total, generator=generator_for(seed, "partition", "iid")), clients, per_client)
    if kind == "by-class":
        order = torch.randperm(total, generator=generator_for(seed, "partition", "by-class"))
        order = order if per_client is None else order[: clients * per_client]
        return _cut(order[labels[order].argsort(stable=True)], clients, per_client)
    if kind == "dirichlet":
        if not alpha > 0:
            raise ManyoneError(f"alpha must be above 0 (small: heterogeneous, large: iid), got {alpha}")
        return _dirichlet(labels, clients, seed, alpha, per_client, minimum)
    raise ManyoneError(f"partition {kind!r} is not known: iid, by-class or dirichlet")


def partition_counts(labels: Tensor, parts: Sequence[Tensor], classes: int) -> Tensor:
    """int64 [m, classes]: how many rows of each class every client holds; row sums are the sizes."""
    return torch.stack([labels[p].bincount(minlength=classes) for p in parts])


def describe_partition(labels: Tensor, parts: Sequence[Tensor], classes: int) -> str:
    """One line: sizes, and the mean share of a client's most frequent class."""
    counts = partition_counts(labels, parts, classes)
    sizes = counts.sum(1)
    top = float((counts.max(1).values / sizes).mean())
    spread = str(int(sizes[0])) if sizes.min() == sizes.max() else f"{int(sizes.min())} to {int(sizes.max())}"
    return f"{len(parts)} clients with {spread} rows; the most frequent class makes up {top:.0%} of a client's rows"


def _cut(order: Tensor, clients: int, per_client: int | None) -> list[Tensor]:
    if per_client is not None:
        return list(order[: clients * per_client].split(per_client))
    return list(order.tensor_split(clients))


def _dirichlet(
    labels: Tensor, clients: int, seed: int, alpha: float, per_client: int | None, minimum: int
) -> list[Tensor]:
    rng = np.random.Generator(np.random.Philox(seed_for(seed, "partition", "dirichlet")))
    codes = labels.numpy()
    pools = [rng.permutation(np.flatnonzero(codes == c)) for c in np.unique(codes)]
    if per_client is None:
        parts = _deal_classes(rng, pools, clients, alpha)
        _top_up(parts, minimum)
    else:
        parts = _deal_quotas(rng, pools, clients, alpha, per_client)
    return [torch.from_numpy(np.sort(np.array(p, dtype=np.int64))) for p in parts]


def _deal_classes(rng: np.random.Generator, pools: list[np.ndarray], clients: int, alpha: float) -> list[list[int]]:
    """Every class is cut by its own Dirichlet shares over clients."""
    parts: list[list[int]] = [[] for _ in range(clients)]
    for pool in pools:
        cuts = (np.cumsum(rng.dirichlet(np.full(clients, alpha)))[:-1] * len(pool)).round().astype(int)
        for part, piece in zip(parts, np.split(pool, cuts), strict=True):
            part.extend(piece.tolist())
    return parts


def _top_up(parts: list[list[int]], minimum: int) -> None:
    """Clients below ``minimum`` take single rows from the then largest client."""
    for part in parts:
        while len(part) < minimum:
            part.append(max(parts, key=len).pop())


def _deal_quotas(
    rng: np.random.Generator, pools: list[np.ndarray], clients: int, alpha: float, per_client: int
) -> list[list[int]]:
    """Client by client: class shares ~ Dirichlet(alpha * class frequency * classes), then ``per_client`` rows drawn by
    them from what is left; a class that is used up passes its share to the others."""
    left = [p.tolist() for p in pools]
    frequency = np.array([len(p) for p in pools], dtype=np.float64)
    prior = alpha * len(pools) * frequency / frequency.sum()
    parts = []
    for _ in range(clients):
        share = rng.dirichlet(prior)
        part: list[int] = []
        while len(part) < per_client:
            room = np.array([len(p) for p in left])
            weight = np.where(room > 0, np.maximum(share, 1e-12), 0.0)
            draw = rng.multinomial(per_client - len(part), weight / weight.sum())
            for pool, count in zip(left, np.minimum(draw, room), strict=True):
                part += [pool.pop() for _ in range(int(count))]
        parts.append(part)
    return parts
