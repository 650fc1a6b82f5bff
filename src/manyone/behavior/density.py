"""Weights by the inverse density of states: SDW-OBD (Lei, Cheng and Tao, arXiv 2512.06692).

The follow-up of the published method multiplies the weight of every recorded state in the outer loss by the reciprocal
of its density in the data, so that seldom-seen states count. What is known here of the paper leaves open how the
density is estimated (one summary names a masked autoregressive flow, another a kernel), its exponent and what is done
about the tails; no program was published. So this is ours::

    r_i     distance of state i to its k-th neighbour among m states drawn from the data, itself left out
    d       dimension that the data really have (Levina and Bickel 2004, with MacKay and Ghahramani's mean)
    1/p_i   in proportion to r_i^d
    w_i     min((1/p_i)^exponent, c), scaled to mean 1, with c such that none is above 10

The data fill far fewer dimensions than a state has numbers, and r to the power of the latter would leave a handful of
states with all the weight. m and k fix what is paid: 2 million states of 17 numbers take about half a minute.

Public names: :func:`density_weights`, :func:`inverse_density_weights`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyone.behavior.data import BehaviorData
from manyone.errors import ManyoneError
from manyone.randomness import generator_for

LARGEST = 10.0
"""The largest weight."""
_REFERENCES, _NEIGHBOURS = 4096, 20
FEWEST = _NEIGHBOURS + 2
"""States that have a density."""
_ROWS = 1 << 17
"""States whose neighbours are sought at a time."""
Doubles = NDArray[np.float64]


def density_weights(data: BehaviorData, exponent: float = 1.0, seed: int = 0) -> Tensor:
    """Weights float32 [n] of the states of ``data``, of mean 1; see :func:`inverse_density_weights`."""
    found = inverse_density_weights(data.states.cpu().numpy(), exponent, seed)
    return torch.from_numpy(found.astype(np.float32)).to(data.states.device)


def inverse_density_weights(states: NDArray[np.float32], exponent: float = 1.0, seed: int = 0) -> Doubles:
    """(1 / density)^exponent of each of ``states`` [n, S] among all of them, of mean 1 and at most ``LARGEST``."""
    if not exponent >= 0:
        raise ManyoneError(f"density exponent {exponent}: must be 0 or more")
    if len(states) < FEWEST:
        raise ManyoneError(f"{len(states)} states: their density needs {FEWEST} or more")
    from sklearn.neighbors import NearestNeighbors  # here: its import takes seconds

    drawn = torch.randperm(len(states), generator=generator_for(seed, "density"))[:_REFERENCES].numpy()
    references = np.ascontiguousarray(states[drawn], dtype=np.float32)
    search = NearestNeighbors(n_neighbors=_NEIGHBOURS, algorithm="brute").fit(references)
    among, _ = search.kneighbors()  # of the references themselves: without arguments a point is not its own neighbour
    dimension = intrinsic_dimension(among)
    radius = np.empty(len(states))
    for start in range(0, len(states), _ROWS):
        radius[start : start + _ROWS] = search.kneighbors(states[start : start + _ROWS])[0][:, -1]
    radius[drawn] = among[:, -1]
    log_radius = np.log(np.maximum(radius, _floor(radius)))
    return _bounded(exponent * dimension * (log_radius - log_radius.mean()))


def intrinsic_dimension(distances: Doubles) -> float:
    """The dimension of the set that points lie on, from their distances [m, k] to their k nearest neighbours.

    1/d is the mean of log(r_k / r_j) over points and j < k. Points with neighbours at distance 0 tell nothing and are
    left out; where all are, it is 1.
    """
    kept = distances[(distances[:, 0] > 0) & (distances[:, -1] > distances[:, 0])]
    if not len(kept):
        return 1.0
    return float(1 / np.log(kept[:, -1:] / kept[:, :-1]).mean())


def _floor(radius: Doubles) -> float:
    """What a distance counts at least: repeated states have a density, if a large one."""
    positive = radius[radius > 0]
    return float(np.quantile(positive, 0.01)) if len(positive) else 1.0


def _bounded(logs: Doubles) -> Doubles:
    """exp(logs) up to a bound, scaled to mean 1, so that none is above ``LARGEST``."""
    low, high = logs.min(), logs.max()  # of log c; the mean of min(exp(logs), c) / c falls as c grows

    def shares(log_bound: float) -> Doubles:
        return np.exp(np.minimum(logs - log_bound, 0))  # a difference of logarithms never overflows

    if shares(high).mean() * LARGEST >= 1:
        low = high
    for _ in range(60 if low < high else 0):
        middle = (low + high) / 2
        low, high = (middle, high) if shares(middle).mean() * LARGEST >= 1 else (low, middle)
    values = shares(low)
    return values / values.mean()
