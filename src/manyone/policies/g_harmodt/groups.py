"""Groups of tasks from the direction of their gradients: G-HarmoDT's clustering.

Tasks whose gradients point the same way may share a mask. The published description says no more than that tasks are
clustered by gradient information; what follows is our reading of it:

- *signature* of task i: the mean v_i of its dense gradients u_i over several batches on the maskable weights, brought
  down by a fixed sparse random projection (inner products keep their expectation), made a unit vector, centred over
  the tasks and made a unit vector again. The first normalisation makes the result independent of the scale of a
  task's loss; without centring a component that all tasks share makes every cosine nearly 1.
- *clusters*: spherical k-means++ (maximises sum_i cos(v_i, centre of its group)), average linkage on 1 - cosine, or
  the number of groups with the best silhouette.

Paper: Task-Aware Harmony Multi-Task Decision Transformer (G-HarmoDT), arXiv 2411.01146.
Public names: ``SparseProjection``, ``signatures``, ``cluster``, ``Grouping``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.randomness import generator_for

Clustering = Literal["k-means", "agglomerative"]
MOST_AUTO_GROUPS = 12
SIGNATURE, SPREAD = 1024, 4  # entries of a projected gradient, and to how many of them each weight's gradient goes
RESTARTS = 20  # runs of k-means++, of which the best counts
_BLOCK = SIGNATURE // SPREAD


class SparseProjection:
    """A seeded sparse random projection of vectors of length ``inputs`` to 1024 entries, applied one vector at a time.

    Every input coordinate is added to s = 4 output coordinates, one in each of s equal blocks, with a random sign and
    the factor 1 / sqrt(s) (Kane & Nelson, "Sparser Johnson-Lindenstrauss transforms"). So E <Px, Py> = <x, y>, no
    coordinate is dropped, and a vector costs O(s * inputs) with no matrix kept.
    """

    def __init__(self, inputs: int, *, seed: int = 0) -> None:
        draws = generator_for(seed, "signature projection", inputs, SIGNATURE, SPREAD)
        # bucket and sign in one number: a draw below `_BLOCK` adds, one above subtracts
        self._draws = torch.randint(2 * _BLOCK, (SPREAD, inputs), generator=draws, dtype=torch.int32)

    def __call__(self, vector: Tensor) -> Tensor:
        """The projection of ``vector`` [inputs] -> float64 [1024] on the CPU."""
        vector = vector.detach().to("cpu", torch.float64)
        parts = []
        for draws in self._draws:
            both = torch.zeros(2 * _BLOCK, dtype=torch.float64).index_add_(0, draws, vector)
            parts.append(both[:_BLOCK] - both[_BLOCK:])
        return torch.cat(parts) / SPREAD**0.5


def signatures(vectors: Tensor) -> Tensor:
    """Unit signatures, float64 [N, p], of the tasks' (projected) mean gradients ``vectors`` [N, p].

    Rows are made unit vectors, centred over the tasks (if several), and made unit vectors again; a zero row stays zero.
    Invariant to a positive factor on any task's gradient. Raises ``ManyoneError`` when a gradient is not finite.
    """
    bad = (~torch.isfinite(vectors).all(dim=1)).nonzero().flatten().tolist()
    if bad:
        raise ManyoneError(f"the gradients of tasks {bad} are not finite: train on with a smaller learning rate")
    unit = _unit(vectors.to(torch.float64))
    return _unit(unit - unit.mean(dim=0)) if len(unit) > 1 else unit


def _unit(rows: Tensor) -> Tensor:
    norms = rows.norm(dim=1, keepdim=True)
    return torch.where(norms > 1e-12, rows / norms.clamp(min=1e-12), 0.0)


def _cosines(unit: Tensor) -> Tensor:
    return (unit @ unit.T).clamp(-1.0, 1.0)


@dataclass(frozen=True)
class Grouping:
    """Which group each task is in, and how good the clustering is."""

    assignment: tuple[int, ...]
    """Group of each task; groups are numbered in the order in which the tasks first name them."""
    cosines: Tensor
    """Cosine between the tasks' signatures, float64 [N, N]."""
    silhouettes: dict[int, float]
    """Silhouette (in [-1, 1], on 1 - cosine) of every number of groups that was tried and has one (2..N-1)."""

    @property
    def groups(self) -> int:
        """Number of groups."""
        return max(self.assignment) + 1

    @classmethod
    def of(cls, vectors: Tensor, assignment: Sequence[int], silhouettes: dict[int, float]) -> Grouping:
        """A known grouping of the tasks with (projected) mean gradients ``vectors`` [N, p]."""
        return cls(tuple(assignment), _cosines(signatures(vectors)), silhouettes)


