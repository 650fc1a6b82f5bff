"""Who talks to whom: doubly stochastic mixing matrices W(t), static and time-varying.

Z <- W Z after every round. W = 11^T/m is the server (or complete) form, a gossip matrix the decentralised one, the
identity isolates the clients. Undirected graphs get Metropolis-Hastings weights W_ij = 1 / (1 + max(deg_i, deg_j));
the exponential graphs are directed circulants with equal weights. lambda = ||W - 11^T/m||_2, spectral gap 1 - lambda.
Public: ``Topology``, ``TOPOLOGIES``, ``metropolis_hastings``, ``repair``, ``contraction``, ``grid_shape``.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.arguments import tensor, whole
from manyone.randomness import generator_for

STATIC = ("server", "complete", "exponential", "torus", "grid", "ring", "path", "star", "isolated")
VARYING = ("one-peer-exponential", "random-matching", "hierarchical")
TOPOLOGIES = STATIC + VARYING
Edges = frozenset[tuple[int, int]]


@dataclass(frozen=True)
class Topology:
    """A communication graph by name, usable for any number of clients ``m``, or a custom one for a fixed ``m``.

    Names: ``server`` and ``complete`` (W = 11^T/m; a server also overwrites the clients that did not take part),
    ``exponential``, ``torus``, ``grid``, ``ring``, ``path``, ``star``, ``isolated``; time-varying:
    ``one-peer-exponential`` (round t: offset 2^(t mod log2 m)), ``random-matching`` (pairs drawn from ``seed`` and t),
    ``hierarchical`` (averages inside consecutive groups of ``group`` clients, among all every ``every``-th round).
    ``connected`` refuses custom edges that leave some client without a path to the others.
    Custom: ``from_edges``, ``from_matrix``, ``from_networkx``, ``from_file``.
    """

    name: str
    seed: int = 0
    group: int = 0
    every: int = 4
    edges: Edges | None = None
    matrix: tuple[tuple[float, ...], ...] | None = None
    connected: bool = False

    def __post_init__(self) -> None:
        custom = self.edges is not None or self.matrix is not None
        if self.name not in TOPOLOGIES and not custom:
            raise ManyoneError(f"topology {self.name!r}: choose one of {', '.join(TOPOLOGIES)}")
        if self.name == "hierarchical" and (self.group < 1 or self.every < 1):
            raise ManyoneError(f"hierarchical: group = {self.group} and every = {self.every} must be at least 1")

    @classmethod
    def of(cls, value: Topology | str) -> Topology:
        """A topology from its name, or the topology itself."""
        if not isinstance(value, (Topology, str)):
            raise ManyoneError(f"topology: a {type(value).__name__} is no topology: give a name, or make one with "
                               "Topology.from_matrix, from_edges, from_networkx or from_file")  # fmt: skip
        return value if isinstance(value, Topology) else cls(value)

    @classmethod
    def from_edges(cls, edges: Iterable[tuple[int, int]], name: str = "custom", *, connected: bool = False) -> Topology:
        """An undirected graph on clients 0..m-1 with Metropolis-Hastings weights; self-loops and repeats vanish."""
        try:
            pairs = [(whole("client", i), whole("client", j)) for i, j in edges]
        except (TypeError, ValueError):
            raise ManyoneError(f"topology {name}: edges are pairs of client numbers, (0, 1), (1, 2), ...") from None
        return cls(name, edges=frozenset((min(i, j), max(i, j)) for i, j in pairs if i != j), connected=connected)

    @classmethod
    def from_networkx(cls, graph: Any, name: str = "custom") -> Topology:
        """An undirected networkx graph; its nodes, in their order, are clients 0..m-1."""
        if graph.is_directed():
            raise ManyoneError("from_networkx takes undirected graphs; give a directed one to from_matrix")
        number = {node: i for i, node in enumerate(graph.nodes)}
        return cls.from_edges(((number[a], number[b]) for a, b in graph.edges), name)

    @classmethod
    def from_matrix(cls, matrix: Tensor, name: str = "custom") -> Topology:
        """Given weights [m, m]: non-negative, rows and columns summing to 1 (to 1e-9)."""
        matrix = tensor("a mixing matrix", matrix).double()
        if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ManyoneError(f"a mixing matrix is square, this one is {list(matrix.shape)}")
        worst = max(float((matrix.sum(d) - 1).abs().max()) for d in (0, 1))
        if float(matrix.min()) < 0 or not worst <= 1e-9:
            raise ManyoneError(f"mixing weights must be >= 0 with rows and columns summing to 1 (off by {worst:.2g})")
        return cls(name, matrix=tuple(tuple(row) for row in matrix.tolist()))

    @classmethod
    def from_file(cls, path: Path | str) -> Topology:
        """An edge list: one pair of client numbers (from 0) a line; ``#`` starts a comment. It connects all clients."""
        edges = []
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
            raise ManyoneError(f"{path} cannot be read: {reason}") from None
        for number, line in enumerate(lines, 1):
            words = line.split("#")[0].replace(",", " ").split()
            if words and (len(words) != 2 or not all(word.isdigit() for word in words)):
                raise ManyoneError(f"{path}, line {number}: expected two client numbers, found {line.strip()!r}")
            if words:
                edges.append((int(words[0]), int(words[1])))
        return cls.from_edges(edges, name=str(path), connected=True)

    def weights(self, t: int, m: int) -> Tensor:
        """W(t) [m, m] float64; row i holds the weights with which client i combines what it receives."""
        if m < 1:
            raise ManyoneError(f"{m} clients: there must be at least 1")
        if self.matrix is not None:
            if len(self.matrix) != m:
                raise ManyoneError(f"topology {self.name} is made for {len(self.matrix)} clients, not {m}")
            return torch.tensor(self.matrix, dtype=torch.float64)
        if self.edges is not None:
            if self.edges and max(j for _, j in self.edges) >= m:
                raise ManyoneError(f"topology {self.name} names client {max(j for _, j in self.edges)} of {m}")
            if self.connected:
                _check_connected(self.edges, m, self.name)
            return metropolis_hastings(self.edges, m)
        if self.averages(t, m):
            return torch.full((m, m), 1 / m, dtype=torch.float64)
        if self.name == "exponential":
            offsets = {0} | {1 << k for k in range((m - 1).bit_length())}
            return _circulant(sorted(offsets), m)
        if self.name == "one-peer-exponential":
            return _circulant([0, 1 << t % max(1, (m - 1).bit_length())], m) if m > 1 else torch.eye(1).double()
        if self.name == "random-matching":
            return _matching(self.seed, t, m)
        if self.name == "hierarchical":
            if m % self.group:
                raise ManyoneError(f"hierarchical: groups of {self.group} do not divide {m} clients")
            block = torch.full((self.group, self.group), 1 / self.group, dtype=torch.float64)
            return torch.block_diag(*[block] * (m // self.group))
        return metropolis_hastings(_graph(self.name, m), m)

    def averages(self, t: int, m: int) -> bool:
        """Whether round ``t`` is an exact average over all clients (one all-reduce instead of messages to peers)."""
        return self.name in ("server", "complete") or (self.name == "hierarchical" and (t + 1) % self.every == 0)

    def period(self, m: int) -> int | None:
        """W(t + period) = W(t); None when the matrices never repeat."""
        if self.name == "one-peer-exponential":
            return max(1, (m - 1).bit_length())
        if self.name == "random-matching":
            return None
        return self.every if self.name == "hierarchical" else 1

    @property
    def varies(self) -> bool:
        """Whether W depends on the round."""
        return self.name in VARYING and self.matrix is None and self.edges is None

    def symmetric(self, m: int) -> bool:
        """Whether every W(t) is symmetric (what repair after failures needs)."""
        if self.matrix is not None:
            w = self.weights(0, m)
            return bool(torch.equal(w, w.T))
        return m <= 2 or self.name not in ("exponential", "one-peer-exponential")

    def contraction(self, m: int) -> float:
        """lambda: the factor by which one round shrinks the disagreement between the clients, in [0, 1].

        For a periodic sequence the geometric mean over one period; for random matching sqrt(||E W^T W - 11^T/m||).
        """
        period = self.period(m)
        if period is None:  # E W = (I + E P) / 2 for the random permutation P of the pairs, and W^T W = W
            return 0.0 if m <= 2 else math.sqrt((m - 2) / (2 * (m - 1)) if m % 2 == 0 else 0.5)
        product = torch.eye(m, dtype=torch.float64)
        for t in range(period):
            product = self.weights(t, m) @ product
        value = contraction(product)
        return 0.0 if value < 1e-12 else value ** (1 / period)

    def neighbours(self, t: int, m: int) -> list[list[int]]:
        """For every client the others from which it receives in round ``t``, ascending."""
        w = self.weights(t, m)
        return [[j for j in row.nonzero().flatten().tolist() if j != i] for i, row in enumerate(w)]

    def degree(self, m: int) -> int:
        """The largest number of peers a client sends to in one round."""
        rounds = range(self.period(m) or 1)
        return max(int(((self.weights(t, m) > 0).sum(0) - 1).max()) for t in rounds)

    def bytes_per_round(self, m: int, size: int, itemsize: int = 4) -> float:
        """Bytes the busiest client sends in one round, averaged over a period; ``size`` = P numbers of ``itemsize``.

        Gossip: degree * P * itemsize. An exact average is a ring all-reduce: 2 P * itemsize (0 for one client).
        """
        rounds = self.period(m) or 1
        total = 0
        for t in range(rounds):
            peers = int(((self.weights(t, m) > 0).sum(0) - 1).max())
            total += (2 if m > 1 else 0) if self.averages(t, m) else peers
        return total * size * itemsize / rounds


def metropolis_hastings(edges: Iterable[tuple[int, int]], m: int) -> Tensor:
    """Symmetric doubly stochastic weights [m, m] float64 of an undirected graph given as pairs (a SET of pairs)."""
    adjacency = torch.zeros(m, m, dtype=torch.bool)
    for i, j in edges:
        adjacency[i, j] = adjacency[j, i] = i != j
    degree = adjacency.sum(1)
    w = adjacency.double() / (1 + torch.maximum(degree[:, None], degree[None, :])).double()
    w[range(m), range(m)] = 1 - w.sum(1)
    return w


def contraction(w: Tensor) -> float:
    """||W - 11^T/m||_2 of one matrix."""
    m = w.shape[0]
    return float(torch.linalg.matrix_norm(w - 1 / m, ord=2))


def grid_shape(m: int) -> tuple[int, int]:
    """Rows and columns of the most nearly square grid of ``m`` clients; a prime ``m`` gives (1, m)."""
    rows = next(r for r in range(math.isqrt(m), 0, -1) if m % r == 0)
    return rows, m // rows


def repair(w: Tensor, alive: Tensor, by: str = "rows") -> Tensor:
    """W' [..., m, m] when only the clients ``alive`` (bool [..., m]) take part: lost weight goes to the diagonal.

    ``by="rows"`` keeps the row sums at 1; for symmetric W the column sums too, so that the mean is preserved.
    ``by="columns"`` keeps the column sums (what push-sum needs on directed graphs). Failed clients keep their state.
    """
    if by not in ("rows", "columns"):
        raise ManyoneError(f"repair: by = {by!r}, choose 'rows' or 'columns'")
    both = alive[..., :, None] & alive[..., None, :]
    kept = torch.where(both, w, torch.zeros((), dtype=w.dtype, device=w.device))
    lost = 1 - kept.sum(-1 if by == "rows" else -2)
    return kept + torch.diag_embed(lost)


def _check_connected(edges: Edges, m: int, name: str) -> None:
    i, j = zip(*edges) if edges else ((), ())
    _, group = connected_components(coo_array((np.ones(len(edges)), (i, j)), shape=(m, m)), directed=False)
    apart = np.flatnonzero(group != group[0])
    if len(apart):
        some = ", ".join(map(str, apart[:5])) + (", ..." if len(apart) > 5 else "")
        raise ManyoneError(f"topology {name}: no path leads from client 0 to client {some} of {m}: they would never "
                           "agree; add edges, or take --topology isolated")  # fmt: skip


def _circulant(offsets: list[int], m: int) -> Tensor:
    """Equal weights on i -> i + offset mod m."""
    distinct = sorted({offset % m for offset in offsets})
    w = torch.zeros(m, m, dtype=torch.float64)
    i = torch.arange(m)
    for offset in distinct:
        w[i, (i + offset) % m] = 1 / len(distinct)
    return w


def _matching(seed: int, t: int, m: int) -> Tensor:
    """Random disjoint pairs average; with an odd ``m`` one client stays alone."""
    order = torch.randperm(m, generator=generator_for(seed, "matching", m, t))
    first, second = order[0 : m - 1 : 2], order[1:m:2]
    w = torch.eye(m, dtype=torch.float64)
    w[first, first] = w[second, second] = w[first, second] = w[second, first] = 0.5
    return w


def _graph(name: str, m: int) -> set[tuple[int, int]]:
    """Undirected edges as a set, so that neighbours that coincide (a side of two) count once."""
    if name == "isolated":
        return set()
    if name == "star":
        return {(0, i) for i in range(1, m)}
    if name in ("path", "ring"):
        edges = {(i, i + 1) for i in range(m - 1)}
        return edges | {(0, m - 1)} if name == "ring" and m > 2 else edges
    rows, columns = grid_shape(m)
    if rows == 1 and m > 3:
        line = "ring" if name == "torus" else "path"
        warnings.warn(f"a {name} of {m} clients (a prime number) is only a {line}", stacklevel=3)
    edges = set()
    for r in range(rows):
        for c in range(columns):
            for down, right in ((r + 1, c), (r, c + 1)):
                if name == "torus":
                    down, right = down % rows, right % columns
                elif down >= rows or right >= columns:
                    continue
                pair = (r * columns + c, down * columns + right)
                if pair[0] != pair[1]:
                    edges.add((min(pair), max(pair)))
    return edges
