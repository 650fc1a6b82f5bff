"""The point with a hidden goal: dynamics, rewards, pictures, and policies of three qualities."""

import math

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from manyone.envs.single import make as build
from manyone.envs.single import point_robot
from manyone.errors import ManyoneError


def test_a_hand_computed_episode():
    env = build.make_env("point-robot:4", horizon=2)
    goal = point_robot.goal_of("point-robot:4")
    assert goal.tolist() == pytest.approx([math.cos(math.pi * 4.5 / 20), math.sin(math.pi * 4.5 / 20)])
    place, _ = env.reset(seed=3)
    assert np.abs(place).max() <= 0.05
    seen, reward, terminated, truncated, info = env.step(np.array([5.0, -0.5], np.float32))
    np.testing.assert_allclose(seen, place + np.array([0.1, -0.05]))
    assert reward == pytest.approx(-math.dist(seen, goal))
    assert (terminated, truncated, info) == (False, False, {"success": 0.0})
    assert env.step(np.zeros(2, np.float32))[3]
    again, _ = env.reset(seed=3)
    np.testing.assert_array_equal(again, place)


def test_goals_lie_on_the_half_circle_and_are_hidden():
    goals = np.array([point_robot.goal_of(f"point-robot:{i}") for i in range(20)])
    np.testing.assert_allclose(np.linalg.norm(goals, axis=1), 1)
    assert (goals[:, 1] > 0).all()
    first, last = (build.make_env(f"point-robot:{i}") for i in (0, 19))
    np.testing.assert_array_equal(first.reset(seed=1)[0], last.reset(seed=1)[0])
    assert build.spaces("point-robot:0") == (2, 2, 20)


def test_qualities_are_ordered_and_episodes_depend_on_their_seed_alone():
    mean = {}
    for quality in ("expert", "medium", "random"):
        played = point_robot.play("point-robot:6", quality, range(40), range(40), 20)
        mean[quality] = np.mean([one["rewards"].sum() for one in played])
        alone = point_robot.play("point-robot:6", quality, [7], [7], 20)[0]
        np.testing.assert_array_equal(alone["actions"], played[7]["actions"])
        assert all(one["success"] for one in played) == (quality == "expert")
    assert mean["expert"] == pytest.approx(-4.4, abs=0.7)
    assert mean["random"] == pytest.approx(-20.2, abs=2)
    assert 0.25 < (mean["medium"] - mean["random"]) / (mean["expert"] - mean["random"]) < 0.55


def test_the_picture_shows_the_point_and_its_goal():
    env = build.make_env("point-robot:9", render_mode="rgb_array", width=80, height=60)
    env.reset(seed=0)
    picture = env.render()
    assert picture.shape == (60, 80, 3)
    red, blue = ((picture == colour).all(-1) for colour in ((220, 60, 50), (40, 90, 200)))
    assert np.argwhere(red)[:, 0].mean() == pytest.approx(30 - 15 * math.sin(math.pi * 9.5 / 20), abs=1)
    assert np.argwhere(blue).mean(0) == pytest.approx([30, 40], abs=1.5)


def test_wrong_arguments():
    with pytest.raises(ManyoneError, match="horizon 0 of point-robot:1"):
        build.make_env("point-robot:1", horizon=0)
    with pytest.raises(ManyoneError, match="goal must be 0"):
        build.make_env("point-robot:1", 2)
