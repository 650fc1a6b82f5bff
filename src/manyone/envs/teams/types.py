"""What a team environment is: a batch of copies of one task in which n agents act together, as tensors on one device.

Copies ("slots") step in lock-step and restart by themselves. Agents have a fixed order. Heterogeneous agents share one
width: observations are padded with zeros to the widest, actions that an agent does not have are not available to it.
Public: ``TeamSpec``, ``Observation``, ``Step``, ``TeamEnv``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

_UNBOUNDED = 1e30  # half a width from which on bounds are those of the number format, not of the task


@dataclass(frozen=True)
class TeamSpec:
    """What a policy must know of a task.

    ``actions``: number of discrete actions A, 0 when they are continuous; ``digits``: choices of each of the k numbers
    that an action is made of, A their sum, () where it is one number; ``action_dim``: width of a continuous action,
    with bounds ``low`` and ``high`` (one number per entry: the widest of all agents), and each agent's own,
    ``agent_low`` and ``agent_high`` [n][a], in whose units a policy acts (see :meth:`to_bounds`); ``masked``: whether
    an agent may find actions forbidden, so that nobody can act without ``Observation.available``; ``absences``: whether
    agents may be missing while others go on, who then hear nothing of them; ``state_dim``: width of the global state,
    0 when there is none; ``horizon``: most steps of an episode; ``reports_success``: whether ``Step.success`` means
    anything; ``details``: what else a reader should see, JSON-able.
    """

    name: str
    agents: int
    observation_dim: int
    actions: int = 0
    action_dim: int = 0
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    state_dim: int = 0
    horizon: int = 100
    agent_names: tuple[str, ...] = ()
    reports_success: bool = False
    digits: tuple[int, ...] = ()
    masked: bool = False
    absences: bool = False
    agent_low: tuple[tuple[float, ...], ...] = ()
    agent_high: tuple[tuple[float, ...], ...] = ()
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def discrete(self) -> bool:
        """Whether actions are whole numbers: one of 0..A-1, or one for each digit."""
        return self.actions > 0

    @property
    def numbered(self) -> bool:
        """Whether an action is one whole number."""
        return self.discrete and not self.digits

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one agent's action: () for one number, (k,) for digits, (a,) for a continuous one."""
        if self.digits:
            return (len(self.digits),)
        return () if self.discrete else (self.action_dim,)

    def to_bounds(self, actions: Tensor) -> Tensor:
        """What the environment takes for a policy's ``actions`` [..., n, a]: -1 and 1 there are an agent's own bounds.

        a = (high + low) / 2 + u (high - low) / 2, entry by entry. Discrete actions, entries without two finite bounds
        and those of a specification without bounds of the agents (of artefacts before there were any) stay as they are.
        """
        if self.discrete or not self.agent_low:
            return actions
        pairs = [list(zip(*bounds, strict=True)) for bounds in zip(self.agent_low, self.agent_high, strict=True)]
        known = [[(b - a) / 2 < _UNBOUNDED for a, b in row] for row in pairs]
        half = [[(b - a) / 2 if k else 1.0 for (a, b), k in zip(row, ks)] for row, ks in zip(pairs, known)]
        middle = [[(b + a) / 2 if k else 0.0 for (a, b), k in zip(row, ks)] for row, ks in zip(pairs, known)]
        return actions * actions.new_tensor(half) + actions.new_tensor(middle)


class Observation(NamedTuple):
    """What the team sees in B slots: ``observations`` float32 [B, n, d]; ``alive`` bool [B, n]; ``available`` bool
    [B, n, A] or None when every action is always allowed (dead agents keep at least one), digit after digit where an
    action has several; ``state`` float32 [B, s] or None."""

    observations: Tensor
    alive: Tensor
    available: Tensor | None = None
    state: Tensor | None = None

    def present(self) -> Tensor:
        """bool [B, n]: who is there: is alive, or waits for its turn and sees something (the dead see zeros)."""
        return self.alive | self.observations.any(-1)

    def select(self, rows: Tensor) -> Observation:
        """The same of some slots (an index or a mask over the first axis)."""
        return Observation(*(None if part is None else part[rows] for part in self))  # type: ignore[arg-type]


class Step(NamedTuple):
    """What one step of B slots gave.

    ``observation``: after the step, in slots whose episode ended that of the next episode's start; ``rewards`` float32
    [B, n] (a shared reward is repeated); ``terminated`` and ``truncated`` bool [B]: the episode ended for the team;
    ``final``: the observation before the restart, right in slots that ended and in those that ``cut`` an agent,
    anything elsewhere (None when there is no such slot); ``success`` bool [B], right where an episode ended;
    ``measures``: further figures of an episode [B], right where it ended.

    Agents that end while others go on, bool [B, n]: ``left``, for good (terminated), also where a newcomer has the
    number already; None: all that were alive and are not any more. ``cut``: truncated alone, and what they saw last
    stands in ``final``, where they are alive; None: nobody. An agent that is neither and not alive waits: it may come
    back, or its team's reward is still its own, and its return goes on.
    """

    observation: Observation
    rewards: Tensor
    terminated: Tensor
    truncated: Tensor
    final: Observation | None
    success: Tensor
    measures: dict[str, Tensor]
    left: Tensor | None = None
    cut: Tensor | None = None

    @property
    def done(self) -> Tensor:
        """bool [B]: the episode ended, either way."""
        return self.terminated | self.truncated


@runtime_checkable
class TeamEnv(Protocol):
    """A batch of copies of one task.

    What happens in episode e of slot b depends on (seed, b, e) and the actions alone, never on the other slots or on a
    global random stream.
    """

    spec: TeamSpec
    batch: int
    device: torch.device

    def reset(self, seed: int) -> Observation:
        """Starts episode 0 of every slot."""

    def step(self, actions: Tensor) -> Step:
        """Steps all slots: int64 [B, n] or [B, n, k] (digits), or float32 [B, n, action_dim] clipped to the bounds."""

    def state_dict(self) -> dict[str, Any]:
        """Everything that later steps depend on, for an exact resume."""

    def load_state_dict(self, state: dict[str, Any]) -> Observation:
        """Goes back to a saved state; the observation at that moment."""

    def frame(self, slot: int = 0) -> np.ndarray:
        """A picture of one slot, uint8 [height, width, 3]. ``ManyoneError`` when the task cannot be drawn."""

    def close(self) -> None:
        """Frees processes and windows."""
