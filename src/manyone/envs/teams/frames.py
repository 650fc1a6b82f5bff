"""Memory for policies that have none: the last observations of the running episode side by side.

A policy that acts on what it sees now cannot know where it has searched already. ``FrameStack`` shows every agent its
last ``frames`` observations, [B, n, frames * d]: the newest first, so that columns 0..d-1 mean what they mean without a
stack; zeros stand for what was before the episode's start. Dead agents see zeros and forget: what comes back under
the same number (a new car) begins without a past. Who waits, and sees something, remembers. The global state is not
stacked.
Public: ``FrameStack``, ``FrameMemory``, ``stack_frames``, ``frames_of``.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.envs.teams.batch import whole, zeros
from manyone.envs.teams.types import Observation, Step, TeamEnv, TeamSpec
from manyone.errors import ManyoneError

MOST = 1000


def stack_frames(env: TeamEnv, frames: int) -> TeamEnv:
    """``env`` behind a ``FrameStack``; ``env`` itself when ``frames`` is 1."""
    return env if frames == 1 and not isinstance(frames, bool) else FrameStack(env, frames)


def frames_of(spec: TeamSpec) -> int:
    """How many observations stand side by side in what this task shows. ``ManyoneError`` when that cannot be."""
    frames = whole(spec.name, "frames", spec.details.get("frames", 1), 1, MOST)
    if spec.observation_dim % frames:
        raise ManyoneError(f"{spec.name}: observations of {spec.observation_dim} numbers are not {frames} frames")
    return frames


class FrameMemory:
    """The last ``frames`` observations of ``batch`` teams of ``agents``, each ``width`` numbers, in a ring in time."""

    def __init__(self, frames: int, batch: int, agents: int, width: int, device: str | torch.device = "cpu") -> None:
        with torch.inference_mode(False):  # a tensor that can be written to in any mode
            self._ring = torch.zeros(frames, batch, agents, width, device=device)
        self._newest = 0

    @property
    def frames(self) -> int:
        """How many are kept."""
        return len(self._ring)

    @property
    def batch(self) -> int:
        """Teams whose observations are kept."""
        return self._ring.shape[1]

    def see(self, observations: Tensor, alive: Tensor) -> Tensor:
        """Keeps ``observations`` [B, n, d]; a new tensor [B, n, frames * d] with them and those before.

        New, because callers keep what they were shown and may write to it.
        """
        self._newest = (self._newest + 1) % self.frames
        self._ring[self._newest].copy_(observations)
        self.forget_agents(~Observation(observations, alive).present())
        return torch.stack(self._ordered(), 2).flatten(2)

    def with_last(self, rows: Tensor, last: Observation) -> Tensor:
        """What ``see`` would give for some teams that see ``last`` [R, n, d]: [R, n, frames * d]; keeps nothing."""
        past = [part[rows] for part in self._ordered()[:-1]]
        stacked = torch.stack([last.observations, *past], 2).flatten(2)
        stacked[~last.present()] = 0
        return stacked

    def forget(self, rows: Tensor | None = None) -> None:
        """Clears what some teams have seen (an index or a mask [B]), or all."""
        self._ring[:, slice(None) if rows is None else rows] = 0

    def forget_agents(self, gone: Tensor) -> None:
        """Clears what the agents ``gone`` (bool [B, n]) have seen: a newcomer may have the number already."""
        slots, agents = gone.nonzero(as_tuple=True)
        if len(slots):
            self._ring[:, slots, agents] = 0

    def state(self) -> Tensor:
        """A copy of all but the last observations: [frames - 1, B, n, d], the newest first."""
        return torch.stack(self._ordered())[1:]

    def load(self, state: Tensor) -> None:
        """Goes back to what ``state`` returned; ``see`` with the last observations is to follow."""
        self._ring[1:] = state.flip(0)
        self._newest = self.frames - 1

    def _ordered(self) -> list[Tensor]:
        return [self._ring[(self._newest - k) % self.frames] for k in range(self.frames)]


class FrameStack:
    """``env`` with its agents' last ``frames`` observations; a :class:`~manyone.envs.teams.types.TeamEnv`.

    ``spec`` is that of ``env`` but for ``observation_dim``, frames times as wide, and ``details["frames"]``.
    """

    def __init__(self, env: TeamEnv, frames: int) -> None:
        spec = env.spec
        whole(spec.name, "frames", frames, 1, MOST)
        if "frames" in spec.details:
            raise ManyoneError(f"{spec.name}: already shows {spec.details['frames']} frames: stack them once")
        self.env, self.batch, self.device = env, env.batch, env.device
        self.spec = replace(
            spec, observation_dim=frames * spec.observation_dim, details={**spec.details, "frames": frames}
        )
        self._memory = FrameMemory(frames, env.batch, spec.agents, spec.observation_dim, env.device)

    def reset(self, seed: int) -> Observation:
        """Starts episode 0 of every slot, with nothing remembered."""
        seen = self.env.reset(seed)
        self._memory.forget()
        return self._remembered(seen)

    def step(self, actions: Tensor) -> Step:
        """Steps all slots; ``final`` holds the stacks that the ended episodes had, zeros in other slots."""
        step = self.env.step(actions)
        final = step.final
        if final is not None:
            rows = (step.done if step.cut is None else step.done | step.cut.any(-1)).nonzero()[:, 0]
            stacks = self._memory.with_last(rows, final.select(rows))
            shape = (self.batch, self.spec.agents, self.spec.observation_dim)
            final = final._replace(observations=zeros(shape, stacks.device).index_copy_(0, rows, stacks))
            self._memory.forget(step.done.nonzero()[:, 0])
        for gone in (step.left, step.cut):
            if gone is not None:
                self._memory.forget_agents(gone)
        return step._replace(observation=self._remembered(step.observation), final=final)

    def state_dict(self) -> dict[str, Any]:
        """The state of ``env`` and all that is remembered."""
        return {"env": self.env.state_dict(), "frames": self._memory.state()}

    def load_state_dict(self, state: dict[str, Any]) -> Observation:
        """Goes back to a saved state; the stacked observation at that moment."""
        saved, held = state.get("frames"), self._memory.state()
        if saved is None or saved.shape != held.shape:
            found = "without frames" if saved is None else f"of {len(saved) + 1} frames, {list(saved.shape[1:])}"
            raise ManyoneError(
                f"{self.spec.name}: the saved state is {found}; this environment has {self._memory.frames} frames, "
                f"{list(held.shape[1:])}"
            )
        seen = self.env.load_state_dict(state["env"])
        if self.spec.details.get("replayable", True):
            self._memory.load(saved)
        else:
            self._memory.forget()  # the episodes have begun anew
        return self._remembered(seen)

    def frame(self, slot: int = 0) -> np.ndarray:
        """A picture of one slot, uint8 [height, width, 3]."""
        return self.env.frame(slot)

    def close(self) -> None:
        """Frees what ``env`` holds."""
        self.env.close()

    def _remembered(self, seen: Observation) -> Observation:
        return seen._replace(observations=self._memory.see(seen.observations, seen.alive))
