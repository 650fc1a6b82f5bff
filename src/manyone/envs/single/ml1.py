"""Meta-World's ML1 with the goal hidden: reach and pick-place, where only a prompt tells which goal is meant.

``ml1-reach:i`` is ``reach-v3`` at goal i of :mod:`manyone.envs.single.metaworld` (the draw of ``MT1(task, seed=0)``)
with entries 36 to 38 of its observations, the goal's place, set to zero, as Meta-World's ML1 does. Scripted policies
need that place: :mod:`manyone.envs.single.scripted` shows it to them, and stores zeros.

Public names: ``GOAL``, ``hidden``, ``source``, ``make_env``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from manyone.engine.extras import need
from manyone.envs.single import metaworld
from manyone.envs.single.families import parse

if TYPE_CHECKING:
    import gymnasium

GOAL = slice(36, 39)
"""Where observations have the goal's place."""


def source(task: str) -> tuple[str, int]:
    """The Meta-World task and the goal that ``task`` stands for: ``ml1-reach:7`` -> (``reach-v3``, 7)."""
    family, index = parse(task)
    return family.body, index


def hidden(observations: np.ndarray) -> np.ndarray:
    """A copy of ``observations`` [..., 39] without the goal's place."""
    found = np.array(observations)
    found[..., GOAL] = 0
    return found


def make_env(
    task: str, seed: int = 0, *, horizon: int | None = None, render_mode: str | None = None, **simulator: Any
) -> gymnasium.Env:
    """The environment of ``task``, cut off after ``horizon`` steps (1 to 500, default 500)."""
    name, goal = source(task)
    steps = horizon or metaworld.HORIZON
    env = metaworld.make_env(name, goal, seed, horizon=steps, render_mode=render_mode, **simulator)
    wrappers = need("gymnasium", task, "policies").wrappers
    return wrappers.TransformObservation(env, hidden, env.observation_space)  # type: ignore[no-any-return]
