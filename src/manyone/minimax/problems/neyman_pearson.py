"""Neyman-Pearson classification: fewest misses subject to a bound on false alarms, with a Lagrange multiplier as y.

    min_h E[softplus(-h) | +]   subject to   E[softplus(h) | -] <= level

Public: ``NeymanPearson``.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import softplus

from manyone.errors import ManyoneError
from manyone.minimax.arguments import number
from manyone.minimax.problems.constrained import Constrained
from manyone.minimax.problems.problem import Batch


class NeymanPearson(Constrained):
    """Fields ``features`` and ``labels`` (+1/-1); ``score`` is a module with one output a sample; ``p``: the positive
    rate of the pooled data. The score starts from its layers' own initialisation under the run's seed.
    """

    def __init__(self, p: float, score: nn.Module, *, level: float) -> None:
        p, level = number("Neyman-Pearson: p", p), number("Neyman-Pearson: level", level)
        if not 0 < p < 1:
            raise ManyoneError(f"Neyman-Pearson: p = {p}, the rate of positives must be in (0, 1)")

        def objective(h: Any, batch: Batch) -> Tensor:
            plus = (batch["labels"] > 0).to(batch["features"])
            return (softplus(-h(batch["features"]).squeeze(-1)) * plus).mean() / p

        def constraint(h: Any, batch: Batch) -> Tensor:
            minus = (batch["labels"] < 0).to(batch["features"])
            return ((softplus(h(batch["features"]).squeeze(-1)) * minus).mean() / (1 - p) - level)[None]

        super().__init__(score, objective, constraint, 1, redraw=True)

    def scores(self, z: Tensor, features: Tensor) -> Tensor:
        """Scores [N] at the flat state ``z`` [P]."""
        return self.call_x(z)(features).squeeze(-1)
