"""Small sets of pairs that nothing has been learned for: where a synthetic set starts, and what it has to beat.

All but the last two are the initialisers of the authors' program for arXiv 2410.22728; each takes (data, labels, size,
seed) and returns states [N, S] and actions [N, A]. ``INITS`` has them by name:

    random       random recorded pairs
    teacher      the same states with the teacher's actions (ours: tells the action's part of a result from the states')
    top-q        the recorded pairs with the largest q*(s, a)
    k-means++    recorded pairs whose states are far from each other: the seeding of k-means
    k-means-q    of every k-means cluster of states the recorded pair with the largest q*(s, a)
    xavier       uniform numbers with Glorot's bound sqrt(6 / (N + width)): near the mean state
    gaussian     standard normal states and uniform actions: no pair is recorded (ours; the authors' "random" starts
                 all pairs at one state)

Of discrete actions the last two give random probabilities. Everything is drawn from (seed, name) alone.

Public names: ``INITS``, ``NEEDS_VALUES``, ``INVENTED``, :func:`initial_pairs`, and the initialisers.
"""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from manyone.behavior.checks import check_whole
from manyone.behavior.data import BehaviorData
from manyone.behavior.teachers.teacher import Labels
from manyone.engine.words import suggestion
from manyone.errors import ManyoneError
from manyone.randomness import generator_for, seed_for

_CLUSTERED = 100_000
"""States that clusters are sought in, drawn at random: more move the centres little."""
Pairs = tuple[Tensor, Tensor]


class Init(Protocol):
    """An initialiser."""

    def __call__(self, data: BehaviorData, labels: Labels | None, size: int, seed: int) -> Pairs:
        """``size`` states and actions."""


def random_pairs(data: BehaviorData, labels: Labels | None, size: int, seed: int) -> Pairs:
    """Distinct recorded pairs."""
    rows = _random_rows(data, size, seed)
    return data.states[rows], data.actions[rows]


def teacher_pairs(data: BehaviorData, labels: Labels | None, size: int, seed: int) -> Pairs:
    """The states of :func:`random_pairs` under the same seed, with the teacher's actions."""
    if labels is None:
        raise ManyoneError("the start 'teacher' has the teacher's actions: give a teacher")
    rows = _random_rows(data, size, seed)
    return data.states[rows], labels.actions[rows]


def top_q_pairs(data: BehaviorData, labels: Labels | None, size: int, seed: int) -> Pairs:
    """The recorded pairs with the largest values; of equal ones the earlier."""
    rows = torch.argsort(_values(labels, "top-q"), descending=True, stable=True)[:size]
    return data.states[rows], data.actions[rows]


def spread_pairs(data: BehaviorData, labels: Labels | None, size: int, seed: int) -> Pairs:
    """k-means++ (Arthur and Vassilvitskii 2007): a state is drawn with the square of its distance to those drawn."""
    from sklearn.cluster import kmeans_plusplus  # here: its import takes seconds

    candidates = _candidates(data, size, seed)
    states = data.states[candidates].cpu().numpy()
    _, chosen = kmeans_plusplus(states, size, random_state=_random_state(seed, "k-means++"))
    # states that are there several times may be chosen twice: others take their place
    rows = _filled(candidates[torch.from_numpy(np.asarray(chosen, np.int64))], candidates, size)
    return data.states[rows], data.actions[rows]


def cluster_q_pairs(data: BehaviorData, labels: Labels | None, size: int, seed: int) -> Pairs:
    """The best recorded pair of every cluster; clusters without any are made up for by the best pairs left."""
    from sklearn.cluster import MiniBatchKMeans

    values = _values(labels, "k-means-q")
    candidates = _candidates(data, size, seed)
    random_state = _random_state(seed, "k-means-q")
    model = MiniBatchKMeans(size, random_state=random_state, batch_size=4096, n_init=1, max_iter=20)
    model.fit(data.states[candidates].cpu().numpy())
    cluster = torch.from_numpy(model.predict(data.states.cpu().numpy()).astype(np.int64))
    order = torch.argsort(values, descending=True, stable=True).cpu()
    clusters = cluster[order].numpy()
    _, first = np.unique(clusters, return_index=True)  # the first of each in the order of values
    rows = _filled(order[torch.from_numpy(np.sort(first))], order, size)
    return data.states[rows], data.actions[rows]


