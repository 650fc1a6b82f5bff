"""SMAC's and SMACv2's adapter against a fake game with the same methods."""

from __future__ import annotations

import sys
import types
from functools import partial

import numpy as np
import pytest
import torch

from manyone.envs.teams.adapters import make_adapter
from manyone.envs.teams.copies import TeamCopies
from manyone.envs.teams.smac import SmacCopy, smacv2
from manyone.errors import ManyoneError


class Game:
    """Three units; unit i dies in step 2 + i if ``deadly``; the battle is won when unit 2 shoots (action 3) twice."""

    launched = 0

    def __init__(self, map_name="3m", seed=None, deadly=False, episode_limit=5):
        Game.launched += 1
        self.rng, self.deadly, self.limit = np.random.default_rng(seed), deadly, episode_limit

    def get_env_info(self):
        return {"n_agents": 3, "n_actions": 4, "obs_shape": 5, "state_shape": 6, "episode_limit": self.limit}

    def reset(self):
        self.steps, self.shots, self.draw = 0, 0, self.rng.random()
        return self.get_obs(), self.get_state()

    def _alive(self, i):
        return not (self.deadly and self.steps >= 2 + i)

    def get_obs(self):
        return [np.full(5, self.draw + i + self.steps, np.float32) for i in range(3)]

    def get_state(self):
        return np.full(6, self.steps, np.float32)

    def get_avail_agent_actions(self, i):
        return [0, 1, 1, int(i == 2)] if self._alive(i) else [1, 0, 0, 0]

    def get_avail_actions(self):
        return [self.get_avail_agent_actions(i) for i in range(3)]

    def step(self, actions):
        for i, action in enumerate(actions):
            assert self.get_avail_agent_actions(i)[action], "an action that the game does not allow"
        self.steps += 1
        self.shots += actions[2] == 3
        won, late = self.shots >= 2, self.steps >= self.limit
        lost = not any(self._alive(i) for i in range(3))
        info = {"battle_won": won, "dead_allies": 3 - sum(map(self._alive, range(3))), "dead_enemies": int(won)}
        if late and not (won or lost):
            info["episode_limit"] = True
        return 0.5 + won, won or lost or late, info

    def close(self):
        pass


@pytest.fixture
def installed(monkeypatch):
    package, inner = types.ModuleType("smac"), types.ModuleType("smac.env")
    inner.StarCraft2Env = Game
    monkeypatch.setitem(sys.modules, "smac", package)
    monkeypatch.setitem(sys.modules, "smac.env", inner)


def allowed(observation) -> torch.Tensor:
    return observation.available.int().argmax(2)


def test_a_battle_is_cut_off_won_or_lost(installed) -> None:
    env = make_adapter("smac:3m", 2, workers=0)
    spec = env.spec
    assert (spec.agents, spec.actions, spec.observation_dim, spec.state_dim, spec.horizon) == (3, 4, 5, 6, 5)
    assert spec.reports_success
    seen = env.reset(0)
    assert not torch.equal(seen.observations[0], seen.observations[1]), "each slot has its seed"
    for _ in range(5):
        out = env.step(allowed(seen))
        seen = out.observation
    assert out.truncated.all()
    assert not out.success.any()
    assert out.final.state.tolist() == [[5] * 6] * 2
    assert seen.state.tolist() == [[0] * 6] * 2
    for _ in range(2):
        actions = allowed(seen)
        actions[1, 2] = 3
        out = env.step(actions)
        seen = out.observation
    assert out.terminated.tolist() == [False, True]
    assert out.success.tolist() == [False, True]
    assert out.rewards.tolist() == [[0.5] * 3, [1.5] * 3], "shared by the team"
    assert float(out.measures["dead_enemies"][1]) == 1


def test_dead_units_do_nothing_and_see_zeros(installed) -> None:
    env = make_adapter("smac:3m:deadly=True", 1, workers=0)
    seen = env.reset(0)
    for step in range(1, 5):
        out = env.step(torch.where(seen.alive, allowed(seen), 2))  # what dead units are told does not matter
        seen = out.final if out.final is not None else out.observation
        assert seen.alive[0].tolist() == [step < 2 + i for i in range(3)]
        assert not out.left.any(), "the reward is shared: who has fallen waits for the team's end"
        assert not seen.observations[~seen.alive].any()
        assert (seen.available[~seen.alive].int().sum(1) == 1).all()
    assert out.terminated.all()
    assert float(out.measures["dead_allies"][0]) == 3


def test_the_same_seed_launches_the_same_game_and_a_loaded_state_begins_its_battles_anew(installed) -> None:
    env = make_adapter("smac:3m", 2, workers=0)
    first = env.reset(3)
    assert not env.spec.details["replayable"]
    env.step(allowed(first))
    before = Game.launched
    assert torch.equal(env.reset(3).observations, first.observations)
    assert Game.launched == before + 2
    env.step(allowed(first))
    loaded = make_adapter("smac:3m", 2, workers=0).load_state_dict(env.state_dict())
    assert torch.equal(loaded.observations, first.observations)


def test_without_the_game_the_install_line_is_told() -> None:
    for name in ("smac:3m", "smacv2:10gen_terran"):
        with pytest.raises(ManyoneError, match=r"needs smac.*: pip install git\+https.*StarCraft II"):
            make_adapter(name, 2)
    with pytest.raises(ManyoneError, match=r"get_env_info.* tells nothing about n_actions"):
        TeamCopies("odd", partial(SmacCopy, _Odd), 1)


class _Odd(Game):
    def get_env_info(self):
        return {"n_agents": 3, "obs_shape": 5, "state_shape": 6, "episode_limit": 3}


class Wrapped(Game):
    """SMACv2's wrapper: draws its teams from generators of its own."""

    def __init__(self, map_name, seed, capability_config, **rest):
        super().__init__(map_name, seed)
        self.config = capability_config
        inner = types.SimpleNamespace(rng=np.random.default_rng(), generate=lambda: None)
        self.env_key_to_distribution_map = {"start_positions": types.SimpleNamespace(inner=inner)}

    def reset(self):
        super().reset()
        self.draw = self.env_key_to_distribution_map["start_positions"].inner.rng.random()


def test_smacv2_draws_its_teams_from_the_seed(monkeypatch) -> None:
    for name in ("smacv2", "smacv2.env", "smacv2.env.starcraft2", "smacv2.env.starcraft2.wrapper"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["smacv2.env.starcraft2.wrapper"].StarCraftCapabilityEnvWrapper = Wrapped
    env = make_adapter("smacv2:10gen_zerg:units=3,enemies=4", 2, workers=0)
    first = env.reset(1)
    assert not torch.equal(first.observations[0], first.observations[1])
    assert torch.equal(make_adapter("smacv2:10gen_zerg", 2, workers=0).reset(1).observations, first.observations)
    game = smacv2("10gen_zerg", 0, units=3, enemies=4)
    assert game.config["n_enemies"] == 4
    assert game.config["team_gen"]["unit_types"] == ["zergling", "baneling", "hydralisk"]
    with pytest.raises(ManyoneError, match="must end in one of terran, protoss, zerg"):
        smacv2("3m", 0)
