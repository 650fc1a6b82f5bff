"""Augmented random search and linear roll-outs: hand-made figures, independence of the pieces, improvement."""

import numpy as np
import pytest

from manyone.envs.single import linear, search, stepping
from manyone.envs.single.pieces import runner
from manyone.envs.single.search import Search, Teachers
from manyone.errors import ManyoneError


class Pointmass:
    """A point on a line that is to be brought to 0: state (x, 1), reward -x^2, plus a bonus for survival."""

    def reset(self, seed):
        self.x, self.t = np.random.default_rng(seed).uniform(-1, 1), 0
        return self.state(), {}

    def state(self):
        return np.array([self.x, 1.0])

    def step(self, action):
        self.x, self.t = self.x + 0.3 * float(action[0]), self.t + 1
        ended = abs(self.x) > 3
        return self.state(), 1.0 - self.x**2, ended, False, {"reward_survive": 1.0}


@pytest.fixture
def pointmass(monkeypatch):
    from manyone.envs.single import make as build

    monkeypatch.setattr(stepping, "batched", lambda task: None)
    monkeypatch.setattr(stepping, "_built", lambda task, count, horizon: [Pointmass() for _ in range(count)])
    monkeypatch.setattr(build, "spaces", lambda task: (2, 1, 20))
    monkeypatch.setattr(build, "bounds", lambda task: (-np.ones(1), np.ones(1)))


SMALL = Search(iterations=25, directions=6, top=3, step_size=0.1, noise=0.1, horizon=12)


def test_update_agrees_with_a_hand_made_example():
    delta = np.array([[[1.0, 0.0]], [[0.0, 1.0]], [[5.0, 5.0]]])
    plus, minus = np.array([4.0, 0.0, 0.5]), np.array([1.0, 2.0, 0.5])
    settings = Search(directions=3, top=2, step_size=0.5)
    # kept: directions 0 (max 4) and 1 (max 2); differences 3 and -2; returns 4, 0, 1, 2 with deviation sqrt(2.1875)
    expected = 0.5 / (2 * np.sqrt(2.1875)) * np.array([[3.0, -2.0]])
    np.testing.assert_allclose(search.update(delta, plus, minus, settings), expected)
    assert not search.update(delta, np.ones(3), np.ones(3), settings).any()


def test_search_improves_and_does_not_depend_on_the_pieces(pointmass, monkeypatch):
    with runner(1) as run:
        told = []
        found = search.search("point", SMALL, 0, run, told.append)
        assert sum(told) == SMALL.steps
        assert found.scores[-5:].mean() > 0.4 * found.scores[0]  # returns are negative: less than half the cost
        assert found.weights.shape == (26, 1, 2)
        monkeypatch.setattr(search, "_PIECE", 1)
        again = search.search("point", SMALL, 0, run)
        other = search.search("point", SMALL, 1, run)
    np.testing.assert_array_equal(found.weights, again.weights)
    np.testing.assert_array_equal(found.means, again.means)
    assert not np.array_equal(found.weights, other.weights)


def test_a_search_goes_on_from_another_one(pointmass):
    with runner(1) as run:
        found = search.search("point", SMALL, 0, run)
        onward = search.search("point", SMALL, 1, run, start=found)
    np.testing.assert_array_equal(onward.weights[0], found.weights[-1])
    np.testing.assert_array_equal(onward.means[0], found.means[-1])
    assert found.counts[0] == 0
    assert onward.counts[0] == found.counts[-1]
    assert onward.counts[-1] > 1.9 * found.counts[-1]
    # the statistics are those of all states of both searches
    assert onward.means[-1, 1] == pytest.approx(1)
    assert onward.scores.mean() > found.scores.mean()


def test_normalisation_uses_all_states_seen_before(pointmass):
    with runner(1) as run:
        found = search.search("point", SMALL, 0, run)
    assert found.means[0].tolist() == [0, 0]
    assert found.deviations[0].tolist() == [1, 1]
    assert found.means[1:, 1].tolist() == pytest.approx([1.0] * 25)
    assert found.deviations[1:, 1].tolist() == [1.0] * 25  # a constant dimension is left alone


