"""Whole runs of policies on data as others write them: dictionaries, cuts that are told, changed and refused files."""

from __future__ import annotations

import warnings

import gymnasium
import h5py
import minari
import numpy as np
import pytest
import yaml
from minari.data_collector import EpisodeBuffer
from tests.commands.run_files import lines

from manyone.policies import load_policy

SMALL = ("--steps", 4, "--batch-size", 3, "--width", 8, "--horizon", 5, "--eval-episodes", 2)
BOX = gymnasium.spaces.Box(-1, 1, (2,), np.float32)


class Reaching(gymnasium.Env):
    """Gymnasium-Robotics' kind of environment, without render_mode; every step is a success."""

    observation_space = gymnasium.spaces.Dict(observation=BOX, desired_goal=BOX, achieved_goal=BOX)
    action_space = BOX

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._seen(), {}

    def step(self, action):
        return self._seen(), 1.0, False, False, {"is_success": True}

    def _seen(self):
        return {key: self.np_random.uniform(-1, 1, 2).astype(np.float32) for key in self.observation_space}


@pytest.fixture
def reaching(monkeypatch, tmp_path):
    """The options that name a Minari data set of a registered environment."""
    registered = gymnasium.envs.registration.EnvSpec("Reach2d-v0", Reaching, max_episode_steps=6)
    monkeypatch.setitem(gymnasium.registry, "Reach2d-v0", registered)
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    draws = np.random.default_rng(0)
    buffers = [
        EpisodeBuffer(
            observations={key: draws.uniform(-1, 1, (7, 2)).astype(np.float32) for key in Reaching.observation_space},
            actions=draws.uniform(-1, 1, (6, 2)).astype(np.float32),
            rewards=np.ones(6),
            terminations=np.zeros(6, bool),
            truncations=np.arange(6) == 5,
            infos={"is_success": np.arange(7) == 6},
        )
        for _ in range(3)
    ]
    with warnings.catch_warnings(action="ignore"):
        minari.create_dataset_from_buffers(
            "reach/mine-v0", buffers, observation_space=Reaching.observation_space, action_space=BOX
        )
    return ("--data", "gym:Reach2d-v0=reach/mine-v0", "--keys", "observation,desired_goal")


def test_dictionary_observations_are_read_played_and_acted_on_by_the_same_keys(manyone, tmp_path, reaching):
    code, _, err = manyone("run", "mtbc", *reaching, *SMALL, "--out", "r")
    assert code == 0, err
    task = "gym:Reach2d-v0?keys=observation,desired_goal"
    assert f"data of {task}: 3 episodes, 18 steps, return 6 to 6 (median 6), success 1.00" in err
    assert lines(tmp_path / "r/metrics.jsonl")[-1][f"success/{task}"] == 1
    assert manyone("eval", "r")[0] == 0
    policy = load_policy("r/model")
    env = gymnasium.make("Reach2d-v0")
    observation, _ = env.reset(seed=0)
    actions = []
    for name, seen in (
        ("gym:Reach2d-v0", observation),
        (task, np.r_[observation["observation"], observation["desired_goal"]]),
    ):
        policy.reset(name)
        actions.append(policy.act(seen))
    np.testing.assert_array_equal(*actions)
    assert "a dictionary with observation, desired_goal, achieved_goal" in manyone("run", "mtbc", *reaching[:2])[2]


def test_a_policy_of_data_alone_knows_the_keys_too(manyone, tmp_path, reaching):
    words = ("--data", "robot=reach/mine-v0", *reaching[2:], "--no-simulator", *SMALL[:-4])
    code, _, err = manyone("run", "mtbc", *words, "--out", "r")
    assert code == 0, err
    policy = load_policy(tmp_path / "r/model")
    policy.reset("robot")
    assert policy.act({key: np.zeros(2, np.float32) for key in Reaching.observation_space}).shape == (2,)


def old_d4rl(path, rewards):
    states = np.arange(39.0).reshape(13, 3)
    states[7:] += 100
    following = states[1:].copy()
    following[6] -= 100
    with h5py.File(path, "w") as file:
        for key, value in (("observations", states[:-1]), ("next_observations", following), ("rewards", rewards)):
            file[key] = value
        file["actions"] = np.linspace(-2, 2, 12)[:, None]
        file["terminals"] = np.arange(12) == 11


