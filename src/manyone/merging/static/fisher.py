"""Fisher-weighted averaging (Matena & Raffel, 2022): experts count per parameter by how sure they are of it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from manyone.errors import ManyoneError
from manyone.merging.static.buffers import Buffers
from manyone.merging.static.linear import Linear
from manyone.merging.static.plan import Plan, within
from manyone.merging.static.stream import Elementwise, finite, over_chunks, working_dtype
from manyone.weights.checkpoint import Checkpoint
from manyone.weights.open import Models, open_models


class Fisher(Elementwise):
    """theta = sum_i F_i theta_i / sum_i F_i with diagonal Fishers, each divided by its norm over the model and at least
    ``floor``. Tensors that no Fisher covers (they had no gradient) are averaged."""

    passes = 1

    def __init__(self, fishers: Sequence[Checkpoint], floor: float, normalize: bool) -> None:
        self.fishers, self.floor, self.normalize = fishers, floor, normalize
        self._factors = [1.0] * len(fishers)

    def prepare(self, plan: Plan, threads: int) -> None:
        if len(self.fishers) != len(plan.experts):
            raise ManyoneError(
                f"{len(self.fishers)} Fishers for {len(plan.experts)} experts; give one each, in their order"
            )
        self._names = [name for name in plan.merged if any(name in fisher for fisher in self.fishers)]
        if not self._names:
            raise ManyoneError(f"{self.fishers[0].label}: holds the Fisher of none of the merged tensors")
        for fisher in self.fishers:
            for name in self._names:
                if name not in fisher:
                    raise ManyoneError(f"{fisher.label}: the Fisher of tensor {name!r} is missing")
                if fisher.info(name).shape != plan.info(name).shape:
                    raise ManyoneError(
                        f"{fisher.label}: the Fisher of tensor {name!r} has shape "
                        f"{list(fisher.info(name).shape)}, the tensor {list(plan.info(name).shape)}"
                    )
        squares = [0.0] * len(self.fishers)

        def add(name: str, start: int, stop: int, buffers: Buffers) -> None:
            for i, fisher in enumerate(self.fishers):
                double = np.dtype(np.float64)
                values = fisher.floats(name, start, stop, buffers.get("fisher", stop - start, double))
                # Not values @ values: on some processors BLAS sums in an order that depends on where the values lie.
                square = float(np.square(values, out=buffers.get("part", stop - start, double)).sum())
                if not finite(square) or float(values.min()) < 0:
                    raise ManyoneError(f"{fisher.label}: NaN, Inf or a negative value in the Fisher of tensor {name!r}")
                squares[i] += square

        over_chunks(plan.chunks(self._names), add, threads=1)
        if self.normalize:
            self._factors = [1 / math.sqrt(s) if s > 0 else 1.0 for s in squares]
        self._covered = set(self._names)

    def chunk(self, plan: Plan, name: str, start: int, stop: int, buffers: Buffers) -> np.ndarray:
        dtype = working_dtype(plan.info(name).dtype)
        if name not in self._covered:
            count = len(plan.experts)
            return Linear(lambda _: (0.0, [1 / count] * count)).chunk(plan, name, start, stop, buffers)
        top, bottom, weight = (buffers.get(key, stop - start, dtype) for key in ("sum", "positive", "part"))
        top.fill(0)
        bottom.fill(0)
        for expert, fisher, factor in zip(plan.experts, self.fishers, self._factors, strict=True):
            np.multiply(buffers.read(fisher, name, start, stop, dtype, "fisher"), factor, out=weight)
            np.maximum(weight, self.floor, out=weight)
            bottom += weight
            weight *= buffers.read(expert, name, start, stop, dtype, "expert")
            top += weight
        top /= bottom
        return top


def fisher(count: int, fishers: Models, floor: float = 1e-6, normalize: bool = True) -> Fisher:
    """Fisher merging with one set of diagonal Fishers an expert."""
    within("floor", floor, floor > 0, "positive")
    return Fisher(open_models(fishers, "Fisher"), floor, normalize)
