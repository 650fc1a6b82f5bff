"""A user's own environment with PettingZoo's parallel API: the shortest that works, and one in which agents leave.

``Meet`` is the example of the manual: two agents on a line are rewarded for standing on the same spot.
"""

from __future__ import annotations

import random

import gymnasium
import numpy as np
from gymnasium import spaces
from pettingzoo import ParallelEnv


class Meet(ParallelEnv):
    metadata = {"name": "meet"}  # noqa: RUF012
    possible_agents = ["a", "b"]  # noqa: RUF012
    max_steps = 20

    def observation_space(self, agent):
        return spaces.Box(0, 9, (2,), np.float32)

    def action_space(self, agent):
        return spaces.Discrete(3)  # left, stay, right

    def reset(self, seed=None, options=None):
        self.agents, self.steps = list(self.possible_agents), 0
        self.spots = np.random.default_rng(seed).integers(0, 10, 2)
        return self._seen(), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.steps += 1
        self.spots = np.clip(self.spots + np.array([actions[agent] - 1 for agent in self.agents]), 0, 9)
        met, late = bool(self.spots[0] == self.spots[1]), self.steps >= self.max_steps
        seen, here = self._seen(), dict.fromkeys(self.agents)
        if met or late:
            self.agents = []
        return (
            seen,
            dict.fromkeys(here, float(met)),
            dict.fromkeys(here, met),
            dict.fromkeys(here, late),
            {agent: {"success": met} for agent in here},
        )

    def _seen(self):
        return {"a": self.spots.astype(np.float32), "b": self.spots[::-1].astype(np.float32)}


class Countdown(ParallelEnv):
    """Agents 0..2 of unlike widths leave one after another; draws from the *global* streams; may be spoilt on demand.

    Agent i sees [i, steps, a draw] (agent 2 one number more) and has 2 + i actions, action 1 masked at odd steps. It is
    gone after 2 + i steps: terminated, or cut off when ``cut``.
    """

    metadata = {"name": "countdown"}  # noqa: RUF012

    def __init__(self, cut=False, spoil="", state_dim=2):
        self.cut, self.spoil, self.state_dim = cut, spoil, state_dim
        self.possible_agents = ["zero", "one", "two"]
        self.asked = []

    def observation_space(self, agent):
        return spaces.Dict(
            observation=spaces.Box(-np.inf, np.inf, (4 if agent == "two" else 3,)),
            action_mask=spaces.MultiBinary(int(self.action_space(agent).n)),
        )

    def action_space(self, agent):
        return spaces.Discrete(2 + self.possible_agents.index(agent), start=5)

    def state(self):
        return np.array([self.steps] * self.state_dim, np.float32)

    def reset(self, seed=None, options=None):
        self.agents, self.steps = list(self.possible_agents), 0
        return self._seen(self.agents), {agent: {} for agent in self.agents}

    def step(self, actions):
        self.asked.append(dict(actions))
        self.steps += 1
        here = list(self.agents)
        gone = {a: self.steps >= 2 + self.possible_agents.index(a) for a in here}
        self.agents = [a for a in here if not gone[a]]
        if self.spoil == "stranger":
            self.agents.append("four")
        rewards = {a: float(self.steps) for a in here}
        if self.spoil == "reward":
            rewards["one"] = float("nan")
        stays = dict.fromkeys(here, False)
        ends = (stays, gone) if self.cut else (gone, stays)
        return self._seen(here), rewards, *ends, {a: {} for a in here}

    def _seen(self, agents):
        seen = {}
        for agent in agents:
            i = self.possible_agents.index(agent)
            values = np.zeros(4 if agent == "two" else 3, np.float32)
            values[:3] = i, self.steps, np.random.rand() + random.random()
            mask = np.ones(2 + i, np.int8)
            mask[1] = self.steps % 2 == 0
            if agent == "one" and self.steps == 1:
                if self.spoil == "nan":
                    values[2] = np.nan
                if self.spoil == "wide":
                    values = np.zeros(5, np.float32)
                if self.spoil == "mask":
                    mask[:] = 0
            seen[agent] = {"observation": values, "action_mask": mask}
        return seen


class Push(ParallelEnv):
    """Two agents with continuous actions of unlike widths and bounds; they see what they did."""

    metadata = {"name": "push"}  # noqa: RUF012
    possible_agents = ["short", "long"]  # noqa: RUF012
    boxes = {"short": spaces.Box(-1, 1, (1,)), "long": spaces.Box(np.float32([-2, 0]), np.float32([3, 0.5]))}  # noqa: RUF012

    def observation_space(self, agent):
        return self.boxes[agent]

    def action_space(self, agent):
        return self.boxes[agent]

    def reset(self, seed=None, options=None):
        self.agents = list(self.possible_agents)
        return {a: np.zeros(self.boxes[a].shape, np.float32) for a in self.agents}, {a: {} for a in self.agents}

    def step(self, actions):
        no = dict.fromkeys(self.agents, False)
        return dict(actions), dict.fromkeys(self.agents, 1.0), no, no, {a: {} for a in self.agents}


class Forgetful(Meet):
    """Does not follow its seed, so it cannot be resumed."""

    starts = 0

    def reset(self, seed=None, options=None):
        Forgetful.starts += 1
        return super().reset(Forgetful.starts, options)


class Pair(gymnasium.Env):
    """A Gymnasium environment with tuple spaces, as lbforaging and rware have them, that ends by itself at step 3."""

    observation_space = spaces.Tuple([spaces.Box(-1, 9, (2,), np.float32)] * 2)
    action_space = spaces.Tuple([spaces.Discrete(2)] * 2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        self.steps, self.total = 0, 0
        return self._seen(), {}

    def step(self, actions):
        self.steps += 1
        self.total += sum(actions)
        return self._seen(), [1.0, float(self.total)], self.steps >= 3, False, {}

    def _seen(self):
        draw = np.float32(self.np_random.random())
        return tuple(np.array([self.steps, draw], np.float32) for _ in range(2))


def parallel_env(**options):
    """What ``pettingzoo:own_parallel`` makes."""
    return Meet(**options)
