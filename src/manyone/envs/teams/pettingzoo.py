"""PettingZoo's parallel API: one copy of any such environment as a :class:`~manyone.envs.teams.simulator.Copy`.

Public: :class:`PettingZooCopy`, and the makers that prefixes of names stand for. What the parallel API leaves open is
settled here: agents that end while others go on have left (``alive`` False, zeros, one available action), also where
the environment goes on listing them, until it strikes them off and lists them again; agents without an observation
wait (``alive`` False, what they saw last) and may come back, or come late; an episode ends with its last agents, and is
*truncated* when any of these was cut off rather than terminated. Action masks are read from observations, wherever
``action_mask`` is, or from ``infos[agent]["action_mask"]``. What calls return is the matter of ``parallel``.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from manyone.engine.extras import need
from manyone.engine.modules import import_named
from manyone.envs.teams.parallel import Parallel, number
from manyone.envs.teams.simulator import Copy, Layout, Row
from manyone.envs.teams.spaces import JOINT, Decoder, Encoder, acting, mask_of
from manyone.envs.workers import SUCCESS, TERMINATED, TRUNCATED
from manyone.errors import ManyoneError

LIMIT = 1000  # steps, where the environment tells no limit of its own
LIMITS = ("max_cycles", "max_steps", "_max_episode_steps", "max_episode_steps", "episode_limit", "horizon")


class PettingZooCopy(Copy):
    """One environment with PettingZoo's parallel API.

    ``limit``: cuts episodes after so many steps (default: the environment's own limit, or 1000); ``state``: use
    ``state()`` where there is one; ``success``: the entry of an agent's ``infos`` that tells, when the episode ends,
    whether it succeeded; ``masked``: always tell available actions, as needed when agents leave or have masks (None:
    only when they differ between agents at the start); ``joint``: how many combinations an action of several parts may
    have to be one number.
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        *,
        limit: int | None = None,
        state: bool = True,
        success: str | None = None,
        masked: bool | None = True,
        joint: int = JOINT,
    ) -> None:
        self.api = Parallel(factory())
        self.env = env = self.api.env
        self.names = [str(name) for name in env.possible_agents]
        self.keys = list(env.possible_agents)
        self.index = {key: i for i, key in enumerate(self.keys)}
        if not self.keys:
            raise ManyoneError("possible_agents is empty; it must list every agent that may take part")
        self.whose = whose = [f"agent {name!r}" for name in self.names]
        self.encoders = [Encoder(env.observation_space(key), who) for key, who in zip(self.keys, whose)]
        self.decoders = [Decoder(env.action_space(key), who, joint) for key, who in zip(self.keys, whose)]
        actions = acting(self.decoders, whose)
        self.success = success
        discrete = any(actions["counts"])
        _, infos = self.api.reset(0)
        first = self.api.state() if state else None
        self.state_dim = 0 if first is None else len(first)
        told = any(e.masked for e in self.encoders) or any(mask_of(info) is not None for info in infos.values())
        forbids = told or len({decoder.digits for decoder in self.decoders}) > 1
        if told and not discrete:
            raise ManyoneError("it tells an action mask, and continuous actions cannot be masked: wrap the environment")
        self.layout = Layout(
            names=tuple(self.names),
            widths=tuple(encoder.width for encoder in self.encoders),
            **actions,
            state_dim=self.state_dim,
            horizon=horizon_of(env, limit),
            masked=discrete and (forbids or bool(masked)),
            forbids=discrete and forbids,
            absences=bool(masked),
            reports_success=success is not None,
        )
        self.permitted, self.nothing = self.layout.permitted(), self.layout.nothing()
        self.idle = [decoder.idle() for decoder in self.decoders]
        self.entries = [self.layout.entries(i) for i in range(len(self.keys))]

    def reset(self, seed: int, row: Row) -> None:
        """Starts an episode."""
        seen, infos = self.api.reset(seed)
        self.gone, self.away = set[int](), set[int]()
        listed = self._listed()
        self.acting = self._acting(listed, seen)
        if not self.acting:
            raise ManyoneError("no agent takes part after reset(): agents is empty, or nobody has an observation")
        self.asked = listed
        row.observations[:] = 0
        self._write(self.acting, seen, infos, row)

    def step(self, actions: np.ndarray, row: Row) -> int:
        """One step of the agents that act; those that the environment lists besides do nothing."""
        entries, keys, before = actions.reshape(len(self.keys), -1), self.keys, self.acting
        acting = set(before)
        chosen = {keys[i]: self.decoders[i].decode(entries[i] if i in acting else self.idle[i]) for i in self.asked}
        seen, rewards, terminated, truncated, infos = self.api.step(chosen)
        listed = self._listed()
        row.rewards[:] = 0
        here = [i for i in range(len(keys)) if i not in self.gone or self._returns(i, listed, seen)]
        left, cut = list[int](), list[int]()
        for i in here:
            key, who = keys[i], self.whose[i]
            if key in rewards:
                row.rewards[i] = number(rewards[key], f"{who} was rewarded with")
            elif i in acting and seen.get(key) is not None:
                raise ManyoneError(f"{who} took part in step() and got no reward")
            if number(terminated.get(key, False), f"the termination of {who} is"):
                left.append(i)
            elif number(truncated.get(key, False), f"the truncation of {who} is"):
                cut.append(i)
        self.gone = set(range(len(keys))) - set(here) | {*left, *cut}
        self.away = self.gone - set(listed)
        self.asked = listed
        if set(listed) <= self.gone:
            return self._end(here, left, cut, seen, infos, row)
        self.acting = self._acting(listed, seen)
        row.left[left] = True
        if cut:
            row.cut[cut] = True
            row.final.observations[:] = row.observations
            self._write([*self.acting, *cut], seen, infos, row.final)
        self._write(self.acting, seen, infos, row)
        return 0

    def _end(self, here: list[int], left: list[int], cut: list[int], seen: Any, infos: Any, row: Row) -> int:
        """The flags of an episode that is over; the row shows what those saw last that were cut off, or all when
        everything ended by itself."""
        row.left[left] = True
        self._write(cut or [i for i in here if seen.get(self.keys[i]) is not None], seen, infos, row)
        flags = TRUNCATED if cut else TERMINATED
        if self.success is not None and any((infos.get(self.keys[i]) or {}).get(self.success) for i in here):
            flags |= SUCCESS
        return flags

    def _listed(self) -> list[int]:
        """Numbers of the agents that the environment lists."""
        for key in (listed := self.api.agents):
            if key not in self.index:
                raise ManyoneError(f"agent {str(key)!r} is not among possible_agents ({', '.join(self.names)})")
        return sorted(self.index[key] for key in listed)

    def _acting(self, listed: list[int], seen: Any) -> list[int]:
        """Those of ``listed`` that act next: all that are not gone and see something, or the one whose turn it is."""
        turn = self.index[self.api.turn] if self.api.turns and listed else None
        there = [i for i in listed if i not in self.gone and seen.get(self.keys[i]) is not None]
        return [i for i in there if turn in (None, i)]

    def _returns(self, i: int, listed: list[int], seen: Any) -> bool:
        """Whether an agent that had gone is back under its name: the environment had struck it off and lists it."""
        return i in self.away and i in listed and seen.get(self.keys[i]) is not None

    def picture(self) -> np.ndarray:
        """What ``render()`` gives when the environment was made with ``render_mode="rgb_array"``."""
        inner = getattr(self.env, "unwrapped", self.env)
        mode = getattr(self.env, "render_mode", None) or getattr(inner, "render_mode", None)
        if mode != "rgb_array":
            raise ManyoneError('the environment must be made with render_mode="rgb_array"')
        return np.asarray(self.env.render())

    def close(self) -> None:
        """Closes the environment, if it can be."""
        if hasattr(self.env, "close"):
            self.env.close()

    def _write(self, alive: list[int], seen: Any, infos: Any, row: Any) -> None:
        """What the agents see; one that waits and is shown nothing keeps what it saw last."""
        row.alive[:] = False
        row.alive[alive] = True
        masked = self.layout.masked
        if masked:
            row.available[:] = self.nothing
        for i, key in enumerate(self.keys):
            if i in self.gone and not row.alive[i]:
                row.observations[i] = 0
                continue
            if (shown := seen.get(key)) is None:
                continue
            mask = self.encoders[i].write(shown, row.observations[i])
            if not row.alive[i]:
                continue
            mask = mask_of(infos.get(key)) if mask is None else mask
            if masked:
                row.available[i] = self.permitted[i]
            if mask is not None and i not in self.gone:  # where everything is over nothing need be allowed
                self._allow(i, mask, row)
        if self.state_dim:
            state = self.api.state()
            if state is None or len(state) != self.state_dim:
                now = "nothing" if state is None else f"{len(state)} numbers"
                raise ManyoneError(f"state() gives {now}; it had {self.state_dim} numbers at first")
            row.state[:] = state

    def _allow(self, i: int, mask: Any, row: Any) -> None:
        if not self.layout.masked:
            raise ManyoneError(
                f"{self.whose[i]} got an action mask, and none was told before: make the environment with masked=true"
                if self.layout.actions
                else f"{self.whose[i]} got an action mask; continuous actions cannot be masked: wrap the environment"
            )
        row.available[i, self.entries[i]] = self.decoders[i].allowed(mask)


