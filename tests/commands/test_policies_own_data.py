"""Policy recipes on own data in an environment whose actions are not from -1 to 1."""

from __future__ import annotations

import numpy as np
import pytest
from examples.own_data import control, main
from tests.commands.run_files import lines

from manyone.evaluation.rollouts import paired_episodes, rollout
from manyone.policies import load_policy

TASK = "gym:Pendulum-v1"


class Controller:
    """The controller of the data, in the roll-outs' form."""

    def start(self, episodes):
        pass

    def act(self, slots, observations):
        return np.stack([control(o) for o in observations])

    def reward(self, slots, rewards):
        pass


@pytest.fixture(scope="session")
def pendulum(shared_cache):
    """The folder of the controller's episodes."""
    folder = shared_cache / "pendulum"
    if not folder.exists():
        main(str(folder))
    return folder


def test_cloned_own_data_with_torques_up_to_two_reach_their_controllers_return(manyone, tmp_path, pendulum):
    words = ("--steps", 2000, "--batch-size", 128, "--lr", 3e-3, "--workers", 1, "--out", "r")
    code, _, err = manyone("run", "mtbc", "--data", f"{TASK}={pendulum}", *words)
    assert code == 0, err
    episodes = paired_episodes([TASK], 10)
    wanted = np.array([result.return_ for result in rollout(Controller(), episodes, workers=0)])
    found = np.array([episode["return"] for episode in lines(tmp_path / "r/episodes.jsonl")])
    assert np.abs(found - wanted).max() < 10, "as good as its controller in every single episode"
    assert wanted.mean() > -130
    loaded = rollout(load_policy(tmp_path / "r/model").batched, episodes, workers=0)
    np.testing.assert_allclose([result.return_ for result in loaded], found, atol=0.5)


def test_without_the_bounds_the_controllers_return_is_out_of_reach(manyone, tmp_path, pendulum):
    """What runs of earlier versions did, and still do when they are resumed: torques end at 1."""
    words = ("--steps", 20, "--action-range", "unit", "--workers", 1, "--out", "r")
    assert manyone("run", "mtbc", "--data", f"{TASK}={pendulum}", *words)[0] == 0
    policy = load_policy(tmp_path / "r/model")
    assert policy.table.bounds is None
    config = tmp_path / "r/config.yaml"
    assert "action_range: unit\n" in config.read_text()
    config.write_text(config.read_text().replace("  action_range: unit\n", ""))  # as an earlier version wrote it
    final = lines(tmp_path / "r/metrics.jsonl")[-1]["return"]
    code, out, err = manyone("eval", "r")
    assert code == 0, err
    assert f"{final:.6g}" in out
