"""PettingZoo's parallel API: one copy of any such environment as a :class:`~manyone.envs.teams.simulator.Copy`.

Public: :class:`PettingZooCopy`, and the makers that prefixes of names stand for. What the parallel API leaves open is
settled here: agents that end while others go on have left (``alive`` False, zeros, one available action); an episode
ends with its last agents, and is *truncated* when any of these was cut off rather than terminated; agents that appear
after the start are refused. Action masks are read from an observation ``{"observation", "action_mask"}`` or from
``infos[agent]["action_mask"]``.
"""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from manyone.engine.extras import need
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
        whose = [f"agent {name!r}" for name in self.names]
        self.encoders = [Encoder(env.observation_space(key), who) for key, who in zip(self.keys, whose)]
        self.decoders = [Decoder(env.action_space(key), who, joint) for key, who in zip(self.keys, whose)]
        actions = acting(self.decoders, whose)
        self.success, self.present = success, list[int]()
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
            reports_success=success is not None,
        )
        self.permitted, self.idle = self.layout.permitted(), self.layout.idle()
        self.entries = [self.layout.entries(i) for i in range(len(self.keys))]

    def reset(self, seed: int, row: Row) -> None:
        """Starts an episode."""
        seen, infos = self.api.reset(seed)
        taking_part = set(self.api.agents)
        if not taking_part:
            raise ManyoneError("no agent takes part after reset()")
        self._known(taking_part)
        self.present = [i for i, key in enumerate(self.keys) if key in taking_part]
        self._write(self.present, seen, infos, row)

    def step(self, actions: np.ndarray, row: Row) -> int:
        """One step of the agents that are there."""
        keys, present = self.keys, self.present
        actions = actions.reshape(len(keys), -1)
        chosen = {keys[i]: self.decoders[i].decode(actions[i]) for i in present}
        seen, rewards, terminated, truncated, infos = self.api.step(chosen)
        taking_part = set(self.api.agents)
        self._known(taking_part)
        row.rewards[:] = 0
        still: list[int] = []
        cut: list[int] = []
        for i in present:
            key = keys[i]
            if key not in rewards:
                raise ManyoneError(f"agent {self.names[i]!r} took part in step() and got no reward")
            row.rewards[i] = number(rewards[key], f"agent {self.names[i]!r} was rewarded with")
            if terminated.get(key) or (key not in taking_part and not truncated.get(key)):
                continue  # it left for good
            (cut if truncated.get(key) else still).append(i)
        if len(taking_part) > len(present) or not taking_part <= set(chosen):
            new = self.names[min(self.index[key] for key in taking_part - set(chosen))]
            raise ManyoneError(f"agent {new!r} appeared after the start; all agents must be there from reset() on")
        if still:
            self.present = still
            self._write(still, seen, infos, row)
            return 0
        # What the last agents saw: those that were cut off, or all when everything ended by itself.
        self._write(cut or [i for i in present if keys[i] in seen], seen, infos, row)
        flags = TRUNCATED if cut else TERMINATED
        if self.success is not None and any(infos.get(keys[i], {}).get(self.success) for i in present):
            flags |= SUCCESS
        return flags

    def picture(self) -> np.ndarray:
        """What ``render()`` gives when the environment was made with ``render_mode="rgb_array"``."""
        mode = getattr(self.env, "render_mode", None) or getattr(self.env.unwrapped, "render_mode", None)
        if mode != "rgb_array":
            raise ManyoneError('the environment must be made with render_mode="rgb_array"')
        return np.asarray(self.env.render())

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    def _write(self, there: list[int], seen: Any, infos: Any, row: Row) -> None:
        row.observations[:] = 0
        row.alive[:] = False
        row.alive[there] = True
        masked = self.layout.masked
        if masked:
            row.available[:] = self.idle
        for i in there:
            key = self.keys[i]
            if key not in seen:
                raise ManyoneError(f"agent {self.names[i]!r} takes part and got no observation")
            mask = self.encoders[i].write(seen[key], row.observations[i])
            if masked:
                row.available[i] = self.permitted[i]
                mask = mask_of(infos.get(key)) if mask is None else mask
                if mask is not None:
                    row.available[i, self.entries[i]] = self.decoders[i].allowed(mask)
        if self.state_dim:
            state = self.api.state()
            if state is None or len(state) != self.state_dim:
                now = "nothing" if state is None else f"{len(state)} numbers"
                raise ManyoneError(f"state() gives {now}; it had {self.state_dim} numbers at first")
            row.state[:] = state

    def _known(self, taking_part: set[Any]) -> None:
        for key in taking_part:
            if key not in self.index:
                raise ManyoneError(f"agent {str(key)!r} is not among possible_agents ({', '.join(self.names)})")


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
    """``module.parallel_env(**options)``, or ``module.env(**options)``; ``ManyoneError`` when there is neither."""
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as problem:
        raise ManyoneError(f"module {module} cannot be imported: {problem}") from None
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
