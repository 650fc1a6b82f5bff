"""What distillation asks of a teacher: a policy pi* and a critic q*, and what they say about every recorded state.

The teacher is frozen, so its actions and values of all n states are computed once (arXiv 2410.22728 computes them in
every outer step). Any pair of functions is a teacher: :func:`from_functions`.

Public names: :class:`Teacher`, :class:`Labels`, :func:`label`, :func:`from_functions`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from manyone.behavior.data import BehaviorData
from manyone.errors import ManyoneError

_ROWS = 1 << 15
"""States that a teacher sees at a time."""


class Teacher(Protocol):
    """A policy and its critic; states [n, S] are standardised, actions unit actions (:class:`BehaviorData`)."""

    @property
    def name(self) -> str:
        """The method that trained it."""

    def actions(self, states: Tensor) -> Tensor:
        """Greedy unit actions [n, A]; of discrete actions the probabilities [n, C]."""

    def values(self, states: Tensor, actions: Tensor) -> Tensor:
        """q*(s, a) [n]; of discrete actions those of all choices, [n, C], whatever ``actions`` are.

        ``ManyoneError`` where the teacher has no critic.
        """


class Labels(NamedTuple):
    """What a teacher says about n states."""

    actions: Tensor
    """a*: unit actions [n, A], or probabilities [n, C]."""
    values: Tensor | None = None
    """q*(s, a*) [n], or q*(s, .) [n, C]; None where nobody asked for them."""
    recorded: Tensor | None = None
    """q*(s, a) of the recorded action, [n]."""


@torch.no_grad()
def label(teacher: Teacher, data: BehaviorData, *, values: bool = True) -> Labels:
    """The teacher's actions and, with ``values``, its critic's values of every row of ``data``.

    Raises ``ManyoneError`` for another shape than :class:`Teacher` says, or a number that is not finite.
    """
    parts: list[list[Tensor]] = [[], [], []]
    for start in range(0, len(data), _ROWS):
        states, recorded = data.states[start : start + _ROWS], data.actions[start : start + _ROWS]
        actions = teacher.actions(states)
        _check(teacher.name, "actions", actions, recorded.shape)
        parts[0].append(actions)
        if values:
            shape = recorded.shape if data.choices else recorded.shape[:1]
            best = teacher.values(states, actions)
            _check(teacher.name, "values", best, shape)
            parts[1].append(best)
            parts[2].append((best * recorded).sum(1) if data.choices else teacher.values(states, recorded))
            _check(teacher.name, "values of the recorded actions", parts[2][-1], recorded.shape[:1])
    found, best_values, recorded_values = (torch.cat(part) if part else None for part in parts)
    assert found is not None
    return Labels(found, best_values, recorded_values)


def from_functions(
    policy: Callable[[Tensor], Tensor],
    critic: Callable[[Tensor, Tensor], Tensor] | None,
    data: BehaviorData,
    name: str = "own teacher",
) -> Teacher:
    """A teacher of two functions, for ``data``.

    ``policy`` takes observations float32 [n, S] as the environment gives them and returns its actions [n, A] (discrete:
    probabilities [n, C]); ``critic`` takes both and returns [n] (discrete: [n, C], it may ignore the actions). Without
    a critic only PBC can be distilled.
    """
    return _Functions(policy, critic, data, name)


class _Functions:
    def __init__(
        self,
        policy: Callable[[Tensor], Tensor],
        critic: Callable[[Tensor, Tensor], Tensor] | None,
        data: BehaviorData,
        name: str,
    ) -> None:
        self.policy, self.critic, self.data, self.name = policy, critic, data, name

    def actions(self, states: Tensor) -> Tensor:
        given = self._tensor("actions", self.policy(self.data.observations(states)), states)
        _check(self.name, "actions", given, torch.Size((len(states), self.data.action_dim)))
        if self.data.choices and not bool((given >= 0).all() and ((given.sum(1) - 1).abs() < 1e-2).all()):
            raise ManyoneError(
                f"{self.name}: its policy gives no probabilities (from 0, their sum 1 in each row): end it in a softmax"
            )
        return self.data.unit_actions(given)

    def _tensor(self, what: str, found: Any, like: Tensor) -> Tensor:
        try:
            return torch.as_tensor(found, dtype=like.dtype, device=like.device)
        except (TypeError, ValueError, RuntimeError):
            raise ManyoneError(
                f"{self.name}: its {what} are of type {type(found).__name__}: return a tensor or a NumPy array"
            ) from None

    def values(self, states: Tensor, actions: Tensor) -> Tensor:
        if self.critic is None:
            raise ManyoneError(f"{self.name} has no critic, which av-pbc needs: give one, or use pbc")
        found = self.critic(self.data.observations(states), self.data.own_actions(actions))
        found = self._tensor("values", found, states)
        return found.squeeze(1) if found.ndim == 2 and not self.data.choices and found.shape[1] == 1 else found


def _check(name: str, what: str, found: Tensor, shape: torch.Size) -> None:
    if found.shape != shape:
        raise ManyoneError(f"{name}: its {what} are {list(found.shape)}, the data need {list(shape)}")
    if not bool(found.isfinite().all()):
        raise ManyoneError(f"{name}: some of its {what} are not finite: check its weights and its normalisation")
