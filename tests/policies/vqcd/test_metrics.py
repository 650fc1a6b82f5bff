"""Figures of a sequence of tasks, against numbers computed by hand and by loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.reference import vqcd as plain

from manyone.errors import ManyoneError
from manyone.policies.vqcd.metrics import (
    average,
    backward_transfer,
    forgetting,
    forward_transfer,
    plasticity,
    sequence_metrics,
)

HAND = [[0.9, 0.6, 0.3], [0.1, 0.8, 0.9], [0.0, 0.2, 0.7]]


def test_three_tasks_by_hand():
    assert average(HAND) == pytest.approx((0.3 + 0.9 + 0.7) / 3)
    assert forgetting(HAND) == pytest.approx((0.6 - 0.1 + 0.0) / 3)
    assert plasticity(HAND) == pytest.approx(0.8)
    assert backward_transfer(HAND) == pytest.approx((-0.6 + 0.1) / 2)


def test_all_figures_are_the_plain_ones():
    scores = np.random.default_rng(0).normal(size=(6, 6)) * 40
    assert sequence_metrics(scores) == pytest.approx(plain.sequence(scores.tolist()))
    assert sequence_metrics(HAND)["forgetting"] == forgetting(HAND)


def test_what_stays_as_it_is_is_not_forgotten():
    assert forgetting(np.full((4, 4), 37.5)) == 0
    assert backward_transfer(np.full((4, 4), 37.5)) == 0
    assert sequence_metrics([[5.0]]) == {"average": 5, "forgetting": 0, "plasticity": 5, "backward_transfer": 0}


def test_scores_of_tasks_not_yet_learned_are_not_needed():
    holes = np.array(HAND)
    holes[1, 0] = holes[2, :2] = np.nan
    assert sequence_metrics(holes) == pytest.approx(sequence_metrics(HAND))


def test_transfer_to_a_task_is_what_is_gained_of_what_was_left():
    curve, alone = [0.0, 0.5, 1.0], [0.0, 0.0, 0.75]
    assert forward_transfer([curve, alone], [alone, alone]) == pytest.approx([(0.5 - 0.25) / 0.75, 0.0])
    assert forward_transfer([[0.0, 0.0]], [[0.0, 1.0]]) == pytest.approx([-1.0])


def test_a_reference_that_leaves_nothing_to_gain():
    assert forward_transfer([[1.0], [0.5]], [[1.0], [1.0]]) == [0.0, -math.inf]


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: average([1.0, 2.0]), r"scores \[2\]: must be tasks x times"),
        (lambda: forgetting([[1.0, 2.0]]), r"scores \[1, 2\]: must be tasks x times"),
        (lambda: average([]), "must be tasks x times"),
        (lambda: average([[1.0, math.nan], [1.0, 1.0]]), "evaluated after it was learned and at the end"),
        (lambda: forward_transfer([[0.5]], []), "curves of 1 tasks and references of 0"),
        (lambda: forward_transfer([[0.5]], [[]]), "scores of task 0 over its training: must be one or more"),
        (lambda: forward_transfer([[0.5], [1.5]], [[0.5], [0.5]]), "scores of task 1 over its training"),
    ],
)
def test_what_cannot_be_is_refused(call, message):
    with pytest.raises(ManyoneError, match=message):
        call()
