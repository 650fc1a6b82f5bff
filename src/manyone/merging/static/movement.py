"""How far experts and result lie from the base, and in which directions: measured in the pass that merges.

With tau_i = theta_i - theta_0 of the experts and delta = theta - theta_0 of the result, for every layer:

    Gram matrix   G_ij = <tau_i, tau_j>, delta as its last row       Movement.gram
    movement      ||delta||_2 / ||theta_0||_2                        Movement.relative
    cosine        <tau_i, tau_j> / (||tau_i||_2 ||tau_j||_2)         Movement.cosines

A large tensor is measured on pieces that lie evenly in it, and its sums are scaled up: the merge is not to wait for its
description. Memory: a row of a chunk for each expert and thread.
"""

from __future__ import annotations

import itertools
import math
import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from manyone.merging.roles import block_of, find_blocks, role_of
from manyone.merging.static.buffers import Buffers
from manyone.merging.static.plan import CHUNK, Plan
from manyone.weights.checkpoint import Checkpoint

_WHOLE = 4  # chunks of a tensor that is measured entry by entry
_PIECE = CHUNK // 4  # entries of a chunk that are measured in a larger one
_EVERY = ((64, 8), (16, 4), (_WHOLE, 2))  # of more than so many chunks every so many-th is measured
_FEW = 4
RESULT = "merged"
"""What the result is called beside the experts."""


@dataclass(frozen=True)
class Movement:
    """``gram`` [layers, experts + 1, experts + 1] and ``base`` [layers] (||theta_0||^2); ``sampled``: whether large
    tensors were measured in part."""

    experts: tuple[str, ...]
    layers: tuple[str, ...]
    base: np.ndarray
    gram: np.ndarray
    sampled: bool = False

    @property
    def names(self) -> tuple[str, ...]:
        """The experts and the result."""
        return (*self.experts, RESULT)

    def norms(self) -> list[float]:
        """||tau_i||_2 and, last, ||delta||_2."""
        return [math.sqrt(max(float(v), 0.0)) for v in self.gram.sum(0).diagonal()]

    def base_norm(self) -> float:
        """||theta_0||_2 of what is merged."""
        return math.sqrt(float(self.base.sum()))

    def cosines(self) -> list[list[float | None]]:
        """Between all of :attr:`names`; None where a vector is zero."""
        gram, norms = self.gram.sum(0), self.norms()
        return [[_cosine(float(gram[i, j]), a, b) for j, b in enumerate(norms)] for i, a in enumerate(norms)]

    def relative(self, which: int = -1) -> list[float]:
        """||delta|| / ||theta_0|| of every layer, or with ``which`` that of an expert's task vector."""
        return [_ratio(float(g[which, which]), float(b)) for g, b in zip(self.gram, self.base)]

    def grouped(self, most: int) -> Movement:
        """The same with at most ``most`` layers: neighbours of one kind (``layers.0`` to ``layers.3``) together."""
        size = 1
        while len(groups := _neighbours(self.layers, size)) > most and size < len(self.layers):
            size += 1
        parts = [list(group) for group in groups]
        return Movement(
            self.experts,
            tuple(_span([self.layers[k] for k in part]) for part in parts),
            np.array([self.base[part].sum() for part in parts]),
            np.array([self.gram[part].sum(0) for part in parts]),
            self.sampled,
        )


