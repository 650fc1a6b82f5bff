"""Continuous actions in the units of each agent's own bounds: wherever a range lies, a team reaches what it has to."""

from __future__ import annotations

import dataclasses
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.teams.reach import Reach

from manyone.envs.teams.make import make_team
from manyone.envs.teams.types import TeamSpec
from manyone.teams.artefact import load_team, save_team
from manyone.teams.network.actor_critic import ActorCritic
from manyone.teams.network.commformer import CommFormer
from manyone.teams.network.graph import fixed_graph
from manyone.teams.play import play
from manyone.teams.ppo.learner import TeamLearner
from manyone.teams.ppo.training import Training
from manyone.teams.processes.executor import Decentralised

BOUNDS = [(-1.0, 1.0), (0.0, 100.0), (-0.4, 0.4), (-3.0, -2.5)]


def learner_on(low, high, kind=ActorCritic, **training):
    env = make_team(partial(Reach, low=low, high=high), 16, workers=0)
    torch.manual_seed(0)
    policy = kind(env.spec, width=16)
    plan = Training(**{"iterations": 10, "length": 8, "epochs": 5, "lr": 3e-3, "clip": 0.2, **training})
    return TeamLearner(env, policy, plan, graph=fixed_graph("full", 2))


@pytest.mark.parametrize("kind", [ActorCritic, CommFormer])
def test_training_is_the_same_wherever_the_bounds_lie(kind):
    logs = []
    for low, high in BOUNDS:
        learner = learner_on(low, high, kind)
        logs.append([learner.step() for _ in range(3)])
    for log in logs[1:]:
        for metrics, plain in zip(log, logs[0]):
            assert metrics == pytest.approx(plain, rel=2e-3, abs=2e-4)
    assert -1 < logs[0][0]["reward"] < 0


def test_bounds_of_one_change_nothing_to_the_last_bit():
    learner = learner_on(-1.0, 1.0)
    plain = learner_on(-1.0, 1.0)
    plain.policy.spec = dataclasses.replace(plain.policy.spec, agent_low=(), agent_high=())
    assert [learner.step() for _ in range(3)] == [plain.step() for _ in range(3)]


def test_a_wide_range_is_reached():
    learner = learner_on(0.0, 100.0, iterations=40, lr=1e-2)
    before = play(learner.env, learner.policy, learner.exact_graph(), episodes=16, seed=1).figures()["return"]
    for _ in range(40):
        learner.step()
    after = play(learner.env, learner.policy, learner.exact_graph(), episodes=16, seed=1).figures()["return"]
    assert before < 4 * -0.4  # four steps of a return without knowing anything
    assert after > 4 * -0.1


SPEC = TeamSpec(
    "mixed", 2, 3, action_dim=2, low=(-1.0, -np.inf), high=(100.0, np.inf),
    agent_low=((0.0, 0.0), (-1.0, -np.inf)), agent_high=((100.0, 0.0), (1.0, np.inf)),
)  # fmt: skip


def test_each_agent_has_its_own_bounds_and_open_ones_stay_as_they_are():
    actions = torch.tensor([[[-1.0, 0.7], [0.5, 7.0]], [[1.0, 0.7], [1.0, -7.0]]])
    assert SPEC.to_bounds(actions).tolist() == [[[0.0, 0.0], [0.5, 7.0]], [[100.0, 0.0], [1.0, -7.0]]]
    largest = float(np.finfo(np.float32).max)  # what some say for "any number"
    wide = TeamSpec("wide", 1, 3, action_dim=1, agent_low=((-largest,),), agent_high=((largest,),))
    assert wide.to_bounds(torch.tensor([[0.3]])).tolist() == [[pytest.approx(0.3)]]
    moves = TeamSpec("moves", 2, 3, actions=4)
    assert moves.to_bounds(torch.tensor([3, 0])).tolist() == [3, 0]


@pytest.mark.parametrize("kind", [ActorCritic, CommFormer])
def test_the_artefact_its_program_and_its_processes_act_in_the_bounds(kind, tmp_path):
    torch.manual_seed(1)
    policy = kind(SPEC, width=8)
    save_team(tmp_path, policy, fixed_graph("full", 2), SPEC)
    observations = np.random.default_rng(0).normal(size=(5, 2, 3)).astype(np.float32)
    team = load_team(tmp_path)
    assert team.spec == SPEC
    found = team.act(observations)
    assert (abs(found[:, 0, 0] - 50) < 20).all()
    assert (found[:, 0, 1] == 0).all()
    program = torch.export.load(tmp_path / "policy.pt2").module()
    np.testing.assert_allclose(program(torch.from_numpy(observations))[0].numpy(), found, rtol=1e-5, atol=1e-5)
    if kind is CommFormer:
        with Decentralised(team) as apart:
            np.testing.assert_allclose(apart.act(observations), found, rtol=1e-5, atol=1e-4)


def test_artefacts_and_checkpoints_of_before_act_in_the_units_of_their_environment(tmp_path: Path):
    torch.manual_seed(1)
    learner = learner_on(0.0, 100.0)
    learner.policy.spec = dataclasses.replace(learner.policy.spec, agent_low=(), agent_high=())
    save_team(tmp_path, learner.policy, fixed_graph("full", 2), learner.policy.spec, program=False)
    config = json.loads((tmp_path / "config.json").read_text())
    for name in ("agent_low", "agent_high"):
        del config["spec"][name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert (abs(load_team(tmp_path).act(np.ones((2, 4), np.float32))) < 5).all()
    state = learner.state_dict()
    del state["acts_in"]
    resumed = learner_on(0.0, 100.0)
    resumed.load_state_dict(state)
    assert resumed.policy.spec.agent_low == ()
    assert [resumed.step()] == [learner.step()]
