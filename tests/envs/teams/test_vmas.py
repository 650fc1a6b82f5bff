"""VMAS scenarios as team environments."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manyone.envs.teams.adapters import make_adapter
from manyone.envs.teams.types import TeamEnv
from manyone.envs.teams.vmas import VmasTeam
from manyone.errors import ManyoneError
from manyone.randomness import generator_for

pytest.importorskip("vmas")


def actions_for(env, slot: int, step: int) -> torch.Tensor:
    """A slot's random actions, whatever the other slots do."""
    generator = generator_for("test", slot, step)
    if env.spec.discrete:
        return torch.randint(0, env.spec.actions, (env.spec.agents,), generator=generator)
    return torch.rand(env.spec.agents, env.spec.action_dim, generator=generator) * 2 - 1


def run(env, steps: int, start: int = 0):
    found = []
    for step in range(start, start + steps):
        out = env.step(torch.stack([actions_for(env, slot, step) for slot in range(env.batch)]))
        found.append(out)
    return found


@pytest.mark.parametrize("scenario", ["simple_spread", "navigation", "balance", "discovery"])
def test_a_slots_episodes_depend_on_neither_the_batch_nor_the_other_slots(scenario: str) -> None:
    small, large = (make_adapter(f"vmas:{scenario}:limit=3", batch) for batch in (2, 5))
    torch.manual_seed(1)
    first = small.reset(7)
    torch.manual_seed(2)
    second = large.reset(7)
    torch.testing.assert_close(first.observations, second.observations[:2], rtol=0, atol=1e-6)
    for a, b in zip(run(small, 8), run(large, 8)):
        torch.testing.assert_close(a.observation.observations, b.observation.observations[:2], rtol=0, atol=1e-5)
        torch.testing.assert_close(a.rewards, b.rewards[:2], rtol=0, atol=1e-5)
    assert not torch.equal(second.observations[0], second.observations[1])
    assert not torch.equal(second.observations, large.reset(8).observations)
    assert isinstance(small, TeamEnv)


@pytest.mark.parametrize("scenario", ["navigation", "balance", "simple_reference"])
def test_a_loaded_state_goes_on_bit_for_bit(scenario: str) -> None:
    env = make_adapter(f"vmas:{scenario}:limit=4", 3)
    env.reset(1)
    run(env, 6)
    state = env.state_dict()
    wanted = run(env, 7, 6)
    other = make_adapter(f"vmas:{scenario}:limit=4", 3)
    seen = other.load_state_dict(state)
    torch.testing.assert_close(seen.observations, state["seen"], rtol=0, atol=0)
    for a, b in zip(wanted, run(other, 7, 6)):
        assert torch.equal(a.observation.observations, b.observation.observations)
        assert torch.equal(a.rewards, b.rewards)
        assert torch.equal(a.done, b.done)


def test_the_limit_truncates_and_final_is_what_was_seen_before_the_restart() -> None:
    env = make_adapter("vmas:simple_spread", 2, limit=3)
    env.reset(0)
    one, two, three = run(env, 3)
    assert not one.done.any()
    assert one.final is None
    assert three.truncated.all()
    assert not three.terminated.any()
    moved = (three.final.observations - two.observation.observations).abs().max()
    assert 0 < moved < 1, "one step further, not a new start"
    assert not torch.equal(three.final.observations, three.observation.observations)
    assert torch.equal(three.observation.alive, torch.ones(2, 3, dtype=torch.bool))


def test_the_global_random_stream_is_left_alone() -> None:
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    env = make_adapter("vmas:navigation", 2, limit=2)
    env.reset(0)
    run(env, 3)
    assert torch.equal(torch.rand(3), wanted)


def test_slots_that_are_solved_restart_alone_and_count_as_success() -> None:
    env = make_adapter("vmas:navigation:n_agents=1,limit=60", 4)
    seen = env.reset(3).observations
    ended = torch.zeros(4, dtype=torch.bool)
    for _ in range(60):
        toward = seen[..., 4:6] * -4 - seen[..., 2:4]  # entries 4, 5: where the agent is, as seen from its goal
        out = env.step(toward.clamp(-1, 1))
        if out.terminated.any() and not out.terminated.all():
            ended |= out.terminated
            assert out.success[out.terminated].all()
            others = ~out.terminated
            assert torch.equal(out.final.observations[others], out.observation.observations[others])
            assert not torch.equal(out.final.observations[out.terminated], out.observation.observations[out.terminated])
        seen = out.observation.observations
    assert ended.any(), "some slot got there"


