"""Tasks that contradict each other: one body, one distribution of observations, and a teacher of its own for each task.

Made data (ours, synthetic). The matrices are drawn once and are the same in every run; task i is told by W_i alone::

    a*_i(s) = tanh(W_i s)                        W_i [3, 6] of 1.2 N(0, 1)
    s' = 0.85 s + 0.4 B a + 0.15 N(0, I)         B [6, 3] of 0.5 N(0, 1), the same for all tasks; s_0 of N(0, I)
    r = 1 - mean (a - a*_i(s))^2                 at most 1 a step; nothing ends an episode before its 20 steps

What is right in one task is wrong in the next and observations do not tell which it is: a policy for N tasks has to be
told, and has to hold N unrelated functions in its weights.

:func:`play` has the policies that data are made with: ``near`` is the teacher with normal noise, whose deviation falls
from 0.5 in the first episode to 0 in the last; ``expert`` is the teacher, ``random`` is uniform. Public names:
``Teachers``, ``teacher_of``, ``effects``, ``make_env``, ``play``, ``references``.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np

from manyone.envs.single.families import FAMILIES, parse
from manyone.randomness import seed_for

KEPT, PUSH, SHAKEN = 0.85, 0.4, 0.15
NOISE = 0.5
_FAMILY = FAMILIES["teachers"]
_RANDOM_EPISODES = 100  # that the return of random actions is measured in


def _normal(*name: Any, shape: tuple[int, int]) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed_for(0, "teachers", *name))).standard_normal(shape)


@functools.lru_cache(maxsize=256)
def teacher_of(task: str) -> np.ndarray:
    """W of ``task`` (``teachers:7``), float64 [3, 6]."""
    _, index = parse(task)
    return 1.2 * _normal("teacher", index, shape=(_FAMILY.action_dim, _FAMILY.state_dim))


@functools.lru_cache(maxsize=1)
def effects() -> np.ndarray:
    """B, what actions do to the state in every task, float64 [6, 3]."""
    return 0.5 * _normal("effects", shape=(_FAMILY.state_dim, _FAMILY.action_dim))


class Teachers(gymnasium.Env):
    """The body; what the teacher would do is hidden from its observations, which are its state [6]."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012

    def __init__(
        self, teacher: np.ndarray, render_mode: str | None = None, width: int = 160, height: int = 160
    ) -> None:
        self.teacher, self.render_mode, self._size = teacher, render_mode, (height, width)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (teacher.shape[1],), np.float64)
        self.action_space = gymnasium.spaces.Box(-1, 1, (len(teacher),), np.float32)
        self.state = np.zeros(teacher.shape[1])
        self._pair = np.zeros((2, len(teacher)))

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[np.ndarray, dict]:
        """A normal state."""
        super().reset(seed=seed)
        self.state = self.np_random.standard_normal(len(self.state))
        self._pair = np.zeros_like(self._pair)
        return self.state.copy(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        """One step; the reward is for how near the action was to the teacher's."""
        taken, wanted = np.clip(np.asarray(action, np.float64), -1, 1), np.tanh(self.teacher @ self.state)
        self._pair = np.stack((taken, wanted))
        shake = SHAKEN * self.np_random.standard_normal(len(self.state))
        self.state = KEPT * self.state + PUSH * effects() @ taken + shake
        return self.state.copy(), float(1 - np.mean((taken - wanted) ** 2)), False, False, {}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The last action's numbers (blue) beside those of the teacher (red) as bars, uint8 [height, width, 3]."""
        height, width = self._size
        picture = np.full((height, width, 3), 255, np.uint8)
        bars = self._pair.T.reshape(-1)
        for number, value in enumerate(bars):
            left, right = (int(width * (number + part) / len(bars)) for part in (0.1, 0.9))
            top, low = sorted((height // 2, round(height / 2 * (1 - value))))
            picture[top : low + 1, left:right] = (220, 60, 50) if number % 2 else (40, 90, 200)
        return picture


def make_env(
    task: str, seed: int = 0, *, horizon: int | None = None, render_mode: str | None = None, **simulator: Any
) -> gymnasium.Env:
    """The environment of ``task``, cut off after ``horizon`` steps (default 20)."""
    env = Teachers(teacher_of(task), render_mode, **simulator)
    env.action_space.seed(seed)
    return gymnasium.wrappers.TimeLimit(env, max_episode_steps=horizon or _FAMILY.horizon)


def play(
    task: str, quality: str, chosen: Sequence[int], seeds: Sequence[int], *, episodes: int, steps: int
) -> list[dict[str, Any]]:
    """The episodes numbered ``chosen`` of ``episodes``, each from its own seed alone, for trajectories."""
    env, teacher = make_env(task, horizon=steps), teacher_of(task)
    played = []
    for number, seed in zip(chosen, seeds, strict=True):
        draw = np.random.Generator(np.random.Philox(seed))
        deviation = NOISE * (1 - number / max(1, episodes - 1)) if quality == "near" else 0.0
        state, _ = env.reset(seed=seed)
        observations, actions, rewards = [state], [], []
        for _ in range(steps):
            if quality == "random":
                action = draw.uniform(-1, 1, len(teacher))
            else:
                action = np.tanh(teacher @ state) + deviation * draw.standard_normal(len(teacher))
            actions.append(np.clip(action, -1, 1).astype(np.float32))
            state, reward, *_ = env.step(actions[-1])
            observations.append(state)
            rewards.append(reward)
        arrays = {"observations": np.array(observations), "actions": np.array(actions), "rewards": np.array(rewards)}
        played.append({**arrays, "terminated": False, "goal": 0})
    return played


def references(task: str, steps: int) -> tuple[float, float]:
    """Returns of ``steps`` steps that normalised scores count from and to: of random actions, and the teacher's."""
    count = _RANDOM_EPISODES
    seeds = [seed_for(0, "teachers", "random", task, number) for number in range(count)]
    played = play(task, "random", range(count), seeds, episodes=count, steps=steps)
    return float(np.mean([one["rewards"].sum() for one in played])), float(steps)
