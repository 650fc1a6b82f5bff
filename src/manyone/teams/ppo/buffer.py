"""What one iteration's steps of all slots left, in tensors that are allocated once: [T, B, ...] on the policy's device.

Public names: :class:`Buffer`, :class:`Batch`.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from manyone.envs.teams.types import Observation, Step, TeamSpec


class Batch(NamedTuple):
    """N samples of the buffer. ``observation`` of N slots; ``actions`` [N, n(, a or k)]; the rest [N, n]; ``noise``:
    what drew gates and dynamic graphs, by the policy's argument names."""

    observation: Observation
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    noise: dict[str, Tensor]

    def select(self, rows: Tensor | slice) -> Batch:
        """Some of the samples (views of them for a slice)."""
        seen = Observation(*(None if part is None else part[rows] for part in self.observation))  # type: ignore[arg-type]
        noise = {name: part[rows] for name, part in self.noise.items()}
        return Batch(seen, *(part[rows] for part in self[1:-1]), noise)  # type: ignore[arg-type, call-arg, index]


class Buffer:
    """Storage for ``length`` steps of ``batch`` slots of a task.

    ``see`` fills step t from what the policy sees, ``outcome`` from what the environment answered;
    ``batch`` gives the samples of some slots when advantages and returns are known. ``available`` and ``state`` are
    kept when the first observation has them.
    """

    def __init__(self, spec: TeamSpec, first: Observation, length: int, device: torch.device) -> None:
        batch, n = first.alive.shape
        self.length, self.slots, self.agents = length, batch, n

        def room(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(length, batch, *shape, dtype=dtype, device=device)

        self.observations = room(*first.observations.shape[1:])
        self.alive = room(n, dtype=torch.bool)
        self.available = None if first.available is None else room(*first.available.shape[1:], dtype=torch.bool)
        self.state = None if first.state is None else room(*first.state.shape[1:])
        self.actions = room(n, *spec.action_shape, dtype=torch.int64 if spec.discrete else torch.float32)
        self.log_probs, self.values = room(n), room(n)
        self.noise: dict[str, Tensor] = {}
        self.rewards, self.advantages, self.returns = room(n), room(n), room(n)
        self.received, self.messages = room(n, dtype=torch.bool), room()
        self.terminated, self.truncated = room(n, dtype=torch.bool), room(n, dtype=torch.bool)
        self.done, self.success = room(dtype=torch.bool), room(dtype=torch.bool)
        self.measures: dict[str, Tensor] = {}
        self._room = room

    def see(self, t: int, observation: Observation) -> Observation:
        """Copies what the team sees at step ``t`` in; the same, as views of the buffer on the policy's device."""
        stored = self.observation(t)
        for place, part in zip(stored, observation):
            if place is not None and part is not None:
                place.copy_(part)
        return stored

    def observation(self, t: int | slice) -> Observation:
        """The stored observation of step ``t`` (a view)."""
        return Observation(
            self.observations[t],
            self.alive[t],
            None if self.available is None else self.available[t],
            None if self.state is None else self.state[t],
        )

    def draw(self, t: int, noise: dict[str, Tensor]) -> dict[str, Tensor]:
        """Copies what drew the gates and the graph of step ``t`` in; the same, as views of the buffer."""
        if self.noise.keys() != noise.keys():  # gates draw nothing while they are forced open
            self.noise = {name: self._room(*value.shape[1:]) for name, value in noise.items()}
        for name, value in noise.items():
            self.noise[name][t].copy_(value)
        return {name: values[t] for name, values in self.noise.items()}

    def outcome(self, t: int, step: Step, terminated: Tensor, truncated: Tensor) -> None:
        """Copies the environment's answer to the actions of step ``t`` in, and how each agent ended [B, n]."""
        self.rewards[t].copy_(step.rewards)
        self.terminated[t].copy_(terminated)
        self.truncated[t].copy_(truncated)
        self.done[t].copy_(step.done)
        self.success[t].copy_(step.success)
        for name, values in step.measures.items():
            if name not in self.measures:
                self.measures[name] = self._room()
            self.measures[name][t].copy_(values)

    def batch(self, first: int, last: int) -> Batch:
        """All samples of slots ``first`` to ``last`` - 1, step by step; views where all slots are asked for."""

        def flat(part: Tensor | None) -> Tensor | None:
            return None if part is None else part[:, first:last].flatten(0, 1)

        seen = Observation(*(flat(part) for part in self.observation(slice(None))))  # type: ignore[arg-type]
        parts = (self.actions, self.log_probs, self.values, self.advantages, self.returns)
        noise = {name: part[:, first:last].flatten(0, 1) for name, part in self.noise.items()}
        return Batch(seen, *(flat(p) for p in parts), noise)  # type: ignore[arg-type, call-arg]
