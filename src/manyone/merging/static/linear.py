"""Linear combinations c_0 theta_0 + sum_i c_i theta_i: averaging, task arithmetic, and what is computed like them.

They need no PyTorch where all models are float32 or float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from manyone.merging.static.buffers import Buffers
from manyone.merging.static.plan import Plan
from manyone.merging.static.stream import Elementwise, working_dtype

Coefficients = Callable[[str], tuple[float, Sequence[float]]]


class Linear(Elementwise):
    """c_0 theta_0 + sum_i c_i theta_i with coefficients that may differ by tensor: ``coefficients(name)``."""

    def __init__(self, coefficients: Coefficients) -> None:
        self.coefficients = coefficients

    def chunk(self, plan: Plan, name: str, start: int, stop: int, buffers: Buffers) -> np.ndarray:
        dtype = working_dtype(plan.info(name).dtype)
        first, others = self.coefficients(name)
        out, part = buffers.get("sum", stop - start, dtype), buffers.get("part", stop - start, dtype)
        np.multiply(buffers.read(plan.base, name, start, stop, dtype, "base"), float(first), out=out)
        for expert, weight in zip(plan.experts, others, strict=True):
            np.multiply(buffers.read(expert, name, start, stop, dtype, "expert"), float(weight), out=part)
            np.add(out, part, out=out)
        return out


def average(count: int) -> Linear:
    """1/N sum_i theta_i."""
    return Linear(lambda name: (0.0, [1 / count] * count))


def task_arithmetic(count: int, scale: float = 0.3) -> Linear:
    """theta_0 + scale sum_i tau_i without task vectors: (1 - N scale) theta_0 + scale sum_i theta_i."""
    return Linear(lambda name: (1 - count * scale, [scale] * count))
