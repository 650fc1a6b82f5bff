"""Environments as people write them: odd in what they return, in who takes part when, and in what an action is."""

from __future__ import annotations

import numpy as np
from gymnasium import spaces
from pettingzoo import AECEnv, ParallelEnv

FAR = spaces.Box(-99, 99, (3,), np.float32)


class Odd:
    """Agents a, b, c see [own number, steps, own last action] for 6 steps and are rewarded with their number + 1.

    ``odd`` names what is unusual. Not derived from ParallelEnv, which would add a state() to it.
    """

    possible_agents = ("a", "b", "c")

    def __init__(self, odd=""):
        self.odd, self.asked = odd, []

    def observation_space(self, agent):
        return FAR

    def action_space(self, agent):
        return spaces.Box(1, 2, (1,)) if self.odd == "continuous" else spaces.Discrete(3)

    def reset(self, seed=None, options=None):
        self.agents, self.steps, self.last = list(self.possible_agents), 0, {}
        self.draw = np.random.default_rng(seed).random()
        if self.odd == "comes late":
            self.agents.remove("c")
        if self.odd == "nobody":
            self.agents = []
        seen, infos = self._seen(self.agents), {agent: {} for agent in self.agents}
        returned = {"only observations": seen, "no dict": (1, 2, 3), "lists": (list(seen.values()), [])}
        return returned.get(self.odd, (seen, None if self.odd == "no infos" else infos))

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.asked.append(dict(actions))
        self.steps += 1
        self.last |= actions
        here = list(self.agents)
        ends = dict.fromkeys(here, self.steps >= 6)
        cuts = dict.fromkeys(here, False)
        if self.odd in ("stays listed", "comes back", "dies") and self.steps == 2:
            ends["b"] = True
        if self.odd == "stays listed" and self.steps > 2:
            ends["b"] = self.steps % 2 == 0 or self.steps == 6
        if self.odd == "cut alone" and self.steps == 2:
            cuts["b"] = True
        if self.odd != "stays listed":
            self.agents = [a for a in here if not (ends[a] or cuts[a])]
        elif self.steps >= 6:
            self.agents = []
        if self.odd == "pauses" and "b" in self.agents and self.steps == 2:
            self.agents.remove("b")
        if self.odd in ("pauses", "comes back") and self.steps == 4:
            self.agents.insert(1, "b")
        if self.odd == "comes late" and self.steps == 2:
            self.agents.append("c")
        shown = [a for a in self.possible_agents if a in {*here, *self.agents}]
        if self.odd == "pauses" and self.steps in (2, 3):
            shown.remove("b") if "b" in shown else None
        if self.odd == "listed but blind" and self.steps in (2, 3):
            shown.remove("b")
        rewards = {a: self._reward(a) for a in shown}
        infos = {a: None if self.odd == "infos of None" else {} for a in shown}
        returned = self._seen(shown), rewards, ends, cuts, None if self.odd == "no infos" else infos
        if self.odd == "four values":
            return returned[0], rewards, ends, infos
        if self.odd == "one value":
            return (returned[0],)
        if self.odd == "arrays":
            return (returned[0], np.ones(3), *returned[2:])
        return (*returned[:4], [{}, {}, {}]) if self.odd == "list of infos" else returned

    def _reward(self, agent):
        value = self.possible_agents.index(agent) + 1
        kinds = {"rewards in arrays": np.array([value]), "numpy rewards": np.int64(value), "pairs": np.ones(2)}
        return kinds.get(self.odd, None if self.odd == "no rewards" else value)

    def _seen(self, agents):
        return {a: np.float32([self.possible_agents.index(a), self.steps, self._last(a)]) for a in agents}

    def _last(self, agent):
        return float(np.asarray(self.last.get(agent, 0)).item())


class SeedBefore(Odd):
    """The API of before: ``seed()`` and a ``reset()`` without arguments."""

    def seed(self, seed=None):
        self.given = seed

    def reset(self):
        seen, infos = super().reset(self.given)
        seen["a"][2] = self.draw
        return seen, infos


class Streams(Odd):
    """Draws from the global stream, and takes no seed at all."""

    def reset(self):
        seen, infos = super().reset()
        seen["a"][2] = np.random.rand()
        return seen, infos


class Stately(Odd):
    """Its state() does what ``odd`` says."""

    def state(self):
        if self.odd == "argument":
            raise TypeError("state() missing 1 required positional argument: 'agent'")
        if self.odd == "mistake":
            return self.world.state
        if self.odd == "not there":
            raise NotImplementedError
        return {"None": None, "words": {"a": 1}, "number": 5, "rows": np.ones((2, 2))}[self.odd]