class Measure:
    """Adds up a :class:`Movement` while a plan is carried out; any number of threads give it chunks."""

    def __init__(self, names: Sequence[str] | None = None) -> None:
        self.names = names
        self._lock = threading.Lock()
        self._rows: list[int] = []

    def begin(self, plan: Plan) -> None:
        """Whom and what is measured: experts that are not the base itself, and layers by the tensors' names."""
        self._rows = [i for i, expert in enumerate(plan.experts) if not _is_base(plan, expert)]
        labels = self.names or names_of(plan.experts)
        self._experts = tuple(labels[i] for i in self._rows)
        order = {name: layer_of(name) for name in plan.merged}
        blocks = [block for block in find_blocks(plan.merged) if block in order.values()]
        others = [layer for layer in dict.fromkeys(order.values()) if layer not in blocks]
        first = [layer for layer in others if layer == "embedding"]
        self._layers = (*first, *blocks, *(layer for layer in others if layer not in first))
        self._layer = {name: self._layers.index(layer) for name, layer in order.items()}
        self._shares = {name: _share(plan.info(name).numel) for name in plan.merged}
        rows = len(self._rows) + 1
        self._gram = np.zeros((len(self._layers), rows, rows))
        self._base = np.zeros(len(self._layers))

    def add(self, plan: Plan, name: str, start: int, merged: np.ndarray, buffers: Buffers) -> None:
        """Takes in a merged chunk, in the dtype that it was computed in."""
        every, part = self._shares[name]
        if (start // CHUNK) % every != every // 2:  # the middle of what the piece stands for
            return
        if part > 1:
            merged = merged[:_PIECE]
        stop = start + merged.size
        rows = buffers.rows(len(self._rows) + 1, merged.size, merged.dtype)
        base = buffers.read(plan.base, name, start, stop, merged.dtype, "measured base")
        for row, i in zip(rows, self._rows):
            np.subtract(buffers.read(plan.experts[i], name, start, stop, merged.dtype, "measured"), base, out=row)
        np.subtract(merged, base, out=rows[-1])
        # BLAS takes a while to begin: few rows are faster without it
        product = np.einsum("ik,jk->ij", rows, rows) if len(rows) <= _FEW else rows @ rows.T
        gram = part * product.astype(np.float64)
        square = part * float(np.dot(base, base))
        with self._lock:
            layer = self._layer[name]
            self._gram[layer] += gram
            self._base[layer] += square

    def result(self) -> Movement:
        """What was measured."""
        sampled = any(part > 1 for _, part in self._shares.values())
        return Movement(self._experts, self._layers, self._base, self._gram, sampled)


def layer_of(name: str) -> str:
    """The block that a tensor lies in, and outside of all blocks its role."""
    return block_of(name) or role_of(name)


def names_of(models: Sequence[Checkpoint]) -> list[str]:
    """Short names, all different: the last part of each model's place that tells something."""
    found = [" | ".join(map(_short, model.label.split(" | "))) for model in models]
    return [n if found.count(n) == 1 else f"{n} ({found[: k + 1].count(n)})" for k, n in enumerate(found)]


def _short(label: str) -> str:
    place = Path(label)
    plain = place.stem if place.suffix in (".safetensors", ".bin", ".pt", ".pth", ".ckpt") else place.name
    if place.parent.name == "snapshots":  # models--NAME/snapshots/REVISION of the hub's cache
        return place.parents[1].name.removeprefix("models--").replace("--", "/")
    above = [part.name for part in place.parents if part.name]
    return next((name for name in (plain, *above) if name not in ("model", "pytorch_model")), plain)


def _is_base(plan: Plan, expert: Checkpoint) -> bool:
    """Whether the expert is the base itself, as where a recipe of mergekit names no base."""
    return all(expert.entries.get(name) is plan.base.entries[name] for name in plan.merged)


def _share(numel: int) -> tuple[int, float]:
    """(Of how many chunks of a tensor one is measured, what its sums are multiplied by)."""
    chunks = -(-numel // CHUNK)
    if chunks <= _WHOLE:
        return 1, 1.0
    every = next(every for more, every in _EVERY if chunks > more)
    starts = range(every // 2 * CHUNK, numel, every * CHUNK)
    return every, numel / sum(min(_PIECE, numel - at) for at in starts)


def _cosine(product: float, a: float, b: float) -> float | None:
    return min(1.0, max(-1.0, product / (a * b))) if a > 0 and b > 0 else None


def _ratio(square: float, base: float) -> float:
    return math.sqrt(max(square, 0.0) / base) if base > 0 else 0.0


def _kind(layer: str) -> tuple[str, int | None]:
    """("encoder.layers.", 3), or the name and None."""
    found = re.fullmatch(r"(.*?\.|)(\d+)", layer)
    return (found[1], int(found[2])) if found else (layer, None)


def _neighbours(layers: Sequence[str], size: int) -> list[list[int]]:
    """Places of consecutive layers of one kind, ``size`` together."""
    groups: list[list[int]] = []
    for _, run in itertools.groupby(range(len(layers)), key=lambda k: _kind(layers[k])[0]):
        places = list(run)
        groups += [places[at : at + size] for at in range(0, len(places), size)]
    return groups


def _span(layers: Sequence[str]) -> str:
    last = _kind(layers[-1])[1]
    return layers[0] if len(layers) == 1 or last is None else f"{layers[0]} to {last}"
