"""What the project's own team environments share: lock-step slots that restart by themselves, counted randomness, exact
saving, and the check of options.

A task keeps its state in tensors whose first axis is the slot, names them in ``fields``, and says how episodes start,
advance and look; ``BatchedTeam`` does the rest. Every random number is a function of (seed, task, slot, episode, time)
through ``counter_words``, drawn for all slots that need it at once.
Public: ``BatchedTeam``, ``below``, ``chance``, ``whole``, ``share``, ``one_of``,
``zeros``, ``tally``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyone.envs.teams.types import Observation, Step, TeamSpec
from manyone.errors import ManyoneError
from manyone.randomness import Words, counter_words, seed_for


def below(words: Words, bound: int) -> NDArray[np.int64]:
    """Numbers in 0..bound-1, uniform to bound / 2^32, from 32-bit words."""
    return ((words * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)


def chance(words: Words, probability: float) -> NDArray[np.bool_]:
    """True with the given probability (0 never, 1 always), from 32-bit words."""
    return words.astype(np.float64) < probability * 4294967296.0


def whole(task: str, option: str, value: Any, low: int, high: int) -> int:
    """``value`` as an integer in low..high, or a ``ManyoneError`` that names the task and the option."""
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ManyoneError(f"{task}: {option}={value}: must be a whole number from {low} to {high}")
    return value


def share(task: str, option: str, value: Any) -> float:
    """``value`` as a probability, or a ``ManyoneError`` that names the task and the option."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise ManyoneError(f"{task}: {option}={value}: must be a probability from 0 to 1")
    return float(value)


def one_of(task: str, option: str, value: Any, allowed: Sequence[str]) -> str:
    """``value`` if it is allowed, or a ``ManyoneError`` that names the task and the option."""
    if value not in allowed:
        raise ManyoneError(f"{task}: {option}={value}: must be one of {', '.join(allowed)}")
    return str(value)


def zeros(shape: Sequence[int], device: torch.device) -> Tensor:
    """float32 zeros; on the CPU from pages that the system zeroes on first touch, in large ones when it can."""
    if device.type == "cpu":
        return torch.from_numpy(np.zeros(shape, dtype=np.float32))
    return torch.zeros(*shape, dtype=torch.float32, device=device)


def tally(cells: Tensor, places: int, weights: Tensor | None = None) -> Tensor:
    """How many (or how much weight) of cells [B, n], numbers 0..places, fall on each place: float32 [B, places + 1]."""
    counts = torch.zeros(len(cells), places + 1, dtype=torch.float32, device=cells.device)
    source = counts.new_ones(1).expand(cells.shape) if weights is None else weights.to(torch.float32)
    return counts.scatter_add_(1, cells, source)


