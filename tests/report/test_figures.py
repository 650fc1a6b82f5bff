"""Scales, label placement and number formats."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from manyone.claims.numbers import difference, duration, minus, percent, points, quantity, significant, with_interval
from manyone.evaluation.intervals import Interval, t_interval
from manyone.report.figures import log_ticks, spread, ticks


@settings(deadline=None)
@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
def test_ticks_lie_inside(low, width):
    found = ticks(low, low + width)
    assert 2 <= len(found) <= 12
    assert all(low - 1e-6 * width <= t <= low + width * (1 + 1e-6) for t in found)


def test_round_ticks():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1.0]
    assert ticks(3, 3) == [3]
    assert log_ticks(1, 1000) == [1, 10, 100, 1000]
    assert log_ticks(1, 20) == [1, 2, 5, 10, 20]
    assert len(log_ticks(6, 14)) > 2


@settings(deadline=None)
@given(st.lists(st.floats(0, 200), min_size=1, max_size=15))
def test_labels_do_not_overlap_and_stay_inside(positions):
    placed = spread(sorted(positions), 11, 0, 200)
    assert all(b - a >= 11 - 1e-6 for a, b in itertools.pairwise(placed))
    assert placed[0] >= 0
    assert placed[-1] <= 200 + 1e-6


def test_labels_stay_put_when_there_is_room():
    assert spread([10, 50, 90], 11, 0, 100) == [10, 50, 90]
    assert spread([50, 50], 10, 0, 100) == [45, 55]


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        (significant(0.012345), "0.0123"),
        (significant(4.5678), "4.57"),
        (significant(1234.6), "1 230"),
        (significant(0), "0"),
        (significant(-0.5), "−0.500"),
        (significant(9.999), "10.0"),
        (quantity(7_160_928), "7.16 M"),
        (quantity(596_744), "597 k"),
        (quantity(131), "131"),
        (quantity(999_999), "1.00 M"),
        (percent(0.8374), "83.7"),
        (duration(0.44), "0.4 s"),
        (duration(59.4), "59 s"),
        (duration(151.2), "2 min 31 s"),
        (duration(11_580), "3 h 13 min"),
        (points(-0.0123), "−1.2"),
        (points(0.0), "0.0"),
        (points(-0.0001), "0.0"),
        (minus("-0.0"), "0.0"),
        (with_interval("%", Interval(0.8374, 0.8314, 0.8434, 3)), "83.7 ± 0.6"),
        (with_interval("%", t_interval([0.8374])), "83.7"),
        (with_interval("", Interval(0.226, 0.21992, 0.23208, 3)), "0.226 ± 0.006"),
        (difference("%", Interval(0.028, 0.019, 0.037, 3)), "+2.8 points (+1.9 to +3.7)"),
        (difference("%", t_interval([0.028])), "+2.8 points (one seed: no interval)"),
    ],
)
def test_numbers(given_, shown):
    assert given_ == shown
