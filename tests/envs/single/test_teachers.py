"""Tasks that contradict each other: dynamics, rewards, pictures, and the policies that make their data."""

import numpy as np
import pytest

pytest.importorskip("gymnasium")

from manyone.envs.single import collect, teachers
from manyone.envs.single import make as build
from manyone.errors import ManyoneError


def test_an_episode_by_the_equations():
    env = build.make_env("teachers:4", horizon=2)
    w, b = teachers.teacher_of("teachers:4"), teachers.effects()
    state, _ = env.reset(seed=3)
    action = np.array([3.0, -0.5, 0.25], np.float32)
    draws = np.random.default_rng(3)
    np.testing.assert_array_equal(state, draws.standard_normal(6))
    seen, reward, terminated, truncated, info = env.step(action)
    taken = np.array([1, -0.5, 0.25])
    np.testing.assert_allclose(seen, 0.85 * state + 0.4 * b @ taken + 0.15 * draws.standard_normal(6))
    assert reward == pytest.approx(1 - ((taken - np.tanh(w @ state)) ** 2).sum() / 3)
    assert (terminated, truncated, info) == (False, False, {})
    assert env.step(action)[3]
    assert build.spaces("teachers:0") == (6, 3, 20)


def test_tasks_differ_in_their_teacher_alone():
    first, last = (build.make_env(f"teachers:{i}") for i in (0, 49))
    np.testing.assert_array_equal(first.reset(seed=1)[0], last.reset(seed=1)[0])
    one, other = (env.step(np.ones(3, np.float32)) for env in (first, last))
    np.testing.assert_array_equal(one[0], other[0])
    assert one[1] != other[1]
    every = np.array([teachers.teacher_of(f"teachers:{i}").ravel() for i in range(50)])
    cosines = every @ every.T / np.outer(*2 * (np.linalg.norm(every, axis=1),))
    assert abs((cosines.sum() - 50) / (50 * 49)) < 0.02
    assert every.std() == pytest.approx(1.2, abs=0.1)


def test_episodes_depend_on_their_seed_alone_and_the_noise_ends_at_zero():
    played = {q: teachers.play("teachers:6", q, range(10), range(10), episodes=10, steps=20)
              for q in ("near", "expert", "random")}  # fmt: skip
    alone = teachers.play("teachers:6", "near", [7], [7], episodes=10, steps=20)[0]
    np.testing.assert_array_equal(alone["actions"], played["near"][7]["actions"])
    near, expert, random = (np.array([one["rewards"].sum() for one in played[q]]) for q in played)
    np.testing.assert_allclose(expert, 20, atol=1e-5)
    assert near[-1] == pytest.approx(20, abs=1e-5)
    assert near[0] < near[5] < near[-1]
    assert random.mean() == pytest.approx(teachers.references("teachers:6", 20)[0], abs=3)
    assert teachers.references("teachers:6", 20)[1] == 20


def test_made_data_say_what_their_scores_count_from(monkeypatch, tmp_path):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path))
    data = collect.make_offline("teachers-4-near@3x20", workers=1)
    assert [one.name for one in data] == [f"teachers:{i}" for i in range(4)]
    assert data[0].meta["reference"] == list(teachers.references("teachers:0", 20))
    assert "synthetic" in data[0].meta["licence"]
    assert data[0].meta["made_with"].keys() == {"gymnasium", "numpy"}
    with pytest.raises(ManyoneError, match="did you mean teachers-"):
        collect.make_offline("teachers-4-medium")


def test_the_picture_has_a_bar_for_each_number():
    env = build.make_env("teachers:9", render_mode="rgb_array", width=60, height=40)
    state, _ = env.reset(seed=0)
    env.step(np.array([1, -1, 0], np.float32))
    picture = env.render()
    assert picture.shape == (40, 60, 3)
    wanted = np.tanh(teachers.teacher_of("teachers:9") @ state)
    blue, red = ((picture == colour).all(-1) for colour in ((40, 90, 200), (220, 60, 50)))
    assert blue[:20].any(0).sum() == blue[21:].any(0).sum() == 8
    above = [red[:19, left : left + 20].any() for left in (0, 20, 40)]
    assert above == [value > 0.1 for value in wanted]
