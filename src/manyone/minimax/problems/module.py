"""A user's own minimax problem: one or two ``nn.Module`` (or plain tensors) and a loss.

    def loss(x, y, batch, noise):
        return adversarial_loss(x(batch["features"]), y(batch["features"]), batch["labels"])

    problem = ModuleProblem(model, critic, loss)

Public: ``ModuleProblem``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from manyone.errors import ManyoneError
from manyone.minimax.problems.problem import Batch, Loss, Problem
from manyone.minimax.scores import Buffers, Model
from manyone.weights.checkpoint import Weights

Player = nn.Module | Mapping[str, Tensor]


class ModuleProblem(Problem):
    """min over ``x``, max over ``y`` of ``loss(x, y, batch, noise)``.

    Args:
        x, y: each a module, or a mapping of tensors (dual variables, class weights, ...). Inside ``loss`` a module is
            a function of its inputs, a mapping is a mapping of tensors.
        loss: the mean loss over the batch of one client, a scalar; with ``zero_sum=False`` a pair (loss_x, loss_y).
            What vmap can do runs for all clients at once; boolean masks, branches on values, random draws and dropout
            run for one client after another, many times slower (``Gradient``). What it draws from torch's global
            generator depends on (seed, replica, client, step) alone, as does ``noise``: the standard normal numbers
            that ``noise_shape(b)`` asks for, which vmap can use.
        project_x, project_y: maps of the flat x [..., p], y [..., q] back to where they belong, after every step.
        redraw: modules start from their layers' own initialisation under the run's seed instead of as given.
        buffers: "refuse" (BatchNorm and other state is an error) or "frozen" (kept as it is).
    """

    def __init__(
        self,
        x: Player,
        y: Player,
        loss: Callable[[Any, Any, Batch, Tensor | None], Loss],
        *,
        zero_sum: bool = True,
        noise_shape: Callable[[int], tuple[int, ...]] | None = None,
        project_x: Callable[[Tensor], Tensor] | None = None,
        project_y: Callable[[Tensor], Tensor] | None = None,
        redraw: bool = False,
        buffers: Buffers = "refuse",
    ) -> None:
        self._x, self._y = (_player(value, buffers) for value in (x, y))
        self._loss, self._noise_shape, self._redraw = loss, noise_shape, redraw
        self._project_x, self._project_y = project_x, project_y
        self.zero_sum = zero_sum

    def init(self, seed: int) -> tuple[Weights, Weights]:
        return self._start(self._x, seed), self._start(self._y, seed + 1)

    def loss(self, x: Weights, y: Weights, batch: Batch, noise: Tensor | None = None) -> Loss:
        value = self._loss(_bound(self._x, x), _bound(self._y, y), batch, noise)
        if self.zero_sum == isinstance(value, tuple):
            wanted = "one scalar" if self.zero_sum else "a pair (loss_x, loss_y)"
            raise ManyoneError(f"the loss returned a {type(value).__name__}; zero_sum={self.zero_sum} needs {wanted}")
        return value

    def prox_x(self, x: Tensor, eta: float | Tensor) -> Tensor:
        return x if self._project_x is None else self._project_x(x)

    def prox_y(self, y: Tensor, eta: float | Tensor) -> Tensor:
        return y if self._project_y is None else self._project_y(y)

    @property
    def has_prox(self) -> bool:
        return self._project_x is not None or self._project_y is not None

    def noise_shape(self, batch: int) -> tuple[int, ...] | None:
        return None if self._noise_shape is None else self._noise_shape(batch)

    def call_x(self, z: Tensor) -> Any:
        """The first player at the flat state ``z`` [P], as ``loss`` sees it: for evaluation."""
        return _bound(self._x, self.spec.unpack(z)[0])

    def call_y(self, z: Tensor) -> Any:
        """The second player at the flat state ``z`` [P]."""
        return _bound(self._y, self.spec.unpack(z)[1])

    def _start(self, player: Model | dict[str, Tensor], seed: int) -> dict[str, Tensor]:
        if isinstance(player, Model):
            return player.init(seed) if self._redraw else player.given()
        return dict(player)


def _player(value: Player, buffers: Buffers) -> Model | dict[str, Tensor]:
    if isinstance(value, nn.Module):
        return Model(value, buffers=buffers)
    return {name: tensor.detach().clone() for name, tensor in value.items()}


def _bound(player: Model | dict[str, Tensor], values: Weights) -> Any:
    return partial(player, values) if isinstance(player, Model) else values
