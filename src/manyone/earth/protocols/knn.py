"""Nearest neighbours on frozen features, in blocks of rows: ``knn5-l2`` and ``knn200-cos``.

    knn5-l2     k = 5, L2 on raw features, majority; ties go to the class with the smallest sum of distances
    knn200-cos  features of length 1, k = min(200, N_train), weights exp(cos / 0.1), class score = Sum of weights;
                label vectors: their weighted mean, a label from 0.5 on

The bank is train alone. |a|^2 + |b|^2 - 2ab in float32 cannot tell close neighbours apart (of layer-normalised
embeddings every thirtieth came out at distance 0 in one public run): it only proposes candidates here, whose distances
are then taken from the differences in float64; where the candidates cannot be proven to hold the neighbours, all rows
of the bank are taken.
"""

from __future__ import annotations

import importlib.util
import time
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from manyone.earth.protocols.scores import (
    Labels,
    Scores,
    class_result,
    kind_of,
    labels_result,
    rows,
    value_result,
)
from manyone.earth.splits import Splits
from manyone.engine.extras import need
from manyone.errors import ManyoneError

Metric = Literal["l2", "cosine"]
_BLOCK = 4096  # rows of the bank and of the queries a time
_SPARE = 16  # candidates beyond k
_FAISS_FROM = 100_000
_TEMPERATURE = 0.1


def neighbours(queries: Tensor, bank: Tensor, k: int, metric: Metric = "l2") -> tuple[Tensor, Tensor]:
    """(distances float64 [Q, k], positions int64 [Q, k]) of the k nearest rows, nearest first.

    ``l2``: Euclidean; ``cosine``: 1 - cos. k above the size of the bank becomes that. Of equal distances the smaller
    position comes first.
    """
    if k < 1 or not len(bank):
        raise ManyoneError(f"k: {k} neighbours of {len(bank)} rows; both must be at least 1")
    k = min(k, len(bank))
    queries, bank = queries.to(torch.float32), bank.to(torch.float32)
    if metric == "cosine":
        queries, bank = unit_rows(queries), unit_rows(bank)
    middle = bank.mean(0)  # distances stay, cancellation shrinks
    near, shifted = queries - middle, bank - middle
    lengths = shifted.square().sum(1)
    index = _faiss_index(shifted)
    distances, positions = [], []
    for start in range(0, len(queries), _BLOCK):
        block = near[start : start + _BLOCK]
        count = min(k + _SPARE, len(bank))
        if index is None:
            proposed, squared = _candidates(block, shifted, lengths, count)
        else:
            found = index.search(block.numpy(), count)
            squared, proposed = torch.from_numpy(found[0]), torch.from_numpy(found[1])
        original = queries[start : start + _BLOCK].to(torch.float64)
        d, at = _nearest(original, bank, proposed, k)
        if count < len(bank):
            # what was not proposed is farther than the last candidate, up to the rounding of the float32 products
            rounding = 2**-23 * (queries.shape[1] ** 0.5 + 4) * (block.square().sum(1) + lengths.max())
            unsure = d[:, -1].square() > squared.amax(1).double() - rounding.double()
            for i in unsure.nonzero()[:, 0].tolist():
                d[i], at[i] = (part[0] for part in _nearest(original[i : i + 1], bank, None, k))
        distances.append(d)
        positions.append(at)
    d = torch.cat(distances)
    return (d.square() / 2 if metric == "cosine" else d), torch.cat(positions)


def unit_rows(x: Tensor) -> Tensor:
    """Rows divided by their length, computed in float64; rows of zeros stay."""
    x = x.to(torch.float64)
    length = x.norm(dim=1, keepdim=True)
    return (x / torch.where(length > 0, length, 1.0)).to(torch.float32)


