"""PettingZoo's parallel API: one copy of any such environment as a :class:`~manyone.envs.teams.simulator.Copy`.

Public: :class:`PettingZooCopy`, and the makers that prefixes of names stand for. What the parallel API leaves open is
settled here: agents that end while others go on have left (``alive`` False, zeros, one available action); an episode
ends with its last agents, and is *truncated* when any of these was cut off rather than terminated; agents that appear
after the start are refused. Action masks are read from an observation ``{"observation", "action_mask"}`` or from
``infos[agent]["action_mask"]``.
"""

from __future__ import annotations

import pkgutil
import re
from collections.abc import Callable
from typing import Any

import numpy as np

from manyone.engine.extras import need
from manyone.engine.modules import import_named
from manyone.envs.teams.simulator import Copy, Layout, Row
from manyone.envs.workers import SUCCESS, TERMINATED, TRUNCATED
from manyone.errors import ManyoneError

LIMIT = 1000  # steps, where the environment tells no limit of its own
LIMITS = ("max_cycles", "max_steps", "_max_episode_steps", "max_episode_steps", "episode_limit", "horizon")
PRODUCT = 1024  # actions that a MultiDiscrete space may be unrolled to


class Decoder:
    """Turns entries of a row of actions into what an agent's action space takes; also their counts and bounds."""

    def __init__(self, space: Any, whose: str) -> None:
        spaces = need("gymnasium.spaces", whose, "teams")
        self.count = 0
        self.low: tuple[float, ...] = ()
        self.high: tuple[float, ...] = ()
        self.space = space
        if isinstance(space, spaces.Discrete):
            self.count, self.start = int(space.n), int(space.start)
            self.decode: Callable[[Any], Any] = self._discrete
        elif isinstance(space, spaces.MultiDiscrete) and np.prod(space.nvec.reshape(-1), dtype=float) <= PRODUCT:
            self.count = int(np.prod(space.nvec))
            self.decode = self._product
        elif isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.floating):
            self.low, self.high = (tuple(map(float, bound.reshape(-1))) for bound in (space.low, space.high))
            self.decode = self._box
        else:
            raise ManyoneError(
                f"{whose} acts in {space}; Discrete, Box of floats, and MultiDiscrete up to {PRODUCT} combinations "
                "are supported: wrap the environment"
            )

    def _discrete(self, action: Any) -> int:
        return int(action) + self.start

    def _product(self, action: Any) -> np.ndarray:
        # Read as mixed-radix digits, the last one changing fastest.
        digits = np.unravel_index(int(action), tuple(self.space.nvec.reshape(-1)))
        return np.array(digits, self.space.dtype).reshape(self.space.shape)

    def _box(self, action: Any) -> np.ndarray:
        return action[: len(self.low)].astype(self.space.dtype).reshape(self.space.shape)


class Encoder:
    """Writes an agent's observation, of any flat-able space, into a row; tells its width and takes out a mask."""

    def __init__(self, space: Any, whose: str) -> None:
        self.spaces = spaces = need("gymnasium.spaces", whose, "teams")
        self.masked = isinstance(space, spaces.Dict) and set(space.spaces) == {"observation", "action_mask"}
        self.space = space = space["observation"] if self.masked else space
        self.whose, self.box = whose, isinstance(space, spaces.Box)
        if not space.is_np_flattenable:
            raise ManyoneError(f"{whose} observes {space}, which has no fixed width: wrap the environment")
        self.width = int(spaces.flatdim(space))

    def write(self, seen: Any, out: np.ndarray) -> np.ndarray | None:
        """Fills ``out`` [d] and returns the mask, if the observation holds one."""
        mask = None
        if self.masked:
            mask, seen = seen["action_mask"], seen["observation"]
        if self.box:
            values = np.asarray(seen)
            if values.shape != self.space.shape:
                raise ManyoneError(
                    f"{self.whose} observed something of shape {list(values.shape)}; its observation space has "
                    f"shape {list(self.space.shape)}"
                )
        else:
            values = np.asarray(self.spaces.flatten(self.space, seen))
        out[: self.width] = values.reshape(-1)
        return mask


