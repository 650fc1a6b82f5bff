"""Gymnasium environments whose spaces are tuples with one entry per agent (level-based foraging, robotic warehouse).

Public: :class:`TupleCopy`, :func:`foraging`, :func:`warehouse`. These environments report their own step limit as
*terminated*; here an episode that ends at its limit is *truncated*, unless the task tells that it is solved.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from manyone.engine.extras import need
from manyone.envs.teams.pettingzoo import horizon_of
from manyone.envs.teams.simulator import Copy, Layout, Row
from manyone.envs.teams.spaces import Decoder, Encoder, acting, mask_of
from manyone.envs.workers import SUCCESS, TERMINATED, TRUNCATED
from manyone.errors import ManyoneError


class TupleCopy(Copy):
    """One environment with tuple spaces.

    ``solved(env)``: whether the task is done now, any other end being a cut (None: it has no success, and an end before
    its limit of steps is an end of the task); ``drawn(env)``: a picture.
    """

    def __init__(
        self,
        factory: Callable[[], Any],
        *,
        limit: int | None = None,
        solved: Callable[[Any], bool] | None = None,
        drawn: Callable[[Any], np.ndarray] | None = None,
    ) -> None:
        self.env = factory()
        self.solved, self.drawn = solved, drawn
        spaces = self.env.observation_space, self.env.action_space
        for space, what in zip(spaces, ("observation_space", "action_space")):
            if not isinstance(getattr(space, "spaces", None), Sequence):
                raise ManyoneError(f"its {what} is {space}; a Tuple with one space per agent is needed")
        names = [f"agent_{i}" for i in range(len(spaces[1].spaces))]
        if len(spaces[0].spaces) != len(names):
            raise ManyoneError(f"it has {len(spaces[0].spaces)} observation and {len(names)} action spaces")
        whose = [f"agent {name!r}" for name in names]
        self.encoders = [Encoder(space, who) for space, who in zip(spaces[0].spaces, whose)]
        self.decoders = [Decoder(space, who) for space, who in zip(spaces[1].spaces, whose)]
        actions = acting(self.decoders, whose)
        told = any(encoder.masked for encoder in self.encoders) or mask_of(self.env.reset(seed=0)[1]) is not None
        forbids = told or len({decoder.digits for decoder in self.decoders}) > 1
        if told and not any(actions["counts"]):
            raise ManyoneError("it tells an action mask, and continuous actions cannot be masked: wrap the environment")
        self.own_limit = horizon_of(self.env, None)
        self.steps = 0
        self.layout = Layout(
            names=tuple(names),
            widths=tuple(encoder.width for encoder in self.encoders),
            **actions,
            horizon=horizon_of(self.env, limit),
            masked=forbids and any(actions["counts"]),
            forbids=forbids and any(actions["counts"]),
            reports_success=solved is not None,
        )
        self.permitted = self.layout.permitted()
        self.entries = [self.layout.entries(i) for i in range(len(names))]

    def reset(self, seed: int, row: Row) -> None:
        """Starts an episode."""
        seen, info = self.env.reset(seed=seed)
        self.steps = 0
        row.alive[:] = True
        self._write(seen, info, row)

    def step(self, actions: np.ndarray, row: Row) -> int:
        """One step."""
        entries = actions.reshape(len(self.decoders), -1)
        chosen = [decoder.decode(action) for decoder, action in zip(self.decoders, entries)]
        seen, rewards, terminated, truncated, info = self.env.step(chosen)
        self.steps += 1
        self._write(seen, info, row)
        row.rewards[:] = rewards
        if not (terminated or truncated):
            return 0
        if self.solved is not None and self.solved(self.env):
            return TERMINATED | SUCCESS
        late = truncated or self.solved is not None or self.steps >= self.own_limit
        return TRUNCATED if late else TERMINATED

    def picture(self) -> np.ndarray:
        """A drawing, where the task has one; the environments' own ones open windows."""
        if self.drawn is None:
            raise ManyoneError("there is no drawing of this task")
        return self.drawn(self.env)

    def close(self) -> None:
        """Closes the environment."""
        self.env.close()

    def _write(self, seen: Any, info: Any, row: Row) -> None:
        row.observations[:] = 0
        masks = [encoder.write(part, out) for encoder, part, out in zip(self.encoders, seen, row.observations)]
        if not self.layout.masked:
            return
        row.available[:] = self.permitted
        told = mask_of(info)  # one for each agent
        for i, mask in enumerate(masks):
            if mask is None and told is not None:
                mask = told[i]
            if mask is not None:
                row.available[i, self.entries[i]] = self.decoders[i].allowed(mask)


