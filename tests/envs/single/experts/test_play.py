"""Roll-outs of shipped policies: what a data set is made of, how parts are filled, independence of the pieces."""

import numpy as np
import pytest

pytest.importorskip("mujoco")

from manyone.envs.single import make
from manyone.envs.single.experts import play
from manyone.envs.single.experts.ladder import NOISE, ladder


def test_parts_of_every_quality():
    found = ladder("hopper")
    count = len(found.steps)
    of = {q: play.shares(q, found, 1003, in_steps=True) for q in ("random", "medium", "medium-replay", "medium-expert")}
    assert [(s.policy, s.step, s.amount) for s in of["random"]] == [(None, 0, 1003)]
    assert [(s.policy, s.step, s.amount) for s in of["medium"]] == [(found.medium, found.steps[found.medium], 1003)]
    assert [(s.policy, s.amount) for s in of["medium-expert"]] == [(found.medium, 502), (found.expert, 501)]
    assert [s.policy for s in of["medium-replay"]] == [None, *range(count)]
    assert sum(s.amount for s in of["medium-replay"]) == 1003
    assert max(s.amount for s in of["medium-replay"]) - min(s.amount for s in of["medium-replay"]) <= 1
    assert len(play.shares("medium-replay", found, 3, in_steps=False)) == 3


def episode(steps, number):
    return {
        "observations": np.full((steps + 1, 1), number),
        "actions": np.full((steps, 1), number),
        "rewards": np.ones(steps),
        "terminated": True,
        "goal": 0,
    }


@pytest.mark.parametrize("lengths", [lambda n: 3 + n % 5, lambda n: 1 if n < 9 else 40, lambda n: 50])
@pytest.mark.parametrize("amount", [1, 7, 333])
def test_a_part_keeps_its_first_episodes_to_the_step_whatever_was_asked_for(lengths, amount):
    share = play.Share(0, 10, amount, in_steps=True)
    rounds = 0
    while pieces := share.needed(50):
        rounds += 1
        for first, count in reversed(pieces):
            share.add(first, [episode(lengths(n), n) for n in range(first, first + count)])
    assert share.filled == amount
    assert rounds <= 8
    kept = share.kept()
    assert sum(len(one["rewards"]) for one in kept) == amount
    assert [one["actions"][0, 0] for one in kept] == list(range(len(kept)))
    assert all(one["terminated"] for one in kept[:-1])
    whole = len(kept[-1]["rewards"]) == lengths(len(kept) - 1)
    assert kept[-1]["terminated"] == whole
    assert all(len(one["observations"]) == len(one["rewards"]) + 1 for one in kept)


def test_a_part_in_episodes_asks_for_exactly_those():
    share = play.Share(0, 10, 12, in_steps=False)
    assert share.needed(50) == [(0, 5), (5, 5), (10, 2)]
    for first, count in share.needed(50):
        share.add(first, [episode(4, n) for n in range(first, first + count)])
    assert share.needed(50) == []
    assert len(share.kept()) == 12


@pytest.mark.parametrize("policy", [None, 0, -1])
def test_an_episode_depends_on_its_policy_and_seed_alone_and_can_be_played_back(policy):
    policy = len(ladder("hopper").steps) - 1 if policy == -1 else policy
    together = play.episodes("hopper", policy, [5, 6, 7], 60, NOISE)
    alone = play.episodes("hopper", policy, [7], 60, NOISE)[0]
    for key in ("observations", "actions", "rewards", "terminated"):
        np.testing.assert_array_equal(alone[key], together[2][key])
    assert np.abs(alone["actions"]).max() <= 1
    assert not np.array_equal(together[0]["actions"], together[1]["actions"])
    env = make.make_env("gym:Hopper-v5")
    env.reset(seed=7)
    states = [env.step(action)[0] for action in alone["actions"]]
    np.testing.assert_array_equal(states, alone["observations"][1:])


def test_noise_is_that_of_training():
    found = ladder("hopper")
    actor = found.actors[found.medium]
    quiet, loud = (play.roll_out(found.task, actor, range(4), 40, noise) for noise in (0.0, NOISE))
    for one in quiet:
        np.testing.assert_allclose(one["actions"], actor.actions(one["observations"][:-1]), atol=1e-5)
    errors = np.concatenate([one["actions"] - actor.actions(one["observations"][:-1]) for one in loud])
    inside = np.concatenate([np.abs(one["actions"]).max(1) < 1 for one in loud])
    assert errors[inside].std() == pytest.approx(NOISE, rel=0.3)
