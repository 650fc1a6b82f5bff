import dataclasses
import logging

import numpy as np
import pytest
import torch
from tests.behavior.conftest import trajectories

from manyone.behavior.data import behavior_data
from manyone.data.trajectories.trajectories import Trajectories
from manyone.errors import ManyoneError


def test_states_are_standardised_with_a_floor_and_back(data):
    raw = torch.from_numpy(np.asarray(trajectories().observations))
    torch.testing.assert_close(data.deviation, raw.std(0, correction=0) + 1e-3)
    torch.testing.assert_close(data.states, (raw - raw.mean(0)) / data.deviation, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(data.observations(data.normalise(raw)), raw, atol=1e-5, rtol=1e-5)


def test_a_constant_dimension_stays_finite():
    one = trajectories()
    seen = np.array(one.observations)
    seen[:, 2] = 7.0
    data = behavior_data(dataclasses.replace(one, observations=seen))
    assert torch.isfinite(data.states).all()
    assert data.deviation[2] == pytest.approx(1e-3)
    assert torch.isfinite(data.normalise(torch.full((5,), 8.0))).all()


def test_rows_know_their_successor_and_their_episode(data):
    one = trajectories()
    ends = one.offsets[1:] - 1
    inside = np.setdiff1d(np.arange(len(one)), ends)
    torch.testing.assert_close(data.next_states[inside], data.states[inside + 1])
    final = data.normalise(torch.from_numpy(np.array(one.final_observations)))
    torch.testing.assert_close(data.next_states[ends], final, atol=1e-5, rtol=1e-5)
    assert data.has_next.all()
    assert data.terminals.nonzero()[:, 0].tolist() == ends[::2].tolist()
    assert data.returns[:9].tolist() == [pytest.approx(float(one.returns[0]))] * 9
    assert data.first.tolist() == one.offsets[:-1].tolist()


def test_without_final_observations_the_last_step_has_no_successor():
    one = dataclasses.replace(trajectories(), final_observations=None)
    data = behavior_data(one)
    cut = one.offsets[1:][~one.terminated] - 1
    assert (~data.has_next).nonzero()[:, 0].tolist() == cut.tolist()


def test_actions_are_within_the_bounds_given_or_found(caplog):
    wide = behavior_data(trajectories(scale=3.0))
    assert wide.actions.min() == pytest.approx(-1)
    assert wide.actions.max() == pytest.approx(1)
    raw = torch.from_numpy(np.asarray(trajectories(scale=3.0).actions))
    torch.testing.assert_close(wide.own_actions(wide.actions), raw, atol=1e-5, rtol=1e-5)
    with caplog.at_level(logging.WARNING, "manyone"):
        half = behavior_data(trajectories(), bounds=(np.full(2, -0.5, np.float32), np.full(2, 0.5, np.float32)))
    assert "beyond the bounds and are clipped" in caplog.text
    assert half.actions.abs().max() == 1
    assert wide.own_actions(torch.full((1, 2), 9.0)).tolist() == [wide.high.tolist()]


def test_infinite_bounds_are_the_data_s_own():
    data = behavior_data(trajectories(scale=3.0), bounds=(np.full(2, -np.inf), np.full(2, np.inf)))
    assert data.high.max() <= 3


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"actions": np.full((108, 2), 2, np.float32)}, "walks: action 0 is always 2"),
        ({"bounds": (np.zeros(3), np.ones(3))}, r"actions of width 2, but bounds of shapes \[3\] and \[3\]"),
        ({"bounds": (np.zeros(2), np.ones(3))}, r"but bounds of shapes \[2\] and \[3\]"),
        ({"bounds": (-2.0, 2.0)}, r"but bounds of shapes \[\] and \[\]"),
        ({"bounds": ([-2, 2], [2, -2])}, "action 1 has the bounds 2 and -2"),
        ({"bounds": ([-2, np.nan], [2, 2])}, "action 1 has the bounds nan and 2"),
    ],
)
def test_what_cannot_be_distilled_is_said(change, words):
    one, bounds = trajectories(scale=3.0), change.pop("bounds", None)
    with pytest.raises(ManyoneError, match=words):
        behavior_data(dataclasses.replace(one, **change) if change else one, bounds=bounds)


@pytest.mark.parametrize("horizon", [0, -5, 2.5, "9", float("nan")])
def test_a_horizon_is_a_number_of_steps(horizon):
    with pytest.raises(ManyoneError, match="must be a whole number from 1"):
        behavior_data(trajectories(), horizon=horizon)


def test_one_transition_is_too_few():
    one = Trajectories.from_episodes("one", [{"observations": np.zeros((2, 3)), "actions": np.zeros((1, 1)),
                                              "rewards": np.zeros(1)}])  # fmt: skip
    with pytest.raises(ManyoneError, match="one: 1 transition: a data set to distil needs at least 2"):
        behavior_data(one)


def test_discrete_actions_have_no_bounds(discrete):
    assert (discrete.choices, discrete.action_dim, discrete.low) == (3, 3, None)
    assert (discrete.actions.sum(1) == 1).all()
    assert discrete.own_actions(discrete.actions) is discrete.actions


def test_the_best_episodes(data):
    chosen = data.best(0.25)
    kept = set(chosen.episode.tolist())
    assert len(kept) == 3
    others = [r for e, r in zip(data.episode.tolist(), data.returns.tolist(), strict=True) if e not in kept]
    assert chosen.returns.min() >= max(others)
    assert chosen.mean is data.mean
    again = set(chosen.best(0.34).episode.tolist())  # the numbers of its episodes have gaps
    assert len(again) == 1
    assert again == {int(chosen.episode[chosen.returns.argmax()])}


def test_other_data_have_another_digest(data):
    assert behavior_data(trajectories()).digest == data.digest
    assert behavior_data(trajectories(seed=1)).digest != data.digest