class PettingZooCopy(Copy):
    """One environment with PettingZoo's parallel API.

    ``limit``: cuts episodes after so many steps (default: the environment's own limit, or 1000); ``state``: use
    ``state()`` where there is one; ``success``: the entry of an agent's ``infos`` that tells, when the episode ends,
    whether it succeeded; ``masked``: always tell available actions, as needed when agents leave or have masks (None:
    only when they differ between agents at the start).
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        *,
        limit: int | None = None,
        state: bool = True,
        success: str | None = None,
        masked: bool | None = True,
    ) -> None:
        self.env = env = factory()
        for name in ("possible_agents", "reset", "step", "action_space", "observation_space"):
            if not hasattr(env, name):
                raise ManyoneError(
                    f"the factory made a {type(env).__name__} without {name}; it must make an environment with "
                    "PettingZoo's parallel API"
                )
        self.names = [str(name) for name in env.possible_agents]
        self.keys = list(env.possible_agents)
        self.index = {key: i for i, key in enumerate(self.keys)}
        if not self.keys:
            raise ManyoneError("possible_agents is empty; it must list every agent that may take part")
        whose = [f"agent {name!r}" for name in self.names]
        self.encoders = [Encoder(env.observation_space(key), who) for key, who in zip(self.keys, whose)]
        self.decoders = [Decoder(env.action_space(key), who) for key, who in zip(self.keys, whose)]
        counts = tuple(decoder.count for decoder in self.decoders)
        if 0 in counts and any(counts):
            odd = whose[counts.index(0)]
            raise ManyoneError(f"{odd} has continuous actions and others discrete ones; all must be of one kind")
        self.success, self.present = success, list[int]()
        self.state_dim = self._first_state() if state else 0
        self.layout = Layout(
            names=tuple(self.names),
            widths=tuple(encoder.width for encoder in self.encoders),
            counts=counts,
            low=tuple(decoder.low for decoder in self.decoders) if not any(counts) else (),
            high=tuple(decoder.high for decoder in self.decoders) if not any(counts) else (),
            state_dim=self.state_dim,
            horizon=horizon_of(env, limit),
            masked=any(counts) and (len(set(counts)) > 1 or any(e.masked for e in self.encoders) or bool(masked)),
            reports_success=success is not None,
        )
        self.permitted = self.layout.permitted()

    def reset(self, seed: int, row: Row) -> None:
        """Starts an episode."""
        seen, infos = self.env.reset(seed=seed)
        taking_part = set(self.env.agents)
        if not taking_part:
            raise ManyoneError("no agent takes part after reset()")
        self._known(taking_part)
        self.present = [i for i, key in enumerate(self.keys) if key in taking_part]
        self._write(self.present, seen, infos, row)

    def step(self, actions: np.ndarray, row: Row) -> int:
        """One step of the agents that are there."""
        keys, present = self.keys, self.present
        chosen = {keys[i]: self.decoders[i].decode(actions[i]) for i in present}
        seen, rewards, terminated, truncated, infos = self.env.step(chosen)
        taking_part = set(self.env.agents)
        self._known(taking_part)
        row.rewards[:] = 0
        still: list[int] = []
        cut: list[int] = []
        for i in present:
            key = keys[i]
            if key not in rewards:
                raise ManyoneError(f"agent {self.names[i]!r} took part in step() and got no reward")
            row.rewards[i] = rewards[key]
            if terminated.get(key) or (key not in taking_part and not truncated.get(key)):
                row.left[i] = True
                continue
            (cut if truncated.get(key) else still).append(i)
        if len(taking_part) > len(present) or not taking_part <= set(chosen):
            new = self.names[min(self.index[key] for key in taking_part - set(chosen))]
            raise ManyoneError(f"agent {new!r} appeared after the start; all agents must be there from reset() on")
        if still:
            if cut:
                row.cut[cut] = True
                self._write(sorted([*still, *cut]), seen, infos, row.final)
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
            row.available[:] = False
            row.available[:, 0] = True
        for i in there:
            key = self.keys[i]
            if key not in seen:
                raise ManyoneError(f"agent {self.names[i]!r} takes part and got no observation")
            mask = self.encoders[i].write(seen[key], row.observations[i])
            if masked:
                mask = mask if mask is not None else infos.get(key, {}).get("action_mask")
                row.available[i] = self.permitted[i] if mask is None else self._mask(i, mask)
        if self.state_dim:
            state = np.asarray(self.env.state()).reshape(-1)
            if len(state) != self.state_dim:
                raise ManyoneError(f"state() has {len(state)} numbers; it had {self.state_dim} at first")
            row.state[:] = state

    def _mask(self, i: int, mask: Any) -> np.ndarray:
        allowed, count = np.asarray(mask).astype(bool).reshape(-1), self.decoders[i].count
        if len(allowed) != count:
            raise ManyoneError(f"agent {self.names[i]!r} has a mask of {len(allowed)} entries for {count} actions")
        if not allowed.any():
            raise ManyoneError(f"agent {self.names[i]!r} has no available action; leave it one or end it")
        padded = np.zeros(self.layout.actions, bool)
        padded[:count] = allowed
        return padded

    def _known(self, taking_part: set[Any]) -> None:
        for key in taking_part:
            if key not in self.index:
                raise ManyoneError(f"agent {str(key)!r} is not among possible_agents ({', '.join(self.names)})")

    def _first_state(self) -> int:
        """Width of ``state()``, 0 when the environment has none."""
        if not hasattr(self.env, "state"):
            return 0
        self.env.reset(seed=0)
        try:
            return int(np.asarray(self.env.state()).size)
        except (NotImplementedError, AttributeError):
            return 0  # PettingZoo's base class has a state() that says so


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
    """``module.parallel_env(**options)``, also of a module in the current folder; ``ManyoneError`` without one."""
    try:
        found = import_named(module)
    except ModuleNotFoundError as problem:
        raise ManyoneError(f"module {module} cannot be imported: {problem}") from None
    if not hasattr(found, "parallel_env"):
        raise ManyoneError(f"module {module} has no parallel_env()")
    return found.parallel_env(**options)


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
