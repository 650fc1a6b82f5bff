"""The side of a team environment that simulates copies of somebody else's task, here or in worker processes.

A *copy* is one running environment behind a small interface (:class:`Copy`): it writes what the agents see into rows
of arrays that both sides share (:class:`Row`). A :class:`SlotSimulator` holds several copies, steps them all for one
message and restarts those whose episode ended. Nothing here imports torch: a worker starts quickly.
"""

from __future__ import annotations

import contextlib
import math
import random
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from types import SimpleNamespace
from typing import Any, Protocol

import numpy as np

from manyone.envs.workers import TERMINATED, TRUNCATED, Failure, SharedArrays, words_of
from manyone.errors import ManyoneError


@dataclass(frozen=True)
class Layout:
    """What the arrays of a task look like; one entry per agent where a tuple says so.

    ``counts``: discrete actions of each agent, all 0 when actions are continuous, whose bounds are then ``low`` and
    ``high`` [n][a_i]. ``digits`` [n][k_i]: choices of each number of an action, whose sums are ``counts``; () where
    every action is one number. ``masked``: whether available actions are told; ``forbids``: whether the task's own
    rules make them fewer, or agents have unlike actions. ``absences``: whether agents may be missing while others go
    on. ``replayable``: whether the seed and the actions
    decide everything. ``measures``: names of further figures of an episode.
    """

    names: tuple[str, ...]
    widths: tuple[int, ...]
    counts: tuple[int, ...]
    low: tuple[tuple[float, ...], ...] = ()
    high: tuple[tuple[float, ...], ...] = ()
    state_dim: int = 0
    horizon: int = 100
    masked: bool = False
    digits: tuple[tuple[int, ...], ...] = ()
    forbids: bool = False
    absences: bool = False
    replayable: bool = True
    reports_success: bool = False
    measures: tuple[str, ...] = ()

    @property
    def agents(self) -> int:
        """Number of agents."""
        return len(self.names)

    @property
    def actions(self) -> int:
        """Discrete actions of the agent that has most, or the sum of the digits' most; 0 when they are continuous."""
        return sum(self.widest) or max(self.counts)

    @property
    def widest(self) -> tuple[int, ...]:
        """Most choices of each digit, over the agents; () where an action is one number."""
        return tuple(max(choices) for choices in zip_longest(*self.digits, fillvalue=1))

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one agent's action."""
        if self.digits:
            return (len(self.widest),)
        return () if self.actions else (self.action_dim,)

    @property
    def action_dim(self) -> int:
        """Width of the widest continuous action; 0 when actions are discrete."""
        return max((len(bounds) for bounds in self.low), default=0)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """``low`` and ``high`` as float32 [n, a]; entries that an agent does not have are held at zero."""
        low, high = np.zeros((2, self.agents, self.action_dim), np.float32)
        for agent, (lowest, highest) in enumerate(zip(self.low, self.high)):
            low[agent, : len(lowest)], high[agent, : len(highest)] = lowest, highest
        return low, high

    def permitted(self) -> np.ndarray:
        """bool [n, A]: the actions that each agent has, before any mask; of a digit that it lacks the first choice."""
        found = np.zeros((self.agents, self.actions), bool)
        for agent in range(self.agents):
            if self.digits:
                found[agent, self.starts] = True
            found[agent, self.entries(agent)] = True
        return found

    def nothing(self) -> np.ndarray:
        """bool [A]: the one action of an agent that does not act, the first of every digit."""
        found = np.zeros(self.actions, bool)
        found[self.starts[: self.actions]] = True
        return found

    @property
    def starts(self) -> np.ndarray:
        """int64 [k]: where each digit's choices begin among the A; [0] where an action is one number."""
        return np.cumsum([0, *self.widest[:-1]])

    def entries(self, agent: int) -> np.ndarray:
        """int64 [c]: where an agent's own actions are among the A, digit after digit."""
        choices = self.digits[agent] if self.digits else (self.counts[agent],)
        return np.concatenate([start + np.arange(count) for start, count in zip(self.starts, choices)])