def test_a_run_says_what_it_cut_and_notices_changed_data_from_anywhere(manyone, tmp_path, monkeypatch):
    old_d4rl(tmp_path / "swing.hdf5", np.ones(12))
    words = ("--data", "gym:Pendulum-v1=swing.hdf5", *SMALL, "--checkpoint-every", 2)
    code, _, err = manyone("run", "mtbc", *words, "--out", "r")
    assert code == 0, err
    assert "2 episodes, 12 steps" in err
    assert "1 episode cuts where next_observations do not join the next row" in err
    config = yaml.safe_load((tmp_path / "r/config.yaml").read_text())
    assert config["options"]["data"] == [f"gym:Pendulum-v1={tmp_path / 'swing.hdf5'}"]
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert manyone("eval", "../r")[0] == 0
    old_d4rl(tmp_path / "swing.hdf5", np.arange(12.0))
    (tmp_path / "r/done").unlink()  # as if it had been interrupted
    for verb in ("eval", "resume"):
        code, _, err = manyone(verb, "../r")
        assert code == 2
        assert "--data gym:Pendulum-v1: the data are not those that" in err
        assert len(err.strip().splitlines()) == 1


def test_data_info_shows_own_data_and_fetches_nothing(manyone, tmp_path, reaching, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    old_d4rl(tmp_path / "swing.hdf5", np.ones(12))
    code, out, err = manyone("data", "info", "swing.hdf5")
    assert code == 0, err
    assert "2, of 5 to 7 steps" in out
    assert "1 episode cuts where next_observations do not join the next row" in out
    out = manyone("data", "info", "reach/mine-v0", "--keys", "observation,desired_goal")[1]
    assert "4, 2 wide" in out
    assert "observation, desired_goal" in out
    code, out, _ = manyone("data", "info", "text")
    assert code == 0
    assert "fetch them by: manyone data get text" in out
    assert "--keys is an option of `manyone data info`" in manyone("data", "get", "text", "--keys", "a")[2]


@pytest.mark.parametrize("recipe", ["mtbc", "task-dt"])
def test_variants_of_an_environment_are_tasks_of_their_own(manyone, tmp_path, recipe):
    old_d4rl(tmp_path / "swing.hdf5", np.ones(12))
    words = [f"gym:Pendulum-v1?g={g}={tmp_path / 'swing.hdf5'}" for g in (5, 10)]
    net = () if recipe == "mtbc" else ("--heads", 2, "--layers", 1)
    code, _, err = manyone("run", recipe, "--data", *words, *SMALL, *net, "--out", "r")
    assert code == 0, err
    assert {"return/gym:Pendulum-v1?g=5", "return/gym:Pendulum-v1?g=10"} <= set(lines(tmp_path / "r/metrics.jsonl")[-1])
    if recipe == "task-dt":
        assert (tmp_path / "r/model/gym-Pendulum-v1-g=5/model.safetensors").is_file()


def test_data_of_the_shipped_experts_are_made_shown_and_trained_on(manyone, tmp_path):
    code, out, err = manyone("data", "make", "mujoco-hopper-medium@60", "--workers", 1)
    assert code == 0, err
    assert "gym:Hopper-v5" in out
    out = " ".join(manyone("data", "info", "mujoco-hopper-medium@60")[1].split())
    for words in ("60 transitions a task", "made here with the package's own policies", "1 of 1 tasks"):
        assert words in out
    options = ("--suite", "mujoco-hopper", "--quality", "expert", "--episodes", 2, "--workers", 1)
    code, _, err = manyone("run", "mtbc", *options, *SMALL, "--out", "r")
    assert code == 0, err
    metrics = lines(tmp_path / "r/metrics.jsonl")[-1]
    assert metrics["normalised"] == pytest.approx((metrics["return"] + 20.272305) / (3234.3 + 20.272305))
    assert manyone("run", "mtbc", "--suite", "mujoco-hopper", "--out", "x")[2] == (
        "manyone: unknown data set 'mujoco-hopper-near': did you mean mujoco-hopper-expert or mujoco-hopper-random or "
        "mujoco-hopper-medium?\n"
    )


def test_a_policy_of_discrete_actions_gives_a_number_to_each_of_them(manyone, tmp_path):
    with h5py.File(tmp_path / "cart.hdf5", "w") as file:
        draws = np.random.default_rng(0)
        file["observations"], file["rewards"] = draws.normal(size=(40, 4)), np.ones(40)
        file["actions"], file["timeouts"] = draws.integers(0, 2, 40), np.arange(40) % 10 == 9
    out = manyone("data", "info", "cart.hdf5", "--data-choices", 2)[1]
    assert "one of 2 actions" in out
    code, _, err = manyone("run", "mtbc", "--data", "gym:CartPole-v1=cart.hdf5", *SMALL, "--workers", 1, "--out", "r")
    assert code == 0, err
    assert lines(tmp_path / "r/metrics.jsonl")[-1]["return"] == 5
    policy = load_policy("r/model")
    policy.reset("gym:CartPole-v1")
    assert np.asarray(policy.act(np.zeros(4))).shape == (2,)
    assert "its actions are whole numbers" in manyone("data", "info", "cart.hdf5")[2]