def horizon_of(env: Any, limit: int | None) -> int:
    """``limit``, or the environment's own limit of steps, or :data:`LIMIT`."""
    if limit is not None:
        if limit < 1:
            raise ManyoneError(f"limit {limit}: must be at least 1 step")
        return limit
    inner = getattr(env, "unwrapped", env)
    for name in LIMITS:
        value = getattr(inner, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return LIMIT


def from_module(module: str, **options: Any) -> Any:
    """``module.parallel_env(**options)``, or ``module.env(**options)``, also of a module in the current folder;
    ``ManyoneError`` when there is neither."""
    try:
        found = import_named(module)
    except ModuleNotFoundError as problem:
        where = "; start in the folder that it lies in" if problem.name == module.partition(".")[0] else ""
        raise ManyoneError(f"module {module} cannot be imported: {problem}{where}") from None
    makers = [getattr(found, name, None) for name in ("parallel_env", "env")]
    if not any(map(callable, makers)):
        raise ManyoneError(f"module {module} has no parallel_env() and no env()")
    return next(filter(callable, makers))(**options)


def mpe(name: str, **options: Any) -> Any:
    """An environment of ``mpe2``, drawn off-screen."""
    path = need("mpe2", f"mpe:{name}", "teams").__path__
    names = [found.name for found in pkgutil.iter_modules(path) if re.search(r"_v\d+$", found.name)]
    if name not in names:
        raise ManyoneError(f"mpe2 has no {name}; it has {', '.join(sorted(names))}")
    return from_module(f"mpe2.{name}", **{"render_mode": "rgb_array", **options})


def mamujoco(task: str, **options: Any) -> Any:
    """Multi-agent MuJoCo: ``"Ant 4x2"`` is scenario Ant split into 4 agents of 2 joints."""
    mamujoco_v1 = need("gymnasium_robotics.mamujoco_v1", f"mamujoco:{task}", "pip install gymnasium-robotics")
    scenario, _, parts = task.partition(" ")
    return mamujoco_v1.parallel_env(scenario=scenario, agent_conf=parts or None, **options)
