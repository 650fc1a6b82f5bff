"""Meta-World's ML1: the goal is hidden from observations and from data, and still is where it should be."""

import numpy as np
import pytest

pytest.importorskip("metaworld")

from manyone.envs.single import make as build
from manyone.envs.single import metaworld, ml1, scripted


def test_an_episode_is_the_tasks_at_that_goal_without_the_goals_place():
    hidden, seen = build.make_env("ml1-reach:11"), build.make_env("reach-v3", 11)
    first, whole = hidden.reset(seed=1)[0], seen.reset(seed=1)[0]
    action = np.array([0.5, -0.2, 0.1, 0], np.float32)
    (after, reward, *_, info), (after_whole, same, *_, told) = hidden.step(action), seen.step(action)
    for one, other in ((first, whole), (after, after_whole)):
        np.testing.assert_array_equal(one[:36], other[:36])
        assert not one[ml1.GOAL].any()
        assert other[ml1.GOAL].all()
    assert (reward, info["success"]) == (same, told["success"])
    assert build.spaces("ml1-pick-place:0") == (39, 4, 500)
    assert list(build.goals("ml1-reach:11")) == [0]


def test_preparing_draws_the_goals_of_the_task_behind(monkeypatch):
    drawn = []
    monkeypatch.setattr(metaworld, "prepare", drawn.extend)
    build.prepare(["ml1-reach:1", "ml1-reach:2", "door-open", "point-robot:0", "ml1-pick-place:0"])
    assert drawn == ["reach-v3", "door-open-v3", "pick-place-v3"]


@pytest.mark.parametrize("quality", ["expert", "medium", "random"])
def test_scripted_policies_see_the_goal_that_the_data_hide(quality):
    (played,) = scripted.play("ml1-reach:3", quality, [1], [5], episodes=2, steps=60)
    assert not played["observations"][:, ml1.GOAL].any()
    assert played["goal"] == 0
    assert played["success"] == (quality == "expert")
    env = build.make_env("ml1-reach:3")  # played back
    np.testing.assert_array_equal(np.float32(env.reset()[0]), played["observations"][0])
    states = [env.step(action)[0] for action in played["actions"]]
    np.testing.assert_array_equal(np.float32(states), played["observations"][1:])


def test_random_is_uniform_and_medium_has_less_noise_where_things_are_picked_up():
    (played,) = scripted.play("ml1-pick-place:3", "random", [0], [5], episodes=1, steps=100)
    assert np.abs(played["actions"]).max() < 1
    assert abs(played["actions"].mean()) < 0.15
    assert scripted.noise_levels("medium", 0, "ml1-pick-place:3") < scripted.noise_levels("medium", 0, "ml1-reach:3")