class Row(Protocol):
    """Where a copy writes: views of one slot's entries."""

    observations: np.ndarray  # float32 [n, d]
    alive: np.ndarray  # bool [n]
    available: np.ndarray  # bool [n, A]; [n, 0] when nothing is masked
    state: np.ndarray  # float32 [s]
    rewards: np.ndarray  # float32 [n]
    measures: np.ndarray  # float64 [m]
    left: np.ndarray  # bool [n], False before a step: agents that ended for good while others go on
    cut: np.ndarray  # bool [n], False before a step: agents that were truncated while others go on
    final: Any  # observations, alive, available and state with what these saw last; written where there is one


class Copy(ABC):
    """One running environment."""

    layout: Layout

    @abstractmethod
    def reset(self, seed: int, row: Row) -> None:
        """Starts an episode that is a function of ``seed`` (31 bits); writes what is seen, not rewards and measures."""

    @abstractmethod
    def step(self, actions: np.ndarray, row: Row) -> int:
        """One step with int64 [n] or [n, k], or float32 [n, a]; writes all of the row; its flags, 0 if it goes on."""

    @abstractmethod
    def picture(self) -> np.ndarray:
        """The environment now, uint8 [height, width, 3]."""

    @abstractmethod
    def close(self) -> None:
        """Frees what it holds."""

    def rewind(self) -> None:  # noqa: B027 -- most have nothing to do
        """Called before a ``reset`` that does not follow the end of an episode."""


def slot_arrays(layout: Layout, batch: int, *, shared: bool) -> SharedArrays:
    """The arrays of all slots.

    They are those of :class:`Row` with a leading slot axis; ``final_*``, what was seen before a restart, or by agents
    that were cut; ``actions``; ``flags`` uint8 [B]; ``seeds`` int64 [B], with which a slot's next episode starts.
    """
    n = layout.agents
    parts: dict[str, tuple[str, tuple[int, ...]]] = {
        "observations": ("f4", (n, max(layout.widths))),
        "state": ("f4", (layout.state_dim,)),
        "alive": ("?", (n,)),
        "available": ("?", (n, layout.actions if layout.masked else 0)),
    }
    parts |= {f"final_{name}": part for name, part in parts.items()}
    parts |= {
        "seeds": ("i8", ()),
        "actions": ("i8" if layout.actions else "f4", (n, *layout.action_shape)),
        "rewards": ("f4", (n,)),
        "left": ("?", (n,)),
        "cut": ("?", (n,)),
        "flags": ("u1", ()),
        "measures": ("f8", (len(layout.measures),)),
    }
    return SharedArrays({name: (kind, (batch, *shape)) for name, (kind, shape) in parts.items()}, shared=shared)


class _Slot:
    """The :class:`Row` of one slot, its copy, and how far its episode is."""

    def __init__(self, number: int, views: dict[str, np.ndarray], copy: Copy) -> None:
        self.number, self.copy, self.steps, self.seed = number, copy, 0, 0
        for name, array in views.items():
            setattr(self, name, array[number : number + 1] if array.ndim == 1 else array[number])
        names = ("observations", "state", "alive", "available")
        self.final = SimpleNamespace(**{name: views[f"final_{name}"][number] for name in names})
        self.pairs = [(getattr(self.final, name), views[name][number]) for name in names]


