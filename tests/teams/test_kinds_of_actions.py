"""Every kind of action is learnt, and what a mask forbids is never played: training, evaluation, play, loaded teams."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("pettingzoo")

from gymnasium import spaces
from tests.envs.teams.odd_parallel import Lock, Nim, Odd

from manyone.envs.teams.make import make_team
from manyone.envs.teams.types import Observation
from manyone.errors import ManyoneError
from manyone.teams.artefact import load_team, save_team
from manyone.teams.network.actor_critic import ActorCritic
from manyone.teams.network.commformer import CommFormer
from manyone.teams.network.graph import fixed_graph
from manyone.teams.play import play
from manyone.teams.ppo.learner import TeamLearner
from manyone.teams.ppo.training import Training

BIG = spaces.MultiDiscrete([20, 4], start=[0, 0])
KINDS = {
    "number": (spaces.Discrete(5), (5,), ()),
    "few combinations": (spaces.MultiDiscrete([3, 2]), (3, 2), ()),
    "digits": (BIG, (20, 4), (20, 4)),
    "bits": (spaces.MultiBinary(8), (2,) * 8, (2,) * 8),
    "tuple": (spaces.Tuple([spaces.Discrete(9), spaces.MultiBinary(4)]), (9, 2, 2, 2, 2), (9, 2, 2, 2, 2)),
    "dict": (spaces.Dict(go=spaces.Discrete(12), say=spaces.Box(0, 6, (1,), np.int64)), (12, 7), (12, 7)),
}


def learner_of(env: Any, method: str = "commformer", seed: int = 0, **options: Any) -> TeamLearner:
    torch.manual_seed(seed)
    n = env.spec.agents
    policy = (
        CommFormer(env.spec, width=32) if method == "commformer" else ActorCritic(env.spec, critic="local", width=32)
    )
    graph = fixed_graph("full" if method == "commformer" else "none", n)
    defaults = {"iterations": 60, "length": 2, "epochs": 5, "lr": 5e-3, "clip": 0.2, "entropy_coef": 0.003}
    return TeamLearner(env, policy, Training(**(defaults | options)), graph=graph, seed=seed)


@pytest.mark.parametrize(("kind", "method"), zip(KINDS, ["ippo", "commformer"] * 3))
def test_a_lock_that_needs_every_part_of_the_action_right_is_opened(kind: str, method: str) -> None:
    space, choices, digits = KINDS[kind]
    env = make_team(functools.partial(Lock, space, choices), 64, workers=0)
    assert env.spec.digits == digits
    assert env.spec.actions == (sum(digits) or np.prod(choices))
    learner = learner_of(env, method)
    first = learner.step()["reward"]
    for _ in range(39):
        learner.step()
    played = play(env, learner.policy, learner.graph, episodes=128, seed=1)
    assert first < 0.6
    assert played.returns.mean() > 0.95


PAIR = spaces.MultiDiscrete([9, 8])


@pytest.mark.parametrize(
    ("masked", "space"),
    [("observation", PAIR), ("nested", PAIR), ("infos", PAIR), ("observation", spaces.Discrete(7)),
     ("infos", spaces.MultiDiscrete([3, 2]))], ids=str,
)  # fmt: skip
def test_what_a_mask_forbids_is_never_played(masked: str, space: Any, tmp_path: Path) -> None:
    choices = tuple(getattr(space, "nvec", [7]))
    env = make_team(functools.partial(Lock, space, choices, masked), 32, workers=0)
    assert env.spec.masked
    assert env.spec.observation_dim == sum(choices) + 2 * (masked != "infos"), "the mask is no feature"
    learner = learner_of(env)
    for _ in range(3):
        learner.step()  # the lock raises when a forbidden action reaches it
    for greedy in (True, False):
        play(env, learner.policy, learner.graph, episodes=64, seed=2, greedy=greedy)
    save_team(tmp_path / "team", learner.policy, learner.graph, env.spec, program=False)
    team, seen = load_team(tmp_path / "team"), env.reset(3)
    for greedy in (True, False) * 3:
        actions = team.act(seen.observations, seen.available, greedy=greedy)
        seen = env.step(torch.from_numpy(actions)).observation
    with pytest.raises(ManyoneError, match=r"available: .* does not always allow every action"):
        team.act(seen.observations)
    forbidden = (~seen.available[..., : choices[0]]).int().argmax(-1)
    with pytest.raises(ManyoneError, match="is not available to agent 'x'"):
        env.step(torch.stack([forbidden] * len(env.spec.digits), -1) if env.spec.digits else forbidden)


def test_players_in_turns_learn_from_what_comes_while_they_wait() -> None:
    env = make_team(Nim, 64, workers=0)
    learner = learner_of(env, "ippo", length=16, lr=3e-3, entropy_coef=0.01, gamma=1.0)
    for _ in range(50):
        learner.step()
    sticks = torch.tensor([1, 2, 3, 5, 6, 7])
    seen = torch.nn.functional.one_hot(sticks, 8).float()[:, None].expand(-1, 2, -1)
    allowed = (torch.arange(3) < sticks[:, None])[:, None].expand(-1, 2, -1)
    obs = Observation(seen, allowed[..., 0], allowed)
    acted = learner.policy.act(obs, learner.graph, noise=None, greedy=True)
    assert (acted.actions + 1 == (sticks % 4)[:, None]).all(), "whoever leaves 4 or nothing wins"
    assert learner.norm.denormalise(acted.values).min() > 0.3


def test_a_player_that_waits_at_the_end_of_a_roll_out_has_the_value_of_what_it_sees() -> None:
    env = make_team(Nim, 8, workers=0)
    learner = learner_of(env, "ippo", length=1)
    buffer = learner.collector.collect(0, learner.graph, "open")
    state = env.state_dict()
    after = learner.norm.denormalise(learner.policy.values(env.load_state_dict(state), learner.graph))
    before = learner.norm.denormalise(buffer.values[0])
    assert (after[:, 0] - after[:, 1]).abs().min() > 1e-4
    torch.testing.assert_close(buffer.advantages[0, :, 0], (0.99 * after - before)[:, 0])


@pytest.mark.parametrize("kind", ["digits", "turns"])
def test_training_goes_on_exactly_after_it_was_saved(kind: str) -> None:
    factory = Nim if kind == "turns" else functools.partial(Lock, PAIR, (9, 8), "observation")
    whole = learner_of(make_team(factory, 6, workers=0), length=5)
    for _ in range(2):
        whole.step()
    other = learner_of(make_team(factory, 6, workers=1), seed=5, length=5)
    other.seed = other.updates.seed = other.collector.seed = whole.seed
    other.load_state_dict(copy.deepcopy(whole.state_dict()))
    assert whole.step() == other.step()
    assert all(map(torch.equal, whole.policy.parameters(), other.policy.parameters()))
    other.env.close()


def test_the_return_of_an_agent_that_pauses_runs_on_through_the_gap() -> None:
    learner = learner_of(make_team(functools.partial(Odd, "pauses"), 3, workers=0), "ippo", length=6)
    buffer = learner.collector.collect(0, learner.graph, "open")
    assert buffer.alive[:, 0, 1].tolist() == [True, True, False, False, True, True]
    rewards, values = buffer.rewards[:, :, 1], learner.norm.denormalise(buffer.values)[:, :, 1]
    assert rewards[:, 0].tolist() == [2, 0, 0, 2, 2, 2], "what comes in the gap is its own as well"
    gamma, lam = 0.99, 0.95
    last = rewards[5] - values[5]
    back = rewards[4] + gamma * values[5] - values[4] + gamma * lam * last
    gap = rewards[1] + gamma * rewards[2] + gamma**2 * rewards[3] + gamma**3 * values[4]
    torch.testing.assert_close(buffer.advantages[4, :, 1], back)
    torch.testing.assert_close(buffer.advantages[1, :, 1], gap - values[1] + gamma**3 * lam * back)
