"""A team environment out of many copies of a single one, stepped in this process or in workers, one message a step.

Public: :class:`TeamCopies`. What happens in episode e of slot b is the environment's answer to
``reset(seed=f(seed, b, e))`` and the actions, so the number of workers changes nothing, and a saved state is the
actions since each slot's episode began: loading repeats them and compares what is then seen with what was seen.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.envs.teams.simulator import Copy, Layout, SlotSimulator, kept_streams, seed_streams, slot_arrays
from manyone.envs.teams.types import Observation, Step, TeamSpec
from manyone.envs.workers import SUCCESS, TERMINATED, TRUNCATED, Died, Failure, Workers, words_of, worker_count
from manyone.errors import ManyoneError
from manyone.randomness import seed_for


class TeamCopies:
    """``batch`` copies made by ``maker``; a :class:`~manyone.envs.teams.types.TeamEnv`.

    ``workers``: processes (None: one per processor from four slots on; 0: this process, as when ``maker`` cannot be
    sent to another one). ``streams``: whether the environment may draw from global random streams (see
    ``SlotSimulator``).
    """

    def __init__(
        self,
        name: str,
        maker: Callable[[], Copy],
        batch: int,
        *,
        device: str | torch.device = "cpu",
        workers: int | None = None,
        streams: bool = True,
    ) -> None:
        if batch < 1:
            raise ManyoneError(f"batch {batch}: must be at least 1")
        self.name, self.batch, self.device = name, batch, torch.device(device)
        self._maker, self._streams = maker, streams
        self._processes = _process_count(workers, batch, maker, name)
        self.layout = _probe(name, maker, streams)
        self.spec = _spec(name, self.layout)
        self._low, self._high = self.layout.bounds()
        self._permitted = self.layout.permitted()
        self._workers: Workers | None = None
        self._seed: int | None = None
        self._log: np.ndarray = np.zeros(0)

    # -- running ------------------------------------------------------------------------------------------------------

    def reset(self, seed: int) -> Observation:
        """Starts episode 0 of every slot."""
        empty: np.ndarray = np.zeros((0, *self._action_shape()), self._action_kind())
        return self._start(seed, np.zeros(self.batch, np.int64), [empty] * self.batch)

    def step(self, actions: Tensor) -> Step:
        """Steps all slots; see :class:`~manyone.envs.teams.types.Step`."""
        self._need_start()
        chosen = self._checked(actions)
        self._log = _room(self._log, int(self._steps.max()) + 1)
        self._log[self._steps, np.arange(self.batch)] = chosen
        self._steps += 1
        self._views["actions"][...] = chosen
        self._ask("step", dict.fromkeys(range(len(self._ends))))
        flags, cut = self._views["flags"], self._views["cut"]
        over = np.flatnonzero(flags)
        final = self._seen("final_") if len(over) or cut.any() else None
        if len(over):
            self._steps[over] = 0
            self._episodes[over] += 1
            self._plan(over, self._episodes[over] + 1)
        measures = {
            name: self._tensor(self._views["measures"][:, column].astype(np.float32))
            for column, name in enumerate(self.layout.measures)
        }
        return Step(
            observation=self._seen(),
            rewards=self._tensor(self._views["rewards"].copy()),
            terminated=self._tensor((flags & TERMINATED) > 0),
            truncated=self._tensor((flags & TRUNCATED) > 0),
            final=final,
            success=self._tensor((flags & SUCCESS) > 0),
            measures=measures,
            left=self._tensor(self._views["left"].copy()),
            cut=self._tensor(cut.copy()) if cut.any() else None,
        )

    def frame(self, slot: int = 0) -> np.ndarray:
        """A picture of one slot, uint8 [height, width, 3]."""
        self._need_start()
        assert self._workers is not None
        try:
            return self._workers.ask("picture", {int(np.searchsorted(self._ends, slot, side="right")): slot})[0]
        except Failure as problem:
            raise ManyoneError(f"{self.name} cannot be drawn: {problem}") from problem

    def close(self) -> None:
        """Ends the processes and closes the environments; ``reset`` starts them again."""
        workers, self._workers, self._seed = self._workers, None, None
        if workers is not None:
            workers.close()

    # -- saving -------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """Seed, episode numbers, the actions since each episode began, and what is seen now."""
        self._need_start()
        taken = [self._log[: self._steps[slot], slot] for slot in range(self.batch)]
        return {
            "seed": self._seed,
            "episodes": torch.from_numpy(self._episodes.copy()),
            "steps": torch.from_numpy(self._steps.copy()),
            "actions": torch.from_numpy(np.concatenate(taken)),
            "observations": torch.from_numpy(self._views["observations"].copy()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> Observation:
        """Starts the saved episodes and repeats their actions. ``ManyoneError`` when that leads somewhere else.

        Where a seed does not decide everything (``spec.details["replayable"]`` is False) they begin anew instead.
        """
        steps = state["steps"].numpy()
        if len(steps) != self.batch:
            raise ManyoneError(f"{self.name}: the saved state has {len(steps)} slots, this environment {self.batch}")
        histories = np.split(state["actions"].numpy(), np.cumsum(steps)[:-1])
        if not self.layout.replayable:
            histories = [history[:0] for history in histories]
        observation = self._start(state["seed"], state["episodes"].numpy().copy(), histories)
        if not self.layout.replayable:
            return observation
        wrong = (self._views["observations"] != state["observations"].numpy()).any(axis=(1, 2))
        if wrong.any():
            slot = int(wrong.argmax())
            raise ManyoneError(
                f"{self.name}, slot {slot}: repeating the {steps[slot]} saved actions led to other observations; "
                "reset(seed=...) must decide everything that happens in this environment for it to be resumed"
            )
        return observation

    # -- inside -------------------------------------------------------------------------------------------------------

    def _start(self, seed: int, episodes: np.ndarray, histories: list[np.ndarray]) -> Observation:
        if self._workers is None:
            self._open()
        self._seed, self._episodes = seed, episodes
        self._steps = np.array([len(history) for history in histories], np.int64)
        self._log = np.zeros((max(1, int(self._steps.max())), self.batch, *self._action_shape()), self._action_kind())
        for slot, history in enumerate(histories):
            self._log[: len(history), slot] = history
        everything = np.arange(self.batch)
        self._plan(everything, episodes)
        starts = [0, *self._ends[:-1]]
        parts = [dict(zip(range(a, b), histories[a:b])) for a, b in zip(starts, self._ends)]
        self._ask("reset", dict(enumerate(parts)))
        self._plan(everything, episodes + 1)
        return self._seen()

    def _plan(self, slots: np.ndarray, episodes: np.ndarray) -> None:
        """Writes with which seeds the slots' next starts happen; 31 bits, which every simulator takes."""
        assert self._seed is not None
        for slot, episode in zip(slots.tolist(), episodes.tolist()):
            self._views["seeds"][slot] = seed_for(self._seed, "team episode", slot, episode) >> 32

    def _open(self) -> None:
        arrays = slot_arrays(self.layout, self.batch, shared=self._processes > 0)
        self._views = arrays.views()
        slots = np.array_split(np.arange(self.batch), max(self._processes, 1))
        self._ends = [int(part[-1]) + 1 for part in slots]
        parts = [(arrays, self.layout, self._maker, part.tolist(), self._streams) for part in slots]
        self._workers = Workers("team", SlotSimulator, parts, processes=self._processes > 0)

    def _ask(self, what: str, arguments: dict[int, Any]) -> None:
        """Has the simulators do ``what``; one that fails closes all."""
        assert self._workers is not None
        try:
            self._workers.ask(what, arguments)
        except Failure as problem:
            when = f", step {int(self._steps[problem.row])}" if what == "step" else ""
            self.close()  # replies may still be under way
            raise ManyoneError(f"{self.name}, slot {problem.row}{when}: {problem}") from problem
        except Died as problem:
            self.close()
            raise ManyoneError(problem.advice(f"while it simulated {self.name}", "a smaller batch")) from None
        except BaseException:
            self.close()
            raise

    def _seen(self, prefix: str = "") -> Observation:
        def part(name: str) -> Tensor:
            return self._tensor(self._views[prefix + name].copy())

        return Observation(
            part("observations"),
            part("alive"),
            part("available") if self.layout.masked else None,
            part("state") if self.layout.state_dim else None,
        )

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def _action_shape(self) -> tuple[int, ...]:
        return self.layout.agents, *self.layout.action_shape

    def _action_kind(self) -> type:
        return np.int64 if self.layout.actions else np.float32

    def _need_start(self) -> None:
        if self._seed is None:
            raise ManyoneError(f"{self.name}: call reset(seed) first")

    def _checked(self, actions: Tensor) -> np.ndarray:
        """Actions as an array: allowed ones, or clipped to the bounds."""
        given = actions.detach().cpu().numpy()
        wanted = (self.batch, *self._action_shape())
        if given.shape != wanted:
            raise ManyoneError(f"{self.name}: actions have shape {list(given.shape)}; {list(wanted)} is needed")
        if not self.layout.actions:
            if not np.isfinite(given).all():
                raise ManyoneError(f"{self.name}: an action is not finite; check the policy's weights")
            return np.clip(given.astype(np.float32), self._low, self._high)
        if given.dtype.kind not in "iu":
            raise ManyoneError(f"{self.name}: actions are {given.dtype}; whole numbers are needed")
        inside = (given >= 0) & (given < (self.layout.widest or self.layout.actions))
        allowed = self._views["available"] if self.layout.masked else self._permitted[None]
        allowed = np.broadcast_to(allowed, (*wanted[:2], self.layout.actions))
        held = np.where(inside, given, 0)
        entries = held.reshape(*wanted[:2], -1) + self.layout.starts
        fine = inside & np.take_along_axis(allowed, entries, 2).reshape(wanted)
        fine = fine.reshape(*wanted[:2], -1).all(-1) | ~self._views["alive"]
        if not fine.all():
            slot, agent = (int(index) for index in np.argwhere(~fine)[0])
            raise ManyoneError(
                f"{self.name}, slot {slot}, step {int(self._steps[slot]) + 1}: action {given[slot, agent]} is not "
                f"available to agent {self.layout.names[agent]!r}; choose among Observation.available"
            )
        return held


