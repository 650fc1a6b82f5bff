"""Roll-outs: what each agent's advantages are where agents end one by one, as the environments tell it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete

from manyone.envs.teams.make import make_team
from manyone.envs.teams.types import TeamSpec
from manyone.teams.network.commformer import Acted
from manyone.teams.ppo.returns import own_ends
from manyone.teams.ppo.rollout import Collector
from manyone.teams.ppo.training import Training
from manyone.teams.ppo.value_norm import ValueNorm

GAMMA, LAM, LAST = 0.9, 0.8, 5


class Departures:
    """PettingZoo's parallel API: a falls at step 2, b is cut off at step 3, c goes on to step 5 and d to a cut there.

    Everybody sees its number and the time, and is paid 1 a step.
    """

    possible_agents = ("a", "b", "c", "d")

    def observation_space(self, agent):
        return Box(-9, 9, (2,))

    def action_space(self, agent):
        return Discrete(2)

    def reset(self, seed=None, options=None):
        self.time, self.agents = 0, list(self.possible_agents)
        return self._seen(), {}

    def step(self, actions):
        assert set(actions) == set(self.agents)
        self.time += 1
        taking_part = self.agents
        terminated = {name: (name, self.time) in (("a", 2), ("c", LAST)) for name in taking_part}
        truncated = {name: (name, self.time) in (("b", 3), ("d", LAST)) for name in taking_part}
        seen = self._seen()
        self.agents = [name for name in taking_part if not terminated[name] and not truncated[name]]
        return seen, dict.fromkeys(taking_part, 1.0), terminated, truncated, {}

    def close(self):
        pass

    def _seen(self):
        return {name: np.array([self.possible_agents.index(name), self.time], np.float32) for name in self.agents}


class Critic:
    """Acts anyhow; an agent's value is worth(its number, the time) of what it sees."""

    spec = TeamSpec("departures", 4, 2, actions=2)

    def act(self, obs, graph, *, noise, gate="open", greedy=False):
        shape = obs.alive.shape
        actions = torch.zeros(shape, dtype=torch.long)
        return Acted(actions, torch.zeros(shape), self.values(obs, graph), torch.zeros(*shape, shape[1]).bool())

    def values(self, obs, graph, *, gate="open"):
        return worth(obs.observations[..., 0], obs.observations[..., 1])


def worth(number, time):
    return -0.1 + 2 * number - 0.3 * time


def advantages(frames=1, length=LAST):
    env = make_team(Departures, 1, workers=0, frames=frames)
    training = Training(iterations=1, length=length, gamma=GAMMA, lam=LAM)
    collector = Collector(env, Critic(), training, norm=ValueNorm(), device=torch.device("cpu"), seed=0)
    buffer = collector.collect(0, torch.zeros(4, 4), "open")
    return buffer.advantages[:, 0], buffer


@pytest.mark.parametrize("frames", [1, 2])
def test_an_agent_that_falls_is_not_continued_and_one_that_is_cut_alone_is_by_its_own_last_value(frames):
    found, buffer = advantages(frames)
    for agent, end, after in ((0, 2, 0.0), (1, 3, worth(1, 3)), (2, LAST, 0.0), (3, LAST, worth(3, LAST))):
        expected = 0.0
        for t in reversed(range(end)):
            following = after if t == end - 1 else worth(agent, t + 1)
            expected = 1.0 + GAMMA * following - worth(agent, t) + GAMMA * LAM * expected
            assert float(found[t, agent]) == pytest.approx(expected, abs=1e-5)
    assert float(found[1, 0]) == pytest.approx(1.0 - worth(0, 1))  # r - V at its exit
    assert buffer.alive[:, 0].sum(0).tolist() == [2, 3, 5, 5]
    assert buffer.done[:, 0].tolist() == [False] * 4 + [True]


def test_an_end_in_the_last_step_of_a_roll_out_counts_as_any_other():
    whole, _ = advantages()
    short, _ = advantages(length=3)
    assert float(short[1, 0]) == pytest.approx(float(whole[1, 0]))
    assert float(short[2, 1]) == pytest.approx(float(whole[2, 1]))


def test_a_car_that_leaves_has_left_although_the_next_one_has_its_number_at_once():
    env = make_team("traffic-junction-easy:cars=5,arrival=1.0", 8)
    seen, reused = env.reset(0), 0
    for _ in range(40):
        step = env.step(torch.zeros(8, 5, dtype=torch.long))
        terminated, _ = own_ends(seen.alive, step)
        assert torch.equal(terminated, step.left)
        reused += int((step.left & step.observation.alive & ~step.done[:, None]).sum())
        seen = step.observation
    assert reused > 0


def test_frames_of_an_agent_that_left_are_not_shown_to_the_one_that_has_its_number():
    env = make_team("traffic-junction-easy:cars=5,arrival=1.0", 8, frames=3)
    width = env.spec.observation_dim // 3
    env.reset(0)
    for _ in range(40):
        step = env.step(torch.zeros(8, 5, dtype=torch.long))
        gone = step.left & ~step.done[:, None]
        assert not step.observation.observations[gone][:, width:].any()
