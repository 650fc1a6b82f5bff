"""The simulators of the locomotion tasks: MuJoCo bodies whose reward is the task's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.spaces import Box


class Cheetah(HalfCheetahEnv):
    """Runs in the direction ``target`` (a sign), or at the velocity ``target`` where ``velocity`` is True.

    With ``torso`` its observations end with the torso's position: 20 entries, else 17.
    """

    def __init__(self, target: float, *, velocity: bool, torso: bool, **options: Any) -> None:
        self.target, self.velocity, self.torso = target, velocity, torso
        super().__init__(**options)
        self.observation_space = Box(-np.inf, np.inf, (20 if torso else 17,), np.float64)

    def _get_obs(self) -> np.ndarray:
        position, velocity = self.data.qpos.flatten(), self.data.qvel.flatten()
        torso = self.data.body("torso").xpos if self.torso else []
        return np.concatenate([position[1:], velocity, torso])

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step."""
        before = self.data.qpos[0]
        self.do_simulation(action, self.frame_skip)
        velocity = float((self.data.qpos[0] - before) / self.dt)
        forward = -abs(velocity - self.target) if self.velocity else self.target * velocity
        control = 0.05 * float(np.square(action).sum())
        info = {"velocity": velocity, "reward_forward": forward, "reward_control": -control}
        if self.render_mode == "human":
            self.render()
        return self._get_obs(), forward - control, False, False, info


class Ant(AntEnv):
    """Walks in the direction ``target``, an angle in radians."""

    def __init__(self, target: float, **options: Any) -> None:
        self.target = target
        super().__init__(include_cfrc_ext_in_observation=False, **options)

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """One step."""
        before = self.data.body("torso").xpos[:2].copy()
        self.do_simulation(action, self.frame_skip)
        vx, vy = (self.data.body("torso").xpos[:2] - before) / self.dt
        forward = float(vx * math.cos(self.target) + vy * math.sin(self.target))
        control = 0.5 * float(np.square(action).sum())
        contact = 0.0005 * float(np.square(np.clip(self.data.cfrc_ext, -1, 1)).sum())
        state = self.state_vector()
        terminated = not (bool(np.isfinite(state).all()) and 0.2 <= state[2] <= 1.0)
        info = {
            "velocity_x": float(vx),
            "velocity_y": float(vy),
            "reward_forward": forward,
            "reward_control": -control,
            "reward_contact": -contact,
            "reward_survive": 1.0,
        }
        if self.render_mode == "human":
            self.render()
        return self._get_obs(), forward - control - contact + 1.0, terminated, False, info
