"""SMAX through JaxMARL; skipped where that is not installed."""

from __future__ import annotations

import pytest
import torch

from manyone.envs.teams.adapters import make_adapter
from manyone.envs.teams.types import TeamEnv
from manyone.errors import ManyoneError
from manyone.randomness import generator_for


def test_without_jaxmarl_the_install_line_is_told() -> None:
    try:
        import jaxmarl  # noqa: F401
    except ImportError:
        with pytest.raises(ManyoneError, match=r"pip install 'manyone\[smax\]'"):
            make_adapter("smax:3m", 2)


@pytest.fixture(scope="module")
def env():
    pytest.importorskip("jaxmarl")
    return make_adapter("smax:3m", 4, limit=12)


def play(env, observation, steps: int, start: int = 0) -> list:
    found = []
    for step in range(start, start + steps):
        weights = observation.available.float()
        actions = weights.flatten(0, 1).multinomial(1, generator=generator_for("smax", step)).view(weights.shape[:2])
        found.append(env.step(actions))
        observation = found[-1].observation
    return found


def test_battles_are_cut_off_restart_and_can_be_resumed_bit_for_bit(env) -> None:
    spec = env.spec
    assert isinstance(env, TeamEnv)
    assert (spec.agents, spec.actions, spec.horizon, spec.reports_success) == (3, 8, 12, True)
    first = env.reset(0)
    assert first.observations.shape == (4, 3, spec.observation_dim)
    assert first.state.shape == (4, spec.state_dim)
    assert not torch.equal(first.observations[0], first.observations[1])
    out = play(env, first, 12)[-1]
    assert out.done.all()
    assert not (out.terminated & out.truncated).any()
    assert not torch.equal(out.final.observations, out.observation.observations)
    state = env.state_dict()
    wanted = play(env, out.observation, 20, 12)
    seen = env.load_state_dict(state)
    assert torch.equal(seen.observations, out.observation.observations)
    for a, b in zip(wanted, play(env, seen, 20, 12)):
        assert torch.equal(a.observation.observations, b.observation.observations)
        assert torch.equal(a.rewards, b.rewards)
    assert torch.equal(env.reset(0).observations, first.observations)
    assert not torch.equal(env.reset(1).observations, first.observations)
    assert env.frame(1).shape == (384, 384, 3)


def test_dead_units_see_zeros_and_may_only_stand_still(env) -> None:
    seen, dead, won = env.reset(5), 0, 0
    env.limit = 100
    for _ in range(60):
        # Shoot at the first enemy in reach, else walk east, towards them.
        shots = seen.available[..., 5:]
        east = torch.where(seen.available[..., 1], 1, 4)
        out = env.step(torch.where(shots.any(2), 5 + shots.int().argmax(2), east))
        seen = out.final if out.final is not None else out.observation
        gone = ~seen.alive
        dead += int(gone.sum())
        assert not seen.observations[gone].any()
        assert torch.equal(seen.available[gone].int().sum(-1), torch.ones(int(gone.sum()), dtype=torch.long))
        assert (~out.success | out.terminated).all()
        won += int(out.success.sum())
        seen = out.observation
    env.limit = 12
    assert dead > 0
    assert won > 0


def test_unavailable_actions_and_unknown_maps_are_refused(env) -> None:
    env.reset(0)
    with pytest.raises(ManyoneError, match=r"slot 0, step 1: action 7 is not available to agent 'ally_0'"):
        env.step(torch.full((4, 3), 7))
    with pytest.raises(ManyoneError, match="the maps are 3m"):
        make_adapter("smax:nothing", 2)
