"""The shipped linear policies: what the files tell is what they do, in the order of their returns, for every task."""

import numpy as np
import pytest

pytest.importorskip("mujoco")

from manyone.envs.single import make
from manyone.envs.single.experts import matrices as module
from manyone.envs.single.experts import play
from manyone.envs.single.experts.matrices import NOISE, matrices, path_of
from manyone.errors import ManyoneError

FILES = sorted(path_of("cheetah-dir:0").parent.glob("*.safetensors"))


def tasks_of(file):
    body = make.LINEAR_BODIES.get(file.stem)
    return [body] if body else make.suite_tasks(file.stem)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_task_has_policies_in_the_order_of_their_returns(file):
    tasks = tasks_of(file)
    assert file.stat().st_size < 5000 * len(tasks) + 5000
    for task in tasks:
        found = matrices(task)
        states, actions, _ = make.spaces(task)
        assert found.task == task
        assert len(found.actors) == len(found.steps) == len(found.returns) == len(found.noisy_returns) == 6
        assert {actor.weights.shape for actor in found.actors} == {(actions, states)}
        assert found.random_return < found.returns[found.expert]
        assert found.expert >= 4
        assert 0 <= found.medium < found.expert


@pytest.mark.parametrize("task", ["cheetah-dir:1"])
def test_the_files_tell_what_the_policies_earn(task):
    found = matrices(task)
    horizon = make.spaces(task)[2]
    for told, noise in ((found.returns, 0.0), (found.noisy_returns, NOISE)):
        for number in (found.medium, found.expert):
            played = play.episodes(task, number, range(4), horizon, noise)
            returns = [one["rewards"].sum() for one in played]
            way = found.returns[found.expert] - found.random_return
            assert abs(np.mean(returns) - told[number]) < 0.25 * way
    random = play.episodes(task, None, range(4), horizon, NOISE)
    assert abs(np.mean([one["rewards"].sum() for one in random]) - found.random_return) < 0.15 * way


def test_cheetahs_of_seventeen_and_of_twenty_observations_act_alike():
    (full,), (short,) = (play.episodes(f"{family}:0", 3, [5], 40, NOISE) for family in ("cheetah-dir", "cheetah17-dir"))
    np.testing.assert_array_equal(full["actions"], short["actions"])
    np.testing.assert_array_equal(full["observations"][:, :17], short["observations"])


def test_an_episode_depends_on_its_own_seed_alone():
    together = play.episodes("cheetah-dir:0", 2, [5, 6, 7], 30, NOISE)
    alone = play.episodes("cheetah-dir:0", 2, [7], 30, NOISE)[0]
    for key in ("observations", "actions", "rewards"):
        np.testing.assert_array_equal(alone[key], together[2][key])


def test_tasks_without_policies_say_what_there_is(tmp_path, monkeypatch):
    for task in ("reach-v3", "ml1-reach:0", "gym:Hopper-v5", "gym:Humanoid-v5"):
        with pytest.raises(ManyoneError, match=r"no experts of .* those of .*cheetah-dir"):
            path_of(task)
    with pytest.raises(ManyoneError, match="index after the colon must be 0 to 1"):
        matrices("cheetah-dir:2")
    monkeypatch.setattr(module, "FORMAT", 2)
    matrices.cache_clear()
    with pytest.raises(ManyoneError, match="format 1, this version reads 2; install it anew"):
        matrices("cheetah-dir:1")
    matrices.cache_clear()


def test_a_linear_policy_is_what_its_formula_says():
    actor = module.Linear(np.array([[1.0, 2], [0, 1]]), np.array([1.0, 0]), np.array([2.0, 1]))
    np.testing.assert_allclose(actor.actions(np.array([[2.0, 0.1], [9, 9]])), [[0.7, 0.1], [22, 9]])