class BatchedTeam(ABC):
    """A batch of episodes of one task in step; a task says how they start, advance and look.

    A task defines ``fields`` (the names of its tensors of shape [B, ...]), ``_start``, ``_advance``, ``_observe`` and
    ``frame``. Slots are rows of the batch.
    """

    fields: ClassVar[tuple[str, ...]] = ()
    left: Tensor | None = None
    """Agents [B, n] that left in this step, set by ``_advance`` of a task whose agents come and go: see ``Step``."""

    def __init__(self, spec: TeamSpec, batch: int, device: str | torch.device) -> None:
        self.spec = spec
        self.batch = whole(spec.name, "batch", batch, 1, 1 << 24)
        self.device = torch.device(device)
        self.steps = torch.zeros(batch, dtype=torch.int64, device=self.device)
        self._task = spec.name
        self._episodes = np.zeros(batch, dtype=np.int64)
        self._seed: int | None = None

    def reset(self, seed: int) -> Observation:
        """Starts episode 0 of every slot."""
        self._seed = seed
        self._episodes[:] = 0
        self.steps.zero_()
        self._start(torch.arange(self.batch, device=self.device), np.arange(self.batch))
        return self._observe(None)

    def step(self, actions: Tensor) -> Step:
        """Steps all slots: int64 [B, n] in 0..A-1. An action that is not available to its agent does nothing."""
        self._check(actions)
        rewards, terminated, success, measures = self._advance(actions)
        self.steps = self.steps + 1
        truncated = (self.steps >= self.spec.horizon) & ~terminated
        rows = (terminated | truncated).nonzero()[:, 0]
        observation, final = self._observe(None), None
        if len(rows):
            slots = rows.cpu().numpy()
            last = None if len(rows) == self.batch else observation.select(rows)
            self._episodes[slots] += 1
            self.steps[rows] = 0
            self._start(rows, slots)
            if last is None:
                observation, final = self._observe(None), observation
            else:
                observation, final = _split(observation, rows, last, self._observe(rows))
        return Step(observation, rewards, terminated, truncated, final, success, measures, self.left)

    def state_dict(self) -> dict[str, Any]:
        """Copies of everything that later steps depend on."""
        state = {name: getattr(self, name).clone() for name in ("steps", *self.fields)}
        return {
            "task": self.spec.name,
            "seed": self._seed,
            "episodes": torch.from_numpy(self._episodes.copy()),
            **state,
        }

    def load_state_dict(self, state: dict[str, Any]) -> Observation:
        """Goes back to a saved state; the observation at that moment."""
        for name in ("steps", *self.fields):
            held = getattr(self, name)
            if state.get("task") != self.spec.name or state[name].shape != held.shape:
                saved = f"{state.get('task')} with batch {len(state.get('steps', ()))}"
                raise ManyoneError(
                    f"the saved state is of {saved}, the environment is {self.spec.name}, batch {self.batch}"
                )
            setattr(self, name, state[name].to(self.device, held.dtype, copy=True))
        self._seed, self._episodes = state["seed"], state["episodes"].cpu().numpy().copy()
        return self._observe(None)

    def frame(self, slot: int = 0) -> np.ndarray:
        """A picture of one slot, uint8 [height, width, 3]."""
        raise ManyoneError(f"{self._task} cannot be drawn")

    def close(self) -> None:  # noqa: B027 (tensors need no closing; a task that holds more overrides it)
        """Nothing to free."""

    def _words(self, slots: NDArray[np.int64], count: int, steps: Any = 0, stream: int = 0) -> Words:
        """32-bit words [len(slots), count] for these slots' current episodes at the given times."""
        if self._seed is None:
            raise ManyoneError(f"{self._task}: call reset(seed) before the first step")
        return counter_words(
            seed_for(self._seed, "team", self._task), (slots, self._episodes[slots], steps), count, stream
        )

    def _check(self, actions: Tensor) -> None:
        if self._seed is None:
            raise ManyoneError(f"{self._task}: call reset(seed) before the first step")
        expected = (self.batch, self.spec.agents)
        if tuple(actions.shape) != expected or actions.dtype != torch.int64:
            raise ManyoneError(
                f"{self._task}: actions are {actions.dtype} {list(actions.shape)}: needs torch.int64 {list(expected)}"
            )
        low, high = actions.aminmax()
        if int(low) < 0 or int(high) >= self.spec.actions:
            raise ManyoneError(
                f"{self._task}: an action is {int(low)} or {int(high)}: needs 0 to {self.spec.actions - 1}"
            )

    @abstractmethod
    def _start(self, rows: Tensor, slots: NDArray[np.int64]) -> None:
        """Writes the first state of the current episode of some slots (the same slots twice: on the device, here)."""

    @abstractmethod
    def _advance(self, actions: Tensor) -> tuple[Tensor, Tensor, Tensor, dict[str, Tensor]]:
        """Rewards float32 [B, n], terminated bool [B], success bool [B] and measures, after one step of all slots."""

    @abstractmethod
    def _observe(self, rows: Tensor | None) -> Observation:
        """A new observation of all slots, or of some."""


def _split(whole: Observation, rows: Tensor, last: Observation, fresh: Observation) -> tuple[Observation, Observation]:
    """The observation after a restart of ``rows``, and the one before it.

    Wide parts are written in place, and those before the restart are zeros elsewhere, so that memory that nobody reads
    is never touched; masks, which may be shared constants, are copied.
    """
    observations = zeros(whole.observations.shape, rows.device).index_copy_(0, rows, last.observations)
    before = whole._replace(observations=observations)
    whole.observations.index_copy_(0, rows, fresh.observations)
    after = whole._replace(alive=whole.alive.index_copy(0, rows, fresh.alive))
    if whole.available is not None and fresh.available is not None:
        after = after._replace(available=whole.available.index_copy(0, rows, fresh.available))
    return after, before
