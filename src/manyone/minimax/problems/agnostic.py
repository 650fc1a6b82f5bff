"""The worst mixture of clients or groups: agnostic federated learning and group-DRO.

    f_i(x, lam) = m lam_i l_i(x) - (rho/2) ||lam - 1/m||^2,   lam in the simplex         (Mohri et al. 2019)

Client i has a dual gradient on its own coordinate only; the duals are averaged over the round and then projected on
the simplex. Group-DRO (Sagawa et al. 2020) has groups of samples instead of clients, mixed on every client.
Public: ``AgnosticLearning``, ``GroupDRO``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from manyone.errors import ManyoneError
from manyone.minimax.arguments import tensor
from manyone.minimax.problems.problem import Batch, Problem
from manyone.minimax.problems.projections import simplex
from manyone.minimax.scores import Buffers, Model
from manyone.weights.checkpoint import Weights


class _Mixture(Problem):
    """min over a model's weights, max over mixture weights in the simplex."""

    def __init__(
        self,
        model: nn.Module,
        groups: int,
        rho: float,
        redraw: bool,
        buffers: Buffers,
    ) -> None:
        if groups < 1 or rho < 0:
            raise ManyoneError(f"a mixture of {groups} parts with rho = {rho}: need at least 1 part and rho >= 0")
        self.model, self.groups, self.rho, self.redraw = Model(model, buffers=buffers), groups, rho, redraw
        self.stackable = self.model.stackable

    def init(self, seed: int) -> tuple[Weights, Weights]:
        x = self.model.init(seed) if self.redraw else self.model.given()
        return x, {"lam": torch.full((self.groups,), 1 / self.groups)}

    def prox_y(self, y: Tensor, eta: float | Tensor) -> Tensor:
        """The nearest point of the simplex."""
        return simplex(y)

    def losses(self, x: Weights, batch: Batch) -> Tensor:
        """The cross-entropies of the samples, [..., b]."""
        outputs, labels = self.model(x, batch["features"]), batch["labels"]
        return cross_entropy(outputs.flatten(0, -2), labels.flatten(), reduction="none").view(labels.shape)

    def value(self, z: Tensor, batch: Batch, parts: Sequence[Tensor]) -> Tensor:
        """The objective at the flat state ``z`` [P]: the mixture of the mean losses on ``parts``, rows of ``batch``."""
        x, y = self.spec.unpack(z)
        losses = self.losses(x, batch)
        means = torch.stack([losses[part].mean() for part in parts])
        return (y["lam"] * means).sum() - self.penalty(y["lam"])

    def penalty(self, lam: Tensor) -> Tensor:
        """(rho/2) ||lam - 1/m||^2."""
        return 0.5 * self.rho * (lam - 1 / self.groups).square().sum(-1)


class AgnosticLearning(_Mixture):
    """Agnostic federated learning over ``clients`` = m clients: fields ``features`` and ``labels``.

    The model starts as given, or from its layers' own initialisation under the run's seed with ``redraw``.
    """

    uses_client = True
    prox_at = "round"  # a client's dual gradient is one coordinate: the duals mix first

    def __init__(
        self,
        model: nn.Module,
        clients: int,
        *,
        rho: float = 0.0,
        redraw: bool = False,
        buffers: Buffers = "refuse",
    ) -> None:
        super().__init__(model, clients, rho, redraw, buffers)

    def loss(self, x: Weights, y: Weights, batch: Batch, noise: Tensor | None = None) -> Tensor:
        lam = y["lam"]
        own = lam.gather(-1, batch["client"].reshape(*lam.shape[:-1], 1)).squeeze(-1)
        return self.groups * own * self.losses(x, batch).mean(-1) - self.penalty(lam)


class GroupDRO(_Mixture):
    """Distributionally robust learning over groups of samples: fields ``features``, ``labels``, ``group`` (0..G-1).

    f = E[lam_g / P(g) * loss] - penalty, so that the weight of group g's mean loss is lam_g. ``frequencies``: P(g),
    1/G each when left out.
    """

    def __init__(
        self,
        model: nn.Module,
        groups: int,
        *,
        frequencies: Sequence[float] | None = None,
        rho: float = 0.0,
        redraw: bool = False,
        buffers: Buffers = "refuse",
    ) -> None:
        super().__init__(model, groups, rho, redraw, buffers)
        given = [1 / groups] * groups if frequencies is None else frequencies
        self.frequencies = tensor("group-DRO: frequencies", given).double().flatten()
        if len(self.frequencies) != groups or not bool((self.frequencies > 0).all()):
            raise ManyoneError(f"group-DRO: frequencies must be {groups} positive numbers, got {frequencies}")

    def loss(self, x: Weights, y: Weights, batch: Batch, noise: Tensor | None = None) -> Tensor:
        lam = y["lam"]
        weights = (lam / self.frequencies.to(lam)).gather(-1, batch["group"])
        return (weights * self.losses(x, batch)).mean(-1) - self.penalty(lam)
