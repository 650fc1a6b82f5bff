"""Constrained learning by Lagrange multipliers: min over x, max over y >= 0 of L(x) + y^T c(x), for c(x) <= 0.

Public: ``Constrained``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.minimax.problems.module import ModuleProblem
from manyone.minimax.problems.problem import Batch
from manyone.minimax.problems.projections import box, nonnegative
from manyone.minimax.scores import Buffers


class Constrained(ModuleProblem):
    """``objective(x, batch)`` -> scalar and ``constraints(x, batch)`` -> [count], feasible where <= 0, each a mean
    over the batch.

    ``x`` is a module (a function of its inputs inside them) or a mapping of tensors. The multipliers start at 0 and
    stay in [0, largest].
    """

    def __init__(
        self,
        x: nn.Module | Mapping[str, Tensor],
        objective: Callable[..., Tensor],
        constraints: Callable[..., Tensor],
        count: int,
        *,
        largest: float | None = None,
        redraw: bool = False,
        buffers: Buffers = "refuse",
    ) -> None:
        if count < 1 or (largest is not None and largest <= 0):
            raise ManyoneError(f"{count} constraints, largest multiplier {largest}: both must be positive")

        def lagrangian(player: object, y: Mapping[str, Tensor], batch: Batch, noise: Tensor | None) -> Tensor:
            violated = constraints(player, batch)
            if violated.shape != y["multipliers"].shape:
                raise ManyoneError(f"constraints returned {list(violated.shape)}, announced were [{count}]")
            return objective(player, batch) + (y["multipliers"] * violated).sum()

        super().__init__(
            x,
            {"multipliers": torch.zeros(count)},
            lagrangian,
            project_y=nonnegative if largest is None else lambda y: box(y, 0.0, largest),
            redraw=redraw,
            buffers=buffers,
        )
