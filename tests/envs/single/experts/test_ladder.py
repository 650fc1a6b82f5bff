"""The shipped policies: what the files hold, networks against plain loops, and which one is medium or expert."""

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from manyone.data.trajectories.references import normalised_score
from manyone.envs.single import make
from manyone.envs.single.experts import ladder as module
from manyone.envs.single.experts.ladder import ladder, path_of, rounded
from manyone.envs.single.experts.pack import write
from manyone.errors import ManyoneError

BODIES = [body for body in make.BODIES if path_of(body).exists()]


def checkpoint(seed, states=3, actions=2, width=4):
    """What training saves: torch's layouts."""
    rng = np.random.default_rng(seed)
    sizes = {"0": (width, states), "2": (width, width), "4": (actions, width)}
    one = {f"actor.{k}.weight": rng.normal(size=s) for k, s in sizes.items()}
    one |= {f"actor.{k}.bias": rng.normal(size=s[0]) for k, s in sizes.items()}
    for i, (a, b) in enumerate([(states + actions, width), (width, width), (width, 1)]):
        one |= {f"critics.weights.{i}": rng.normal(size=(2, a, b)), f"critics.biases.{i}": rng.normal(size=(2, 1, b))}
    one |= {"mean": rng.normal(size=states), "deviation": rng.uniform(1, 2, states)}
    return {key: value.astype(np.float32) for key, value in one.items()}


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A file of three small policies in the place of Hopper's."""
    checkpoints = [checkpoint(i) for i in range(3)]
    monkeypatch.setattr(module, "path_of", lambda body: tmp_path / f"{body}.safetensors")
    info = {"settings": {"layer_norm": True}, "seed": 0, "episodes": 1}
    write(tmp_path / "hopper.safetensors", checkpoints, [10, 20, 30], [100, 3000, 200], [100, 2000, 1200], info)
    ladder.cache_clear()
    yield checkpoints
    ladder.cache_clear()


def test_what_is_written_is_read_rounded_with_the_best_one_s_critics(made):
    found = ladder("hopper")
    assert (found.steps, found.returns, found.noisy_returns) == ((10, 20, 30), (100, 3000, 200), (100, 2000, 1200))
    assert (found.task, found.expert, found.medium) == ("gym:Hopper-v5", 1, 2)
    assert found.info["seed"] == 0
    observations, actions = np.random.default_rng(9).normal(size=(2, 5, 3))
    actions = actions[:, :2]
    for one, actor in zip(made, found.actors, strict=True):
        arrays = {key: torch.tensor(value.astype(np.float32)) for key, value in rounded(one).items()}
        x = (torch.tensor(observations, dtype=torch.float32) - arrays["mean"]) / arrays["deviation"]
        for layer in ("0", "2", "4"):
            x = torch.nn.functional.linear(x, arrays[f"actor.{layer}.weight"], arrays[f"actor.{layer}.bias"])
            x = x.tanh() if layer == "4" else x.relu()
        np.testing.assert_allclose(actor.actions(observations), x, rtol=1e-5, atol=1e-6)
        assert not torch.equal(arrays["actor.0.weight"], torch.tensor(one["actor.0.weight"]))  # float16 in between
    best = {key: torch.tensor(value.astype(np.float32)) for key, value in rounded(made[1]).items()}
    for twin in range(2):
        x = (torch.tensor(observations, dtype=torch.float32) - best["mean"]) / best["deviation"]
        x = torch.cat([x, torch.tensor(actions, dtype=torch.float32)], 1)
        for i in range(3):
            x = x @ best[f"critics.weights.{i}"][twin] + best[f"critics.biases.{i}"][twin]
            x = torch.nn.functional.layer_norm(x, x.shape[-1:]).relu() if i < 2 else x
        np.testing.assert_allclose(found.critics.values(observations, actions)[twin], x[:, 0], rtol=1e-4, atol=1e-5)
    plain = dataclasses.replace(found.critics, layer_norm=False)
    assert not np.allclose(plain.values(observations, actions), found.critics.values(observations, actions))


def test_wrong_bodies_and_files_of_another_version_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ManyoneError, match="no experts of 'ant': there are hopper, halfcheetah, walker2d"):
        path_of("ant")
    monkeypatch.setattr(module, "path_of", lambda body: tmp_path / "new.safetensors")
    save_file({"mean": np.zeros(1)}, tmp_path / "new.safetensors", metadata={"manyone": json.dumps({"format": 9})})
    ladder.cache_clear()
    with pytest.raises(ManyoneError, match=r"new\.safetensors: format 9, this version reads 1"):
        ladder("hopper")


@pytest.mark.parametrize("body", BODIES)
def test_what_is_shipped_is_small_and_climbs_from_bad_to_good(body):
    assert path_of(body).stat().st_size < 500_000
    found = ladder(body)
    states, actions, _ = make.spaces(found.task)
    assert 6 <= len(found.actors) <= 10
    assert list(found.steps) == sorted(found.steps)
    assert found.actors[0].actions(np.zeros((4, states))).shape == (4, actions)
    assert found.critics.values(np.zeros((4, states)), np.zeros((4, actions))).shape == (2, 4)
    scores = normalised_score(np.array(found.returns), found.task)
    noisy = normalised_score(np.array(found.noisy_returns), found.task)
    assert scores.min() < 10
    assert scores[found.expert] == scores.max() > 50
    assert 1 / 4 < noisy[found.medium] / noisy[found.expert] < 1 / 2
    assert found.info["episodes"] >= 10
    assert found.info["script"] == "scripts/train_mujoco_experts.py"
    assert found.info["settings"]["environment"] == make.BODIES[body].removeprefix("gym:")