def gaussian_pairs(data: BehaviorData, labels: Labels | None, size: int, seed: int) -> Pairs:
    """Standard normal states (data are standardised), uniform actions."""
    generator = generator_for(seed, "gaussian pairs")
    states = torch.randn(size, data.state_dim, generator=generator)
    return _placed(data, states, _random_actions(data, size, generator))


def xavier_pairs(data: BehaviorData, labels: Labels | None, size: int, seed: int) -> Pairs:
    """Glorot's uniform numbers for matrices [N, S] and [N, A]."""
    generator = generator_for(seed, "xavier pairs")
    states, actions = (
        (2 * torch.rand(size, width, generator=generator) - 1) * math.sqrt(6 / (size + width))
        for width in (data.state_dim, data.action_dim)
    )
    return _placed(data, states, _random_actions(data, size, generator) if data.choices else actions)


INITS: dict[str, Init] = {
    "random": random_pairs,
    "teacher": teacher_pairs,
    "top-q": top_q_pairs,
    "k-means++": spread_pairs,
    "k-means-q": cluster_q_pairs,
    "gaussian": gaussian_pairs,
    "xavier": xavier_pairs,
}
NEEDS_VALUES = ("top-q", "k-means-q")
"""Those that ask for a teacher's values of the recorded actions."""
INVENTED = ("gaussian", "xavier")
"""Those that invent their pairs: as many as one likes."""


def initial_pairs(init: str, data: BehaviorData, labels: Labels | None, size: int, seed: int) -> Pairs:
    """``size`` pairs by the initialiser called ``init``: tensors of their own, on the device of ``data``.

    ``labels``: what a teacher says (with values for top-q and k-means-q); None where the initialiser asks for none.
    """
    if init not in INITS:
        raise ManyoneError(f"start {init!r:.40}: {suggestion(str(init), INITS)}")
    check_whole("size", size)
    if size > len(data) and init not in INVENTED:
        raise ManyoneError(
            f"{data.name}: {size} pairs of {len(data)} recorded transitions: ask for at most {len(data)}"
        )
    states, actions = INITS[init](data, labels, size, seed)
    return states.clone(), actions.clone()


def _values(labels: Labels | None, name: str) -> Tensor:
    if labels is None or labels.recorded is None:
        raise ManyoneError(f"the start {name!r} sorts pairs by their values: give a teacher with a critic")
    return labels.recorded


def _random_rows(data: BehaviorData, size: int, seed: int) -> Tensor:
    order = torch.randperm(len(data), generator=generator_for(seed, "random pairs"))
    return order[:size].to(data.states.device)


def _candidates(data: BehaviorData, size: int, seed: int) -> Tensor:
    """Rows to look for clusters in, int64 [m] on the CPU, in random order."""
    order = torch.randperm(len(data), generator=generator_for(seed, "candidates"))
    return order[: max(_CLUSTERED, size)]


def _filled(rows: Tensor, others: Tensor, size: int) -> Tensor:
    """``rows`` without repetition, filled up to ``size`` with the first of ``others`` that are not among them."""
    distinct = dict.fromkeys(rows.tolist())
    for row in others.tolist() if len(distinct) < size else ():
        if len(distinct) == size:
            break
        distinct.setdefault(row)
    return torch.tensor(list(distinct)[:size])


def _random_actions(data: BehaviorData, size: int, generator: torch.Generator) -> Tensor:
    drawn = torch.rand(size, data.action_dim, generator=generator)
    return drawn / drawn.sum(1, keepdim=True) if data.choices else 2 * drawn - 1


def _placed(data: BehaviorData, states: Tensor, actions: Tensor) -> Pairs:
    return states.to(data.states.device), actions.to(data.states.device)


def _random_state(seed: int, name: str) -> int:
    """What scikit-learn takes: 32 bits."""
    return seed_for(seed, name) & 0xFFFFFFFF
