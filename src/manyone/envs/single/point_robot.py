"""A point in the plane that is to go to a goal it does not see: the smallest family whose tasks only a prompt tells.

The environment of PEARL (Rakelly et al. 2019) and MACAW with the goals on the unit half circle, evenly spaced here::

    s' = s + 0.1 clip(a, -1, 1)      r = -|s' - g_i|      g_i = (cos u_i, sin u_i), u_i = pi (i + 1/2) / 20

Episodes have 20 steps and begin within 0.05 of the origin (ours: exactly there, all episodes of a policy would be the
same). ``info["success"]`` is whether the point is within 0.1 of the goal.

:func:`policy_actions` has the three policies that data are made with: ``expert`` goes straight to the goal,
``medium`` at 30 % of the speed with much noise (two fifths of the way from random to expert, by return),
``random`` is uniform. Public names: ``PointRobot``, ``goal_of``, ``make_env``, ``policy_actions``, ``play``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from manyone.envs.single.families import parse

STEP, START, NEAR = 0.1, 0.05, 0.1


def goal_of(task: str) -> np.ndarray:
    """Where ``task`` (``point-robot:7``) has its goal, float64 [2]."""
    family, index = parse(task)
    angle = math.pi * (index + 0.5) / family.tasks
    return np.array([math.cos(angle), math.sin(angle)])


class PointRobot(gymnasium.Env):
    """The point; ``goal`` [2] is hidden from its observations, which are its place [2]."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(self, goal: np.ndarray, render_mode: str | None = None, width: int = 160, height: int = 160) -> None:
        self.goal, self.render_mode, self._size = goal, render_mode, (height, width)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (2,), np.float64)
        self.action_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
        self.place, self._way = np.zeros(2), [np.zeros(2)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """Near the origin."""
        super().reset(seed=seed)
        self.place = self.np_random.uniform(-START, START, 2)
        self._way = [self.place]
        return self.place.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step of at most 0.1 along each axis."""
        self.place = self.place + STEP * np.clip(np.asarray(action, np.float64), -1, 1)
        self._way.append(self.place)
        distance = float(np.linalg.norm(self.place - self.goal))
        return self.place.copy(), -distance, False, False, {"success": float(distance < NEAR)}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The way so far, the point and the goal from above, uint8 [height, width, 3]; 4 units are the shorter side."""
        height, width = self._size
        picture = np.full((height, width, 3), 255, np.uint8)
        rows, columns = np.mgrid[:height, :width]
        unit = min(self._size) / 4
        x, y = (columns + 0.5 - width / 2) / unit, (height / 2 - rows - 0.5) / unit
        marks = [(place, 0.02, (150, 150, 150)) for place in self._way]
        for (at_x, at_y), radius, colour in [
            *marks,
            (self.goal, 0.1, (220, 60, 50)),
            (self.place, 0.06, (40, 90, 200)),
        ]:
            picture[(x - at_x) ** 2 + (y - at_y) ** 2 <= radius**2] = colour
        return picture


def make_env(
    task: str, seed: int = 0, *, horizon: int | None = None, render_mode: str | None = None, **simulator: Any
) -> gymnasium.Env:
    """The environment of ``task``, cut off after ``horizon`` steps (default 20)."""
    family, _ = parse(task)
    env = PointRobot(goal_of(task), render_mode, **simulator)
    env.action_space.seed(seed)
    return gymnasium.wrappers.TimeLimit(env, max_episode_steps=horizon or family.horizon)


def policy_actions(quality: str, places: np.ndarray, goal: np.ndarray, draws: np.ndarray) -> np.ndarray:
    """Actions [..., 2] of the policy ``quality`` at ``places`` [..., 2]; ``draws`` [..., 2] are uniform in -1 to 1."""
    if quality == "random":
        return draws
    straight = (goal - places) / STEP
    straight = straight / np.maximum(1, np.abs(straight).max(-1, keepdims=True))  # straight, the longer axis at most 1
    wanted = straight + 0.1 * draws if quality == "expert" else 0.3 * straight + 0.5 * draws
    return np.clip(wanted, -1, 1)


def play(task: str, quality: str, chosen: Sequence[int], seeds: Sequence[int], steps: int) -> list[dict[str, Any]]:
    """The episodes numbered ``chosen`` of the policy ``quality``, each from its own seed alone, for trajectories."""
    env, goal = make_env(task, horizon=steps), goal_of(task)
    played = []
    for _, seed in zip(chosen, seeds, strict=True):
        draws = np.random.Generator(np.random.Philox(seed)).uniform(-1, 1, (steps, 2))
        place, _ = env.reset(seed=seed)
        observations, actions, rewards, success = [place], [], [], False
        for draw in draws:
            actions.append(policy_actions(quality, place, goal, draw).astype(np.float32))
            place, reward, _, _, info = env.step(actions[-1])
            observations.append(place)
            rewards.append(reward)
            success |= bool(info["success"])
        arrays = {"observations": np.array(observations), "actions": np.array(actions), "rewards": np.array(rewards)}
        played.append({**arrays, "terminated": False, "success": success, "goal": 0})
    return played
