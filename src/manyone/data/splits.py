"""Seeded, stratified splits: which samples train, choose and test is a function of (seed, task) alone."""

from __future__ import annotations

import torch
from torch import Tensor

from manyone.data.tasks import Inputs, Split, take
from manyone.randomness import generator_for


def stratified_order(labels: Tensor, *names: str | int) -> Tensor:
    """A random order (int64 [n]) in which every run of neighbours holds the classes in their overall shares.

    The r-th of the n_c shuffled members of class c is placed at (r + u_c) / n_c with one uniform u_c per class, and
    ties fall by a random permutation; so any slice of the order is a stratified sample.
    """
    generator = generator_for(*names)
    order = torch.randperm(len(labels), generator=generator)
    place = torch.empty(len(labels), dtype=torch.float64)
    for c in labels.unique().tolist():
        members = order[labels[order] == c]
        offset = torch.rand(1, generator=generator, dtype=torch.float64)
        place[members] = (torch.arange(len(members), dtype=torch.float64) + offset) / len(members)
    return order[place[order].argsort(stable=True)]


def split_order(order: Tensor, *, test: int, val: int, train: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Cuts ``order`` into (train, val, test, rest): test first, then val, then train, so that a smaller ``train``
    never changes the test samples; ``rest`` is what no split uses."""
    cuts = [test, val, train, max(len(order) - test - val - train, 0)]
    if test + val + train > len(order):
        raise ValueError(f"cannot take {test} + {val} + {train} samples from {len(order)}")
    a, b, c, rest = order.split(cuts)
    return c, b, a, rest


def sizes(n: int, *, test: int = 1000, train: int = 5000) -> dict[str, int]:
    """At most ``test`` (and a quarter) for testing, at most ``train`` for training, of which a tenth (at most 500) is
    carved out for validation."""
    test = min(test, n // 4)
    pool = min(train, n - test)
    val = min(500, pool // 10)
    return {"test": test, "val": val, "train": pool - val}


def make_splits(
    inputs: Inputs, labels: Tensor, *names: str | int, test: int = 1000, train: int = 5000
) -> tuple[Split, Split, Split, Tensor]:
    """(train, val, test, indices of unused samples) by :func:`stratified_order` of (``names``) and :func:`sizes`."""
    order = stratified_order(labels, *names)
    *parts, rest = split_order(order, **sizes(len(labels), test=test, train=train))
    a, b, c = (Split(take(inputs, index), labels[index]) for index in parts)
    return a, b, c, rest