def test_searched_teachers_are_kept_and_searched_again_only_for_other_settings(pointmass, tmp_path, monkeypatch):
    file = tmp_path / "teachers.npz"
    with runner(1) as run:
        found = search.teachers(file, "point", SMALL, 0, run, lambda steps: None)
        monkeypatch.setattr(search, "search", lambda *_: pytest.fail("searched again"))
        told = []
        again = search.teachers(file, "point", SMALL, 0, run, told.append)
        assert told == [SMALL.steps]
        np.testing.assert_array_equal(found.weights, again.weights)
        monkeypatch.setattr(search, "search", lambda *_: found)
        file.write_bytes(file.read_bytes()[:100])
        search.teachers(file, "point", SMALL, 0, run, lambda steps: None)
        assert np.load(file)["weights"].shape == found.weights.shape


def test_qualities_choose_better_teachers_later():
    scores = np.array([0.0, 3.0, 1.0, 5.0, 4.0, 9.0, 8.0, 10.0, 2.0, 2.0, 2.0])
    found = Teachers(*(np.zeros((11, 1)),) * 3, scores, np.ones(11))
    assert search.choose(found, "near", 1.0) == (7, 0.0)
    assert search.choose(found, "near", 0.0) == (7, 0.1)
    assert search.choose(found, "sub", 0.0) == (0, 0.3)
    assert search.choose(found, "sub", 1.0) == (5, 0.15)
    picked = [scores[search.choose(found, "sub", q)[0]] for q in np.linspace(0, 1, 30)]
    assert picked == sorted(picked)


def test_an_ended_episode_leaves_the_batch(pointmass):
    weights = np.array([[[0.0, 1.0]], [[0.0, 0.0]]])
    played = linear.episodes("point", weights, np.zeros(2), np.ones(2), [0, 0], 15)
    assert played[0]["terminated"]
    assert len(played[0]["rewards"]) == len(played[0]["observations"]) - 1 < 15
    assert played[0]["survival"] == len(played[0]["rewards"])
    assert not played[1]["terminated"]
    assert len(played[1]["rewards"]) == 15
    found = linear.returns("point", weights, np.zeros(2), np.ones(2), [0, 0], 15)
    assert found["returns"] == pytest.approx([p["rewards"].sum() - len(p["rewards"]) for p in played])
    assert found["counts"].tolist() == [len(played[0]["rewards"]), 15]
    paid = linear.returns("point", weights, np.zeros(2), np.ones(2), [0, 0], 15, survival=True)
    assert paid["returns"] == pytest.approx([p["rewards"].sum() for p in played])


@pytest.mark.parametrize("task", ["cheetah-vel:3", "ant-dir:2"])
def test_roll_outs_side_by_side_equal_single_ones(task):
    pytest.importorskip("mujoco")
    from manyone.envs.single.make import spaces

    state_dim, action_dim, _ = spaces(task)
    rng = np.random.default_rng(0)
    weights, mean = rng.normal(size=(3, action_dim, state_dim)), rng.normal(size=(3, state_dim))
    deviation, seeds, noise = np.ones((3, state_dim)), [5, 6, 7], [0.0, 0.1, 0.3]
    together = linear.episodes(task, weights, mean, deviation, seeds, 6, noise)
    for i, one in enumerate(together):
        part = slice(i, i + 1)
        alone = linear.episodes(task, weights[part], mean[part], deviation[part], seeds[part], 6, noise[part])[0]
        for key in ("observations", "actions", "rewards"):
            np.testing.assert_array_equal(alone[key], one[key])


def test_locomotion_data_are_made_from_a_search(monkeypatch, tmp_path):
    pytest.importorskip("mujoco")
    from manyone.envs.single import collect

    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path))
    tiny = Search(iterations=2, directions=2, top=1, horizon=5)
    monkeypatch.setitem(search.SETTINGS, "cheetah-dir", tiny)
    monkeypatch.setattr(collect, "_PIECE", 2)
    seen = []
    data = collect.make_offline("cheetah-dir-near@3x6", workers=1, progress=lambda *words: seen.append(words))
    assert [one.name for one in data] == ["cheetah-dir:0", "cheetah-dir:1"]
    assert data[0].lengths.tolist() == [6, 6, 6]
    assert data[0].successes is None
    assert seen[-1] == (2 * (tiny.steps + 18),) * 2
    monkeypatch.setattr(search, "search", lambda *_: pytest.fail("searched again"))
    sub = collect.make_offline("cheetah-dir-sub@3x6", workers=1)
    assert not np.array_equal(sub[0].actions, data[0].actions)


def test_wrong_settings_are_refused():
    with pytest.raises(ManyoneError, match="1 <= top <= directions"):
        Search(top=20)
    with pytest.raises(ManyoneError, match="above 0"):
        Search(noise=0)