class StateValue(Odd):
    """A state that is an attribute."""

    state = np.arange(4.0)

    def close(self):
        self.agents = []


class Lock(ParallelEnv):
    """One step: every agent must give the code that it sees, in each of its parts. ``space``: of an action.

    ``masked``: "observation", "nested" or "infos" tell a mask that forbids code + 1 in every digit (mod its choices);
    such an action ends the test.
    """

    metadata = {"name": "lock"}  # noqa: RUF012
    possible_agents = ("x", "y")

    def __init__(self, space, choices, masked=""):
        self.space, self.choices, self.masked = space, choices, masked
        self.rng = np.random.default_rng(0)

    def observation_space(self, agent):
        code = spaces.Box(0, 1, (sum(self.choices),), np.float32)
        mask = spaces.Box(0, 1, (sum(self.choices),), np.int8)
        if self.masked == "observation":
            return spaces.Dict(code=code, bias=spaces.Discrete(2), action_mask=mask)
        if self.masked == "nested":
            return spaces.Dict(inner=spaces.Dict(code=code, action_mask=mask), bias=spaces.Discrete(2))
        return code

    def action_space(self, agent):
        return self.space

    def reset(self, seed=None, options=None):
        if seed is not None:
            self.rng = np.random.default_rng(seed)
        self.agents = list(self.possible_agents)
        self.code = {agent: self.rng.integers(0, self.choices) for agent in self.agents}
        return self._seen(), self._infos()

    def step(self, actions):
        assert all(action in self.space for action in actions.values())
        rewards = {agent: self._right(self.code[agent], actions[agent]) for agent in self.agents}
        seen, infos = self._seen(), self._infos()
        ends, here, self.agents = dict.fromkeys(self.agents, True), self.agents, []
        return seen, rewards, ends, dict.fromkeys(here, False), infos

    def _right(self, code, action):
        parts = np.concatenate([np.atleast_1d(part).reshape(-1) for part in _leaves(action)])
        if self.masked:
            assert not ((code + 1) % self.choices == parts).any(), "a forbidden action was played"
        return float((parts == code).mean())

    def _mask(self, agent):
        masks = [np.arange(c) != (d + 1) % c for c, d in zip(self.choices, self.code[agent])]
        return np.concatenate(masks).astype(np.int8)

    def _infos(self):
        return {agent: {"action_mask": self._mask(agent)} if self.masked == "infos" else {} for agent in self.agents}

    def _seen(self):
        seen = {}
        for agent in self.agents:
            code = np.concatenate([np.eye(c)[d] for c, d in zip(self.choices, self.code[agent])]).astype(np.float32)
            inner = {"code": code, "action_mask": self._mask(agent)}
            shown = {"observation": {**inner, "bias": 1}, "nested": {"inner": inner, "bias": 1}}
            seen[agent] = shown.get(self.masked, code)
        return seen


def _leaves(action):
    if isinstance(action, dict):
        action = tuple(action.values())
    return [leaf for part in action for leaf in _leaves(part)] if isinstance(action, tuple) else [action]


class Nim(AECEnv):
    """Players take 1 to 3 of 7 sticks in turns, who takes the last one wins +1 and the other gets -1."""

    metadata = {"name": "nim", "is_parallelizable": False}  # noqa: RUF012
    possible_agents = ["first", "second"]  # noqa: RUF012
    render_mode = None

    def observation_space(self, agent):
        return spaces.Dict(observation=spaces.Box(0, 1, (8,), np.float32), action_mask=spaces.MultiBinary(3))

    def action_space(self, agent):
        return spaces.Discrete(3)

    def observe(self, agent):
        mine = agent == self.agent_selection
        mask = np.int8([mine and self.sticks > k for k in range(3)])
        return {"observation": np.eye(8, dtype=np.float32)[self.sticks], "action_mask": mask}

    def reset(self, seed=None, options=None):
        self.agents, self.sticks = list(self.possible_agents), 7
        self.rewards = dict.fromkeys(self.agents, 0)
        self._cumulative_rewards = dict(self.rewards)
        self.terminations, self.truncations = (dict.fromkeys(self.agents, False) for _ in range(2))
        self.infos = {agent: {} for agent in self.agents}
        self.agent_selection = "first"

    def step(self, action):
        agent = self.agent_selection
        other = self.possible_agents[agent == "first"]
        if self.terminations[agent]:
            self._was_dead_step(action)
            return
        assert self.sticks > action
        self.sticks -= action + 1
        self._clear_rewards()
        if self.sticks == 0:
            self.rewards = {agent: 1, other: -1}
            self.terminations = dict.fromkeys(self.agents, True)
        self.agent_selection = other


def env(**options):
    """An AEC environment, as modules of PettingZoo's have it."""
    return Nim(**options)