class SlotSimulator:
    """The copies of some slots. ``streams``: give each copy global random streams (random, numpy, torch) of its own,
    for environments that may draw from them."""

    def __init__(
        self, arrays: SharedArrays, layout: Layout, maker: Callable[[], Copy], slots: Sequence[int], streams: bool
    ) -> None:
        self.layout, self.streams = layout, streams
        self.slots: list[_Slot] = []
        views = arrays.views()
        with kept_streams(streams):
            for number in slots:
                try:
                    seed_streams(streams, 0, 0)  # copies are built alike
                    copy = maker()
                    self.slots.append(_Slot(number, views, copy))
                    if copy.layout != layout:
                        raise ManyoneError("this copy has other agents or spaces than the first one; build all alike")
                except Exception as problem:
                    raise Failure(number, words_of(problem)) from problem
        self._by_number = {slot.number: slot for slot in self.slots}

    def reset(self, histories: dict[int, np.ndarray]) -> None:
        """Starts each slot's episode with its seed and repeats the actions [t, n, ...] given for it."""
        with kept_streams(self.streams):
            for number, history in histories.items():
                slot: Any = self._by_number[number]
                slot.rewards[:] = 0
                try:
                    slot.copy.rewind()
                    self._start(slot)
                    for actions in history:
                        if self._step(slot, actions):
                            raise ManyoneError(
                                "repeating the saved actions ended the episode early: reset(seed=...) does not decide "
                                "everything that happens in this environment, so it cannot be resumed"
                            )
                except Exception as problem:
                    raise Failure(number, words_of(problem)) from problem

    def step(self, _: None = None) -> None:
        """One step of every slot with its actions; episodes that end are followed by the next one's start."""
        with kept_streams(self.streams):
            for slot in self.slots:
                row: Any = slot
                try:
                    flags = row.flags[0] = self._step(slot, row.actions)
                    if flags:
                        if not row.cut.any():  # else the copy has written what all of them saw last
                            for kept, now in slot.pairs:
                                kept[...] = now
                        self._start(slot)
                except Exception as problem:
                    raise Failure(slot.number, words_of(problem)) from problem

    def _start(self, slot: _Slot) -> None:
        row: Any = slot
        slot.seed, slot.steps = int(row.seeds[0]), 0
        seed_streams(self.streams, slot.seed, 0)
        slot.copy.reset(slot.seed, row)
        self._check(row)

    def _step(self, slot: _Slot, actions: np.ndarray) -> int:
        row: Any = slot
        slot.steps += 1
        row.left[:] = row.cut[:] = False
        seed_streams(self.streams, slot.seed, slot.steps)
        flags = slot.copy.step(actions, row)
        self._check(row)
        if not flags & (TERMINATED | TRUNCATED):
            return TRUNCATED if slot.steps >= self.layout.horizon else 0
        return flags

    def _check(self, row: Row) -> None:
        # A sum is finite only if all terms are: one pass instead of two in the usual case.
        total = row.observations.sum() + row.rewards.sum()
        if math.isfinite(total + row.state.sum() if self.layout.state_dim else total):
            return
        for name, what in (("observations", "observed"), ("rewards", "was rewarded")):
            wrong = ~np.isfinite(getattr(row, name)).reshape(self.layout.agents, -1).all(1)
            if wrong.any():
                agent = self.layout.names[int(wrong.argmax())]
                raise ManyoneError(f"agent {agent!r} {what} with a number that is not finite (NaN or infinite)")
        if not np.isfinite(row.state).all():
            raise ManyoneError("state() holds a number that is not finite (NaN or infinite)")

    def picture(self, number: int) -> np.ndarray:
        """A picture of one slot."""
        try:
            return np.asarray(self._by_number[number].copy.picture())
        except Exception as problem:
            raise Failure(number, words_of(problem)) from problem

    def close(self) -> None:
        """Closes every copy."""
        slots, self.slots = self.slots, []
        for slot in slots:
            slot.copy.close()


@contextlib.contextmanager
def kept_streams(streams: bool) -> Iterator[None]:
    """Puts the global random streams back afterwards."""
    if not streams:
        yield
        return
    torch = sys.modules.get("torch")
    before = random.getstate(), np.random.get_state()
    torch_before = torch.get_rng_state() if torch else None
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        if torch:
            torch.set_rng_state(torch_before)


def seed_streams(streams: bool, seed: int, step: int) -> None:
    """Seeds the global streams for one step of one episode."""
    # Seeding at every step costs a tenth of swapping states (20 us against 200), and leaves nothing to save.
    if not streams:
        return
    mixed = (seed ^ (step * 0x9E3779B1)) & 0xFFFFFFFF
    random.seed(mixed)
    np.random.seed(mixed)
    if torch := sys.modules.get("torch"):
        torch.default_generator.manual_seed(mixed)
