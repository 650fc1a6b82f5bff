"""Values of a teacher against what its own episodes return."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manyone.behavior.artefact import Frame
from manyone.behavior.teachers.calibration import CalibrationPolicy


class Known:
    """Values are the first number of the state times ``factor``."""

    name = "known"

    def __init__(self, factor=1.0, choices=0):
        self.factor, self.choices = factor, choices

    def actions(self, states):
        return torch.nn.functional.one_hot(torch.ones(len(states), dtype=torch.long), 2).float()[:, : self.choices or 1]

    def values(self, states, actions):
        value = self.factor * states[:, 0]
        return torch.stack([value + 100, value], 1) if self.choices else value


def play(policy, lengths, discount):
    """Episodes whose rewards are 1, told the true discounted return of the rest as their state."""
    policy.start(lengths)
    for step in range(max(lengths)):
        slots = np.array([i for i, n in enumerate(lengths) if step < n])
        left = np.array([lengths[i] - step for i in slots])
        true = (1 - discount**left) / (1 - discount)
        policy.act(slots, np.stack([true, 0 * true], 1).astype(np.float32))
        policy.reward(slots, np.ones(len(slots), np.float32))
    return policy.metrics()


def frame(horizon, choices=0):
    bounds = (None, None) if choices else (-torch.ones(1), torch.ones(1))
    return Frame("tiny", None, torch.zeros(2), torch.ones(2), *bounds, choices, horizon)


@pytest.mark.parametrize("choices", [0, 2])
def test_true_values_are_found_to_be_true(choices):
    found = play(CalibrationPolicy(Known(choices=choices), frame(50, choices), 0.9), [7, 12], 0.9)
    assert found["value_correlation"] == pytest.approx(1)
    assert found["value_mean"] == pytest.approx(found["discounted_mean"], rel=1e-5)


def test_wrong_values_are_found_to_be_wrong():
    found = play(CalibrationPolicy(Known(-1.0), frame(50), 0.9), [7, 12], 0.9)
    assert found["value_correlation"] == pytest.approx(-1)
    assert found["value_mean"] == pytest.approx(-found["discounted_mean"], rel=1e-5)


def test_steps_near_a_cut_are_left_out():
    """0.9^22 is below a tenth: of 30 steps that were cut off the first 8 count, of 29 that ended by themselves all."""
    found = play(CalibrationPolicy(Known(), frame(30), 0.9), [30], 0.9)
    assert found["discounted_mean"] == pytest.approx(np.mean([10 * (1 - 0.9**n) for n in range(30, 22, -1)]))
    found = play(CalibrationPolicy(Known(), frame(30), 0.9), [29], 0.9)
    assert found["discounted_mean"] == pytest.approx(np.mean([10 * (1 - 0.9**n) for n in range(29, 0, -1)]))
    assert play(CalibrationPolicy(Known(), frame(10), 0.9), [10], 0.9) == {}


def test_equal_values_have_no_correlation():
    assert "value_correlation" not in play(CalibrationPolicy(Known(0.0), frame(50), 0.9), [7], 0.9)