def foraging(task: str, **options: Any) -> Any:
    """Level-based foraging, ``lbforaging``'s ids."""
    env = _registered("lbforaging", task, options)
    inner: Any = env.unwrapped
    for number, player in enumerate(inner.players):
        # The game takes loading players out of a set in the order of their hashes. These are addresses in memory, which
        # would let a resumed or distributed episode differ; with numbers instead the order is the players' own.
        player.number = number
        player.__class__ = _numbered(type(player))
    return env


def all_food_loaded(env: Any) -> bool:
    """Whether the foraging task is solved."""
    return not env.unwrapped.field.any()


def warehouse(task: str, **options: Any) -> Any:
    """Robotic warehouse, ``rware``'s ids."""
    return _registered("rware", task, options)


def draw_foraging(env: Any) -> np.ndarray:
    """Food (squares, brighter for higher levels) and players (discs with their level's brightness)."""
    inner = env.unwrapped
    cells = [((y, x), "food", int(inner.field[y, x])) for y, x in zip(*np.nonzero(inner.field))]
    cells += [(player.position, "agent", int(player.level)) for player in inner.players]
    return _grid(inner.field.shape, cells)


def draw_warehouse(env: Any) -> np.ndarray:
    """Shelves (squares, bright when requested), goals (outlined) and robots (discs, bright when carrying)."""
    inner = env.unwrapped
    cells = [((shelf.y, shelf.x), "food", 3 if shelf in inner.request_queue else 0) for shelf in inner.shelfs]
    cells += [((y, x), "goal", 0) for x, y in inner.goals]
    cells += [((agent.y, agent.x), "agent", 3 if agent.carrying_shelf else 1) for agent in inner.agents]
    return _grid(inner.grid_size, cells)


def _grid(shape: Sequence[int], cells: list[tuple[Any, str, int]]) -> np.ndarray:
    size = 32  # pixels of a cell
    picture = Image.new("RGB", (shape[1] * size + 1, shape[0] * size + 1), (250, 250, 250))
    pen = ImageDraw.Draw(picture)
    for line in range(max(shape) + 1):
        pen.line([(line * size, 0), (line * size, shape[0] * size)], (220, 220, 220))
        pen.line([(0, line * size), (shape[1] * size, line * size)], (220, 220, 220))
    for (y, x), kind, level in cells:
        box = (int(x) * size + 4, int(y) * size + 4, (int(x) + 1) * size - 4, (int(y) + 1) * size - 4)
        light = min(1.0, 0.4 + 0.2 * level)
        if kind == "goal":
            pen.rectangle(box, outline=(60, 60, 60), width=3)
        elif kind == "food":
            pen.rectangle(box, fill=(int(230 * light), int(140 * light), 40))
        else:
            pen.ellipse(box, fill=(40, int(110 * light), int(240 * light)), outline=(0, 0, 0))
    return np.asarray(picture)


def _registered(package: str, task: str, options: dict[str, Any]) -> Any:
    gymnasium = need("gymnasium", task, "teams")
    importlib.import_module(package)  # registers its tasks
    try:
        return gymnasium.make(task, disable_env_checker=True, **options)
    except gymnasium.error.Error as problem:
        raise ManyoneError(f"{package} has no {task}: {' '.join(str(problem).split())}") from None


_classes: dict[type, type] = {}


def _numbered(kind: type) -> type:
    """A subclass whose objects hash by their number."""
    if kind not in _classes:
        _classes[kind] = type(kind.__name__, (kind,), {"__hash__": lambda player: player.number})
    return _classes[kind]