def knn_probe(
    features: Any, targets: np.ndarray, splits: Splits, *, k: int = 5, metric: Metric = "l2", name: str = "knn5-l2"
) -> Scores:
    """``l2`` votes with equal weights, ``cosine`` with exp(cos / 0.1); numbers get the (weighted) mean."""
    began = time.perf_counter()
    targets = np.asarray(targets)
    distance, at = neighbours(rows(features, splits.test), rows(features, splits.train), k, metric)
    weights = torch.exp((1 - distance) / _TEMPERATURE) if metric == "cosine" else torch.ones_like(distance)
    share = weights / weights.sum(1, keepdim=True)
    chosen = {"k": int(at.shape[1])}
    kind = kind_of(targets)
    if kind != "class":
        values = torch.from_numpy(targets[splits.train].astype(np.float64))
        mean = torch.einsum("qk,qk...->q...", share, values[at])
        result = labels_result if kind == "labels" else value_result
        return result(name, targets, splits.test, mean, chosen=chosen, seconds=time.perf_counter() - began)
    labels = Labels.from_targets(targets)
    near = torch.from_numpy(labels.numbers[splits.train])[at]
    classes = len(labels.classes)
    votes = majority(distance, near, classes) if metric == "l2" else class_votes(near, share, classes)
    return class_result(name, labels, splits.test, votes, chosen=chosen, seconds=time.perf_counter() - began)


def majority(distance: Tensor, numbers: Tensor, classes: int) -> Tensor:
    """[Q, K]: shares of equal votes of the neighbours [Q, k]; of classes with most votes the nearest is just ahead."""
    votes = class_votes(numbers, torch.full_like(distance, 1 / distance.shape[1]), classes)
    summed = class_votes(numbers, distance, classes)
    first = votes >= votes.amax(1, keepdim=True) - 1e-9
    winner = torch.where(first, summed, torch.inf).argmin(1)
    votes[torch.arange(len(votes)), winner] += 1e-6
    return votes / votes.sum(1, keepdim=True)


def class_votes(numbers: Tensor, weights: Tensor, classes: int) -> Tensor:
    """[Q, K]: the sum of the weights [Q, k] of the neighbours of each class; ``numbers`` [Q, k] are their classes."""
    return torch.zeros(len(numbers), classes, dtype=weights.dtype).scatter_add_(1, numbers, weights)


def _candidates(block: Tensor, bank: Tensor, lengths: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(positions [q, count], approximate squared distances) of the nearest, block of the bank by block."""
    best = torch.empty(len(block), 0)
    places = torch.empty(len(block), 0, dtype=torch.int64)
    for start in range(0, len(bank), _BLOCK):
        part = bank[start : start + _BLOCK]
        squared = torch.addmm(lengths[start : start + _BLOCK], block, part.T, alpha=-2)
        value, at = squared.topk(min(count, len(part)), largest=False)
        best, places = torch.cat([best, value], 1), torch.cat([places, at + start], 1)
        best, kept = best.topk(min(count, best.shape[1]), largest=False)
        places = places.gather(1, kept)
    return places, best + block.square().sum(1, keepdim=True)


def _nearest(queries: Tensor, bank: Tensor, proposed: Tensor | None, k: int) -> tuple[Tensor, Tensor]:
    """Distances from differences in float64 to the proposed rows (None: all), the k smallest of them."""
    if proposed is None:
        proposed = torch.arange(len(bank))[None].expand(len(queries), -1)
    proposed = proposed.sort(1).values
    step = max(1, (1 << 24) // (proposed.shape[1] * bank.shape[1]))
    distances = [
        (bank[at].to(torch.float64) - q[:, None]).square().sum(2).sqrt()
        for q, at in zip(queries.split(step), proposed.split(step))
    ]
    d, order = torch.cat(distances).sort(dim=1, stable=True)
    return d[:, :k], proposed.gather(1, order[:, :k])


def _faiss_index(bank: Tensor) -> Any:
    """faiss' exact index for large banks, where faiss is installed; None otherwise."""
    if len(bank) <= _FAISS_FROM or importlib.util.find_spec("faiss") is None:
        return None
    index = need("faiss", "a search among many neighbours", "pip install faiss-cpu").IndexFlatL2(bank.shape[1])
    index.add(bank.numpy())
    return index