def test_discrete_actions_and_agents_of_unlike_widths() -> None:
    env = make_adapter("vmas:simple_speaker_listener", 2, continuous=False, limit=3)
    first = env.reset(0)
    assert env.spec.discrete
    assert first.available is not None
    fewest, most = sorted(first.available.sum(2)[0].tolist())
    assert fewest < most == env.spec.actions
    allowed = torch.stack([a.float().multinomial(1)[:, 0] for a in first.available])
    assert env.step(allowed).rewards.shape == (2, 2)
    with pytest.raises(ManyoneError, match=r"slot 0: action \d+ is not available to agent 'listener_0'"):
        env.step(torch.full((2, 2), most - 1))


def test_actions_of_several_digits() -> None:
    env = make_adapter("vmas:simple_reference", 3, continuous=False, multidiscrete_actions=True, limit=3)
    assert env.spec.digits == (3, 3, 10)
    assert env.spec.action_shape == (3,)
    env.reset(0)
    out = env.step(torch.tensor([[[0, 0, 9]] * 2, [[2, 1, 0]] * 2, [[1, 2, 4]] * 2]))
    assert out.observation.available is None
    with pytest.raises(ManyoneError, match=r"slot 1: action \[0, 3, 1\] is not available to agent"):
        env.step(torch.tensor([[[0, 0, 1]] * 2, [[0, 3, 1]] * 2, [[0, 0, 1]] * 2]))


def masked_scenario(**options):
    """Simple spread, where in odd steps an agent may not stay (action 0); ``options`` spoil the mask."""
    from vmas.scenarios.mpe.simple_spread import Scenario

    class Masked(Scenario):
        def observation(self, agent):
            seen = super().observation(agent)
            allowed = torch.ones(len(seen), options.get("width", 9), dtype=torch.bool)
            allowed[:, 0] = agent.state.pos[:, 0] > 0
            if options.get("nothing"):
                allowed[:] = False
            return {"action_mask": allowed, "own": {"seen": seen}}

    return Masked


def test_a_mask_beside_other_keys_is_no_feature_and_is_obeyed_through_restarts_and_saved_states() -> None:
    plain = VmasTeam("simple_spread", 4, continuous=False, limit=3)
    env = VmasTeam(masked_scenario(), 4, continuous=False, limit=3)
    assert env.spec.observation_dim == plain.spec.observation_dim
    assert env.spec.masked
    seen = env.reset(0)
    for step in range(7):
        assert torch.equal(seen.available[..., 0], seen.observations[..., 0] > 0), "the first entry is the own place"
        assert seen.available[..., 1:].all()
        actions = seen.available.int().argmax(-1)
        if step == 3 and not seen.available.all():
            with pytest.raises(ManyoneError, match="action 0 is not available to agent"):
                env.step(torch.zeros(4, env.spec.agents).long())
        out = env.step(actions)
        seen = out.observation
    state = env.state_dict()
    other = VmasTeam(masked_scenario(), 4, continuous=False, limit=3)
    again = other.load_state_dict(state)
    assert torch.equal(again.available, seen.available)
    assert torch.equal(again.observations, seen.observations)


def test_masks_that_cannot_be_obeyed_are_refused_in_words() -> None:
    for options, continuous, words in (
        ({}, True, "own scenario|Masked: it tells an action mask, and continuous actions cannot be masked"),
        ({"width": 5}, False, "has a mask of 5 entries for 9 actions"),
        ({"nothing": True}, False, "has no available action"),
    ):
        with pytest.raises(ManyoneError, match=words):
            VmasTeam(masked_scenario(**options), 2, continuous=continuous).reset(0)


def test_worlds_are_drawn_without_a_window_and_names_make_the_same_task_again() -> None:
    for scenario in ("transport", "joint_passage"):  # boxes, lines and spheres
        env = make_adapter(f"vmas:{scenario}", 2, limit=7)
        env.reset(0)
        pictures = [env.frame(slot) for slot in range(2)]
        assert pictures[0].shape == (400, 400, 3)
        assert len(np.unique(pictures[0].reshape(-1, 3), axis=0)) >= 3
        assert not np.array_equal(*pictures)
        assert env.spec.name == f"vmas:{scenario}:limit=7"
        assert make_adapter(env.spec.name, 1).spec.horizon == 7


def test_what_cannot_be_used_is_refused_in_words() -> None:
    with pytest.raises(ManyoneError, match="VMAS has no such scenario"):
        make_adapter("vmas:nothing", 2)
    env = make_adapter("vmas:simple_spread", 2)
    with pytest.raises(ManyoneError, match=r"reset\(seed\) first"):
        env.step(torch.zeros(2, 3, 2))
    env.reset(0)
    with pytest.raises(ManyoneError, match=r"\[2, 3, 2\] is needed"):
        env.step(torch.zeros(2, 3))
    with pytest.raises(ManyoneError, match="not finite"):
        env.step(torch.full((2, 3, 2), torch.nan))