def _probe(name: str, maker: Callable[[], Copy], streams: bool) -> Layout:
    """The layout, from a copy of its own that is closed again."""
    with kept_streams(streams):
        seed_streams(streams, 0, 0)
        try:
            copy = maker()
        except Exception as problem:
            raise ManyoneError(f"{name} cannot be used: {words_of(problem)}") from problem
        copy.close()
    return copy.layout


def _spec(name: str, layout: Layout) -> TeamSpec:
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    if layout.action_dim:
        widest = [
            [(a[i], b[i]) for a, b in zip(layout.low, layout.high) if i < len(a)] for i in range(layout.action_dim)
        ]
        low = tuple(min(lowest for lowest, _ in pairs) for pairs in widest)
        high = tuple(max(highest for _, highest in pairs) for pairs in widest)
    agent_low, agent_high = (tuple(map(tuple, bound.tolist())) if low else () for bound in layout.bounds())
    return TeamSpec(
        name=name,
        agents=layout.agents,
        observation_dim=max(layout.widths),
        actions=layout.actions,
        action_dim=layout.action_dim,
        low=low,
        high=high,
        state_dim=layout.state_dim,
        horizon=layout.horizon,
        agent_names=layout.names,
        reports_success=layout.reports_success,
        digits=layout.widest,
        masked=layout.forbids,
        absences=layout.absences,
        agent_low=agent_low,
        agent_high=agent_high,
        details={"replayable": layout.replayable},
    )


def _room(log: np.ndarray, rows: int) -> np.ndarray:
    """``log`` with at least ``rows`` rows; it doubles when it is full."""
    if len(log) >= rows:
        return log
    return np.concatenate([log, np.zeros_like(log)])


def _process_count(asked: int | None, batch: int, maker: Any, name: str) -> int:
    """How many processes to start; none where ``maker`` cannot be sent to them."""
    count = worker_count(asked, batch)
    try:
        if count:
            pickle.dumps(maker)
    except (pickle.PicklingError, AttributeError, TypeError) as problem:
        if asked is None:
            return 0
        raise ManyoneError(
            f"{name}: workers {asked} need a factory that another process can import, a function at the top of a "
            f"module ({problem}); or use workers=0"
        ) from None
    return count
