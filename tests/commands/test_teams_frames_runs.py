"""``--frames``: memory on the command line, in training resumed from a checkpoint, in the artefact and the film."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch

from manyone.envs.teams.make import make_team
from manyone.recipes.options import with_preset
from manyone.recipes.table import builder, options_class
from manyone.teams.artefact import load_team
from manyone.teams.recipes.build import team as make_whole

GRID = "predator-prey:size=3,predators=3,vision=0,limit=7"


def test_a_run_with_frames_trains_films_and_leaves_a_team_that_remembers(manyone, tmp_path):
    words = ("--env", GRID, "--envs", 4, "--length", 5, "--width", 16, "--eval-episodes", 6, "--iterations", 2)
    code, out, err = manyone("run", "no-comm", *words, "--frames", 3, "--dry-run")
    assert code == 0, err
    width = make_team(GRID, 1).spec.observation_dim
    assert f"observations of {3 * width} (3 frames)" in out

    code, _, err = manyone("run", "no-comm", *words, "--frames", 3, "--out", "r")
    assert code == 0, err
    assert (tmp_path / "r/episode.gif").read_bytes().startswith(b"GIF8")
    final = json.loads((tmp_path / "r/metrics.jsonl").read_text().splitlines()[-1])
    code, out, err = manyone("eval", "r")
    assert code == 0, err
    assert f"{final['return']:.6g}" in out

    team, env = load_team(tmp_path / "r/model"), make_team(GRID, 6)
    assert team.frames == 3
    seen, returns, running = env.reset(1_000_003), torch.zeros(6), torch.ones(6)
    # a run's test episodes are played four at a time: the first four of them are the first of these slots
    while running.any():
        step = env.step(torch.from_numpy(team.act(seen.observations.numpy())))
        returns += step.rewards.mean(-1) * running
        running *= ~step.done
        team.forget(step.done.numpy())
        seen = step.observation
    episodes = [json.loads(line) for line in (tmp_path / "r/episodes.jsonl").read_text().splitlines()]
    assert np.allclose([e["return"] for e in episodes[:4]], returns[:4], atol=1e-5)


def make_learner(recipe, given):
    return make_whole(with_preset(options_class(recipe), given), builder(recipe)).learner


@pytest.mark.parametrize("recipe", ["commformer", "mappo"])
def test_training_with_frames_goes_on_from_a_checkpoint_bit_for_bit(recipe):
    words = {"env": GRID, "envs": 6, "length": 5, "iterations": 6, "width": 16, "eval_episodes": 4, "frames": 3}
    learner = make_learner(recipe, words)
    for _ in range(2):
        learner.step()
    state = copy.deepcopy(learner.state_dict())
    further = [learner.step() for _ in range(2)]
    again = make_learner(recipe, words)
    again.load_state_dict(state)
    assert [again.step() for _ in range(2)] == further
    for name, value in learner.policy.state_dict().items():
        assert torch.equal(again.policy.state_dict()[name], value), name


@pytest.mark.parametrize("frames", [0, 1001])
def test_a_wrong_number_of_frames_gives_one_line(manyone, frames):
    code, _, err = manyone("run", "no-comm", "--frames", frames, "--out", "r")
    assert code == 2
    assert err.strip() == f"manyone: --frames {frames}: must be from 1 to 1000"