def cluster(
    vectors: Tensor,
    groups: int | Literal["auto"],
    *,
    method: Clustering = "k-means",
    seed: int = 0,
) -> Grouping:
    """Clusters the tasks whose (projected) mean gradients are the rows of ``vectors`` [N, p].

    ``groups`` is their number (1..N) or "auto": the number in 2..min(12, N - 1) with the best silhouette. The result
    depends on the directions of the rows alone: neither on the order of the tasks nor on the size of the gradients.
    """
    count = len(vectors)
    if groups != "auto" and not 1 <= groups <= count:
        raise ManyoneError(f"groups = {groups}: must be auto or 1 to {count}, the number of tasks")
    if method not in ("k-means", "agglomerative"):
        raise ManyoneError(f"clustering method '{method}': must be k-means or agglomerative")
    unit = signatures(vectors)
    order = _canonical_order(unit)
    cosines = _cosines(unit)

    def split(number: int) -> list[int]:
        if number == 1:
            labels = [0] * count
        elif number == count:
            labels = list(range(count))
        else:
            in_order = unit[order]
            found = _k_means(in_order, number, seed) if method == "k-means" else _linkage(in_order, number)
            labels = [0] * count
            for place, task in enumerate(order):
                labels[task] = found[place]
        return _renumbered(labels)

    if groups != "auto":
        labels = split(groups)
        return Grouping(tuple(labels), cosines, _silhouettes(cosines, {groups: labels}))
    tried = {g: split(g) for g in range(2, min(MOST_AUTO_GROUPS, count - 1) + 1)}
    if not tried:  # one or two tasks: no silhouette exists, and nothing is gained by sharing
        return Grouping(tuple(split(count)), cosines, {})
    values = _silhouettes(cosines, tried)
    best = max(values, key=lambda g: (values[g], -g))
    return Grouping(tuple(tried[best]), cosines, values)


def _canonical_order(unit: Tensor) -> list[int]:
    """The tasks in an order that depends on their signatures alone, so that no draw depends on how they are listed."""
    keys = (unit * 1e9).round().tolist()
    return sorted(range(len(unit)), key=lambda i: keys[i])


def _renumbered(labels: Sequence[int]) -> list[int]:
    names: dict[int, int] = {}
    return [names.setdefault(g, len(names)) for g in labels]


def _silhouettes(cosines: Tensor, labels: dict[int, list[int]]) -> dict[int, float]:
    from sklearn.metrics import silhouette_score  # here: its import takes seconds

    distances = (1.0 - cosines).clamp(min=0.0).fill_diagonal_(0.0).numpy()
    return {
        g: float(silhouette_score(distances, assigned, metric="precomputed"))
        for g, assigned in labels.items()
        if 2 <= len(set(assigned)) < len(assigned)
    }


def _linkage(unit: Tensor, groups: int) -> list[int]:
    from sklearn.cluster import AgglomerativeClustering

    distances = (1.0 - unit @ unit.T).clamp(min=0.0).fill_diagonal_(0.0)
    model = AgglomerativeClustering(n_clusters=groups, metric="precomputed", linkage="average")
    return model.fit_predict(distances.numpy()).tolist()


def _k_means(unit: Tensor, groups: int, seed: int) -> list[int]:
    """The best of several runs of spherical k-means++, by sum_i cos(v_i, centre) = sum_g |sum of g's vectors|."""
    best, best_value = None, -float("inf")
    for restart in range(RESTARTS):
        draws = generator_for(seed, "group centres", groups, restart)
        labels = _settle(unit, _plus_plus(unit, groups, draws), groups)
        value = float(_sums(unit, labels, groups).norm(dim=1).sum())
        if value > best_value + 1e-9:
            best, best_value = labels, value
    assert best is not None
    return best.tolist()


def _plus_plus(unit: Tensor, groups: int, draws: torch.Generator) -> Tensor:
    """k-means++ seeding: every next centre is a task drawn with probability proportional to 1 - cosine."""
    first = int(torch.randint(len(unit), (1,), generator=draws))
    nearest = 1.0 - unit @ unit[first]
    chosen = [first]
    for _ in range(1, groups):
        weights = nearest.clamp(min=0.0)
        weights[chosen] = 0.0
        if float(weights.sum()) <= 0.0:  # only copies of the centres are left
            weights = torch.ones(len(unit), dtype=unit.dtype)
            weights[chosen] = 0.0
        chosen.append(int(torch.multinomial(weights, 1, generator=draws)))
        nearest = torch.minimum(nearest, 1.0 - unit @ unit[chosen[-1]])
    labels = (unit @ unit[chosen].T).argmax(dim=1)
    labels[chosen] = torch.arange(groups)
    return labels


def _sums(unit: Tensor, labels: Tensor, groups: int) -> Tensor:
    return unit.new_zeros(groups, unit.shape[1]).index_add_(0, labels, unit)


def _settle(unit: Tensor, labels: Tensor, groups: int) -> Tensor:
    """Lloyd's iterations, then single moves that raise the objective, until there is none; no group becomes empty.

    The single moves (Dhillon, Guan & Kogan's first variation) matter here: with few tasks in many dimensions a task
    dominates its own centre, and Lloyd's iterations stop at once.
    """
    for _ in range(100):
        renewed = (unit @ _unit(_sums(unit, labels, groups)).T).argmax(dim=1)
        if torch.equal(renewed, labels) or len(renewed.unique()) < groups:
            break
        labels = renewed
    for _ in range(100 * len(unit)):
        sums = _sums(unit, labels, groups)
        norms, sizes = sums.norm(dim=1), torch.bincount(labels, minlength=groups)
        without = (sums[labels] - unit).norm(dim=1) - norms[labels]
        joined = (sums[None] + unit[:, None]).norm(dim=2) - norms[None]
        gain = without[:, None] + joined
        gain[torch.arange(len(unit)), labels] = 0.0
        gain[sizes[labels] == 1] = 0.0
        best = int(gain.argmax())
        if float(gain.flatten()[best]) <= 1e-9:
            break
        labels = labels.clone()
        labels[best // groups] = best % groups
    return labels
