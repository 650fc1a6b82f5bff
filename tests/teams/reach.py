"""An own environment with continuous actions: beside this file ``manyone run ippo --env pettingzoo:reach:high=100``.

Two agents are shown a share of their range (one of them of two ranges) and lose their distance from it, in half widths;
what they see and get does not depend on where the range lies.
"""

import numpy as np
from gymnasium.spaces import Box


class Reach:
    possible_agents = ("one", "two")
    max_steps = 4

    def __init__(self, low=-1.0, high=1.0):
        bounds = {"one": ([low], [high]), "two": ([low, low], [high, high])}
        self.spaces = {name: Box(*map(np.float32, ends)) for name, ends in bounds.items()}

    def observation_space(self, agent):
        return Box(-1, 1, (4,), np.float32)

    def action_space(self, agent):
        return self.spaces[agent]

    def reset(self, seed=None, options=None):
        self.agents, self.steps, self.rng = list(self.possible_agents), 0, np.random.default_rng(seed)
        return self._draw(), {}

    def step(self, actions):
        self.steps += 1
        rewards = {}
        for name, action in actions.items():
            space = self.spaces[name]
            assert space.contains(action), "an action outside of its bounds"
            middle, half = (space.high + space.low) / 2, (space.high - space.low) / 2
            rewards[name] = -float(np.abs((action - middle) / half - self.goals[name][: len(action)]).mean())
        late = dict.fromkeys(actions, self.steps == self.max_steps)
        if self.steps == self.max_steps:
            self.agents = []
        return self._draw(), rewards, dict.fromkeys(actions, False), late, {}

    def close(self):
        pass

    def _draw(self):
        self.goals = {name: self.rng.uniform(-0.9, 0.9, 2).astype(np.float32) for name in self.possible_agents}
        # ones besides: networks look at an observation's numbers relative to each other
        return {name: np.append(goal, [-1, 1]).astype(np.float32) for name, goal in self.goals.items()}


def parallel_env(**options):
    return Reach(**options)
