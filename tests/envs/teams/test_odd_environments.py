"""Own environments that are unusual: in what they return, in who takes part when, in turns; beside PettingZoo's own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

pytest.importorskip("pettingzoo")

from gymnasium.spaces import flatten
from pettingzoo.utils.wrappers import BaseParallelWrapper
from tests.envs.teams.odd_parallel import Nim, Odd, SeedBefore, Stately, StateValue, Streams

from manyone.envs.teams.adapters import make_adapter
from manyone.errors import ManyoneError
from manyone.randomness import generator_for, seed_for


def made(odd="", kind=Odd, batch=1, **options):
    envs = []

    def factory():
        envs.append(kind(odd) if odd else kind())
        return envs[-1]

    factory.__name__ = "Odd"
    env = make_adapter(factory, batch, workers=0, **options)
    return env, envs


def course(odd, steps=6, action=2, **options):
    """The steps of one copy, in which everybody who may chooses ``action``."""
    env, envs = made(odd, **options)
    found = [env.reset(0)]
    for _ in range(steps):
        allowed = found[-1].available if len(found) == 1 else found[-1].observation.available
        actions = torch.where(allowed[..., action], action, 0)
        found.append(env.step(actions))
    return found, envs[-1]


@pytest.mark.parametrize(
    "odd", ["no infos", "infos of None", "rewards in arrays", "numpy rewards", "only observations"]
)
def test_what_can_be_understood_works(odd: str) -> None:
    usual, found = course("usual")[0], course(odd)[0]
    for one, other in zip(usual[1:], found[1:]):
        assert torch.equal(one.observation.observations, other.observation.observations)
        assert torch.equal(one.rewards, other.rewards)
        assert torch.equal(one.terminated, other.terminated)
    assert found[1].rewards.tolist() == [[1, 2, 3]]


@pytest.mark.parametrize("kind", [SeedBefore, Streams])
def test_a_reset_without_a_seed_still_follows_it(kind: type) -> None:
    draws = [made(kind=kind, batch=2)[0].reset(seed).observations[:, 0, 2].tolist() for seed in (1, 1, 2)]
    assert draws[0] == draws[1]
    assert len({*draws[0], *draws[2]}) == 4


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        ("four values", r"step\(\) returned 4 values \(dict, dict, dict, dict\), as before PettingZoo 1.22; needed are "
                        r"\(observations, rewards, terminations, truncations, infos\), dicts by agent"),
        ("one value", r"step\(\) returned 1 value \(dict\); needed are"),
        ("arrays", r"step\(\) returned 5 values \(dict, ndarray, dict, dict, dict\); needed are"),
        ("list of infos", "infos are a list; needed is a dict by agent"),
        ("pairs", r"agent 'a' was rewarded with an array of shape \[2\]; needed is one number"),
        ("no rewards", "agent 'a' was rewarded with None; needed is one number"),
    ],
)  # fmt: skip
def test_steps_that_cannot_be_understood_are_refused_with_what_came_back(odd: str, words: str) -> None:
    env, _ = made(odd)
    env.reset(0)
    with pytest.raises(ManyoneError, match=f"^Odd, slot 0, step 1: {words}") as caught:
        env.step(torch.zeros(1, 3).long())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("odd", "words"),
    [
        (
            "no dict",
            r"reset\(\) returned 3 values \(int, int, int\); needed are \(observations, infos\), dicts by agent",
        ),
        ("lists", r"reset\(\) returned 2 values \(list, list\); needed are"),
    ],
)
def test_resets_that_cannot_be_understood_are_refused_with_what_came_back(odd: str, words: str) -> None:
    with pytest.raises(ManyoneError, match=f"^Odd cannot be used: {words}"):
        made(odd)
    env, _ = made("nobody")
    with pytest.raises(ManyoneError, match=r"Odd, slot 0: no agent takes part after reset\(\)"):
        env.reset(0)


def test_a_state_is_used_where_it_is_numbers_and_refused_in_words_where_it_fails() -> None:
    for odd, width in (("not there", 0), ("None", 0), ("number", 1), ("rows", 4)):
        env, _ = made(odd, Stately)
        assert env.spec.state_dim == width
        assert (env.reset(0).state is None) == (width == 0)
    assert make_adapter(lambda: BaseParallelWrapper(StateValue()), 1, workers=0).spec.state_dim == 0
    assert made(kind=StateValue)[0].reset(0).state.tolist() == [[0, 1, 2, 3]]
    for odd, words in (
        ("argument", r"state\(\) fails \(state\(\) missing 1 required positional argument: 'agent'\): mend it"),
        ("mistake", r"state\(\) fails \(.* has no attribute 'world'\): mend it"),
        ("words", r"state\(\) returned a dict; needed are numbers: mend it, or leave it out with state=false"),
    ):  # fmt: skip
        with pytest.raises(ManyoneError, match=f"^Odd cannot be used: {words}"):
            made(odd, Stately)
        assert made(odd, Stately, state=False)[0].spec.state_dim == 0


@pytest.mark.parametrize("odd", ["dies", "stays listed"])
def test_an_agent_that_ended_stays_ended_whether_it_is_listed_or_not(odd: str) -> None:
    found, env = course(odd)
    alive = [found[0].alive, *(step.observation.alive for step in found[1:-1])]
    assert [a.tolist()[0] for a in alive] == [[True] * 3] * 2 + [[True, False, True]] * 4
    assert [step.left.tolist()[0] for step in found[1:3]] == [[False] * 3, [False, True, False]]
    assert [step.rewards[0, 1].item() for step in found[1:]] == [2, 2, 0, 0, 0, 0]
    assert not found[3].observation.observations[0, 1].any()
    assert found[3].observation.available.tolist() == [[[True] * 3, [True, False, False], [True] * 3]]
    assert found[-1].terminated.all()
    asked = [actions.get("b") for actions in env.asked]
    assert asked == [2, 2, *[None if odd == "dies" else 0] * 4], "it is given the first action while it is listed"


def test_a_listed_agent_that_ended_does_nothing_also_where_actions_are_continuous() -> None:
    class Stays(Odd):
        def action_space(self, agent):
            return type(self).box

    from gymnasium import spaces

    Stays.box = spaces.Box(1, 2, (1,))
    env, envs = made("stays listed", Stays)
    env.reset(0)
    for _ in range(4):
        env.step(torch.full((1, 3, 1), 1.5))
    assert [float(actions["b"].item()) for actions in envs[-1].asked] == [1.5, 1.5, 1, 1], "what is nearest to zero"


@pytest.mark.parametrize("odd", ["pauses", "listed but blind"])
def test_an_agent_that_pauses_waits_with_what_it_saw_last_and_comes_back(odd: str) -> None:
    found, env = course(odd)
    back = 4
    alive = [step.observation.alive[0, 1].item() for step in found[1:-1]]
    assert alive == [step not in range(2, back) for step in range(1, 6)]
    assert not any(step.left.any() for step in found[1:-1])
    assert not found[-1].truncated.any()
    seen = [step.observation.observations[0, 1].tolist() for step in found[1:-1]]
    assert seen[:3] == [[1, 1, 2]] * 3, "held while it waits"
    assert seen[3][:2] == [1, 4]
    assert found[3].observation.available[0, 1].tolist() == [True, False, False]
    assert found[4].observation.available[0, 1].all()
    asked = [actions.get("b") for actions in env.asked]
    assert asked == [2, 2, *[None if odd == "pauses" else 0] * 2, 2, 2]
    assert found[-1].terminated.all()


def test_an_agent_may_come_late_or_again_after_its_end() -> None:
    found, _ = course("comes late")
    alive = [found[0].alive[0, 2].item(), *(step.observation.alive[0, 2].item() for step in found[1:-1])]
    assert alive == [False, False, True, True, True, True]
    assert not found[1].observation.observations[0, 2].any()
    assert not found[2].left.any()
    found, _ = course("comes back")
    assert [step.observation.alive[0, 1].item() for step in found[1:-1]] == [True, False, False, True, True]
    assert [step.left[0, 1].item() for step in found[1:-1]] == [False, True, False, False, False]
    assert [step.rewards[0, 1].item() for step in found[1:]] == [2, 2, 0, 2, 2, 2]


def test_an_agent_cut_alone_is_shown_in_final_and_is_gone() -> None:
    found, _ = course("cut alone")
    assert found[2].cut.tolist() == [[False, True, False]]
    assert found[2].final.alive.all()
    assert found[2].final.observations[0, 1].tolist() == [1, 2, 2]
    assert found[2].observation.alive.tolist() == [[True, False, True]]
    assert not found[2].left.any()


def test_agents_in_turns_act_one_after_another_and_see_the_game_meanwhile() -> None:
    for name in (Nim, "pettingzoo:tests.envs.teams.odd_parallel"):
        env = make_adapter(name, 1, workers=0)
        assert (env.spec.agents, env.spec.actions, env.spec.observation_dim, env.spec.masked) == (2, 3, 8, True)
        seen = env.reset(0)
        sticks = 7
        for turn, takes in enumerate((2, 3, 1, 1)):
            mover = turn % 2
            assert seen.alive.tolist() == [[mover == 0, mover == 1]]
            assert seen.observations.argmax(-1).tolist() == [[sticks] * 2]
            assert seen.available[0, mover].sum() == min(3, sticks)
            assert seen.available[0, 1 - mover].tolist() == [True, False, False]
            actions = torch.zeros(1, 2).long()
            actions[0, mover] = takes - 1
            step = env.step(actions)
            seen, sticks = step.observation, sticks - takes
            assert step.rewards.tolist() == [[-1, 1] if sticks == 0 else [0, 0]]
        assert step.terminated.all()
        assert step.observation.alive.tolist() == [[True, False]], "the next game has begun"


@pytest.mark.parametrize("game", ["classic.tictactoe_v3", "classic.connect_four_v3"])
def test_games_in_turns_agree_with_playing_them_by_the_aec_api(game: str) -> None:
    bare = pytest.importorskip(f"pettingzoo.{game}").env()
    env = make_adapter(f"pettingzoo:pettingzoo.{game}", 1, workers=0)
    assert env.spec.masked
    seen = env.reset(4)
    bare.reset(seed=seed_for(4, "team episode", 0, 0) >> 32)
    for step in range(60):
        mover = bare.possible_agents.index(bare.agent_selection)
        assert seen.alive[0].tolist() == [k == mover for k in range(2)]
        for k, agent in enumerate(bare.possible_agents):
            shown = bare.observe(agent)
            np.testing.assert_array_equal(seen.observations[0, k], shown["observation"].reshape(-1))
        np.testing.assert_array_equal(seen.available[0, mover], bare.observe(bare.agent_selection)["action_mask"] > 0)
        actions = seen.available.float().flatten(0, 1).multinomial(1, generator=generator_for("t", step)).view(1, 2)
        out = env.step(actions)
        bare.step(int(actions[0, mover]))
        assert out.rewards[0].tolist() == [bare.rewards[agent] for agent in bare.possible_agents]
        if all(bare.terminations.values()):
            break
        seen = out.observation
    assert out.terminated.all()
    assert out.final.alive.all()


@pytest.mark.parametrize("module", ["classic.rps_v2", "sisl.pursuit_v5", "butterfly.knights_archers_zombies_v11"])
def test_pettingzoos_parallel_environments_agree_with_stepping_them(module: str) -> None:
    bare = pytest.importorskip(f"pettingzoo.{module}").parallel_env()
    env = make_adapter(f"pettingzoo:pettingzoo.{module}", 1, workers=0)
    seen = env.reset(2)
    shown, _ = bare.reset(seed=seed_for(2, "team episode", 0, 0) >> 32)
    for step in range(12):
        for k, agent in enumerate(bare.possible_agents):
            wanted = flatten(bare.observation_space(agent), shown[agent])
            np.testing.assert_allclose(seen.observations[0, k, : len(wanted)], wanted, rtol=1e-6)
        actions = torch.randint(0, env.spec.actions, (1, env.spec.agents), generator=generator_for("t", step))
        out = env.step(actions)
        shown, rewards, *_ = bare.step(dict(zip(bare.possible_agents, actions[0].tolist())))
        np.testing.assert_allclose(out.rewards[0], [rewards[agent] for agent in bare.possible_agents], rtol=1e-6)
        assert not out.done.any()
        seen = out.observation
