"""Initialisers: what they choose, that they choose it again, and what they refuse."""

import dataclasses

import numpy as np
import pytest
import torch
from tests.behavior.conftest import trajectories

from manyone.behavior.coresets import INITS, NEEDS_VALUES, initial_pairs
from manyone.behavior.data import behavior_data
from manyone.behavior.teachers.teacher import Labels
from manyone.errors import ManyoneError

RECORDED = ("random", "top-q", "k-means++", "k-means-q")


def labels_of(data, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(len(data), generator=generator)
    actions = data.actions.flip(0)
    return Labels(actions, values, values + 1)


def rows_of(data, states):
    """The row of each state in the data; none is there twice."""
    return [int((data.states == state).all(1).nonzero()) for state in states]


@pytest.mark.parametrize("init", INITS)
def test_pairs_have_their_size_and_are_drawn_again_under_the_same_seed(data, init):
    one, again, other = (initial_pairs(init, data, labels_of(data), 20, seed) for seed in (3, 3, 4))
    assert [list(value.shape) for value in one] == [[20, 5], [20, 2]]
    assert all(torch.equal(a, b) for a, b in zip(one, again))
    assert one[0].isfinite().all()
    assert init == "top-q" or not torch.equal(one[0], other[0])


@pytest.mark.parametrize("init", RECORDED)
def test_recorded_pairs_are_distinct_and_keep_their_actions(data, init):
    states, actions = initial_pairs(init, data, labels_of(data), 20, 0)
    rows = rows_of(data, states)
    assert len(set(rows)) == 20
    assert torch.equal(actions, data.actions[rows])


def test_with_the_teacher_the_states_stay_and_the_actions_are_its(data):
    labels = labels_of(data)
    (states, _), (same, actions) = (initial_pairs(name, data, labels, 20, 7) for name in ("random", "teacher"))
    assert torch.equal(states, same)
    assert torch.equal(actions, labels.actions[rows_of(data, states)])


def test_top_q_takes_the_largest_values_of_the_recorded_actions(data):
    labels = labels_of(data)
    rows = rows_of(data, initial_pairs("top-q", data, labels, 5, 0)[0])
    assert rows == labels.recorded.argsort(descending=True)[:5].tolist()


def blobs(per=40, seed=0):
    """Data with six well-separated groups of states."""
    rng = np.random.default_rng(seed)
    centres = 20 * np.stack([np.cos(np.arange(6)), np.sin(np.arange(6)), np.arange(6)], 1)
    seen = np.repeat(centres, per, 0) + rng.normal(size=(6 * per, 3))
    one = trajectories(episodes=1, steps=6 * per, states=3)
    observations = seen.astype(np.float32)
    return behavior_data(dataclasses.replace(one, observations=observations)), np.repeat(np.arange(6), per)


def test_clusters_are_each_stood_for():
    data, group = blobs()
    labels = labels_of(data)
    best = [int(np.flatnonzero(group == g)[labels.recorded.numpy()[group == g].argmax()]) for g in range(6)]
    rows = rows_of(data, initial_pairs("k-means-q", data, labels, 6, 0)[0])
    assert sorted(rows) == sorted(best)
    assert rows == sorted(rows, key=lambda r: -labels.recorded[r])
    for seed in range(3):
        rows = rows_of(data, initial_pairs("k-means++", data, None, 6, seed)[0])
        assert sorted(group[rows]) == list(range(6))
    drawn = [set(group[rows_of(data, initial_pairs("random", data, None, 6, seed)[0])]) for seed in range(3)]
    assert min(map(len, drawn)) < 6, "random pairs would do as well: the groups show nothing"


def test_states_that_are_there_many_times_do_not_shorten_the_set(data):
    same = dataclasses.replace(data, states=data.states[:4].repeat_interleave(27, 0))
    for init in ("k-means++", "k-means-q"):
        states, _ = initial_pairs(init, same, labels_of(same), 10, 0)
        assert len(states) == 10
        assert len(states.unique(dim=0)) == 4


def test_a_start_can_be_all_of_the_data(data):
    for init in RECORDED:
        states, _ = initial_pairs(init, data, labels_of(data), len(data), 0)
        assert sorted(rows_of(data, states)) == list(range(len(data)))


def test_invented_pairs_have_the_spread_that_they_say(data):
    states, actions = initial_pairs("gaussian", data, None, 4000, 0)
    assert states.std() == pytest.approx(1, abs=0.05)
    assert actions.abs().max() <= 1
    assert actions.std() == pytest.approx(3**-0.5, abs=0.02)
    states, actions = initial_pairs("xavier", data, None, 1000, 0)
    for value in (states, actions):
        bound = (6 / (1000 + value.shape[1])) ** 0.5
        assert 0.95 * bound < value.abs().max() <= bound


@pytest.mark.parametrize("init", INITS)
def test_discrete_actions_are_probabilities(discrete, init):
    labels = labels_of(discrete)
    labels = labels._replace(values=labels.values.unsqueeze(1).repeat(1, 3))
    _, actions = initial_pairs(init, discrete, labels, 8, 0)
    assert actions.shape == (8, 3)
    assert (actions >= 0).all()
    torch.testing.assert_close(actions.sum(1), torch.ones(8))


def test_the_data_are_not_touched(data):
    before = data.states.clone()
    states, actions = initial_pairs("random", data, None, 10, 0)
    states.zero_(), actions.zero_()
    assert torch.equal(data.states, before)


@pytest.mark.parametrize(
    ("init", "labels", "size", "message"),
    [
        ("top", True, 3, "start 'top': did you mean 'top-q'"),
        ("random", True, 0, "size 0: must be a whole number from 1"),
        ("random", True, 500, "500 pairs of 108 recorded transitions: ask for at most 108"),
        ("teacher", False, 3, "give a teacher"),
        *((init, False, 3, "give a teacher with a critic") for init in NEEDS_VALUES),
    ],
)
def test_what_cannot_be_is_said(data, init, labels, size, message):
    with pytest.raises(ManyoneError, match=message):
        initial_pairs(init, data, labels_of(data) if labels else None, size, 0)
