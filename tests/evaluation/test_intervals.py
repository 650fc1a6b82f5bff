"""Intervals against textbook values and their own coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest

from manyone.evaluation import bootstrap_interval, interquartile_mean, paired_difference, t_interval


def test_t_interval_by_hand() -> None:
    got = t_interval([1.0, 2.0, 3.0])
    assert got.value == 2.0
    assert got.half_width == pytest.approx(4.302653 / math.sqrt(3), rel=1e-5)
    assert got.excludes(5.0)
    assert not got.excludes(2.5)
    alone = t_interval([3.0])
    assert alone.value == 3.0
    assert math.isnan(alone.low)
    assert not alone.excludes(100)
    with pytest.raises(ValueError, match="non-empty"):
        t_interval([])


def test_t_interval_covers_the_mean_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(1.0, 2.0, size=(2000, 4))
    covered = np.mean([not t_interval(d).excludes(1.0) for d in draws])
    assert covered == pytest.approx(0.95, abs=0.015)


def test_paired_differences() -> None:
    first, second = {0: 0.9, 1: 0.8, 2: 0.7}, {2: 0.6, 0: 0.8, 1: 0.7, 9: 0.0}
    got = paired_difference(first, second)
    assert got.value == pytest.approx(0.1)
    assert got.half_width == pytest.approx(0, abs=1e-9)
    assert got.n == 3
    assert paired_difference([3.0, 5.0], [1.0, 2.0]).value == 2.5
    with pytest.raises(ValueError, match="no key"):
        paired_difference({0: 1.0}, {1: 1.0})
    with pytest.raises(ValueError, match="cannot pair"):
        paired_difference([1.0], [1.0, 2.0])
    with pytest.raises(TypeError, match="two mappings"):
        paired_difference({0: 1.0}, [1.0])


def test_interquartile_mean() -> None:
    assert interquartile_mean([100.0, 1.0, 2.0, -50.0]) == 1.5
    assert interquartile_mean([7.0]) == 7.0
    x = [1.0, 2.0, 3.0, 4.0, 100.0]
    assert interquartile_mean(x) == pytest.approx((0.75 * 2 + 3 + 0.75 * 4) / 2.5)


def test_bootstrap() -> None:
    x = np.random.default_rng(1).normal(size=200).tolist()
    got = bootstrap_interval(x)
    normal = t_interval(x)
    assert (got.low, got.high) == pytest.approx((normal.low, normal.high), abs=0.03)
    assert bootstrap_interval(x) == got
    assert bootstrap_interval(x, seed=1) != got
    robust = bootstrap_interval([0.0] * 10 + [1000.0], interquartile_mean, resamples=200)
    assert robust.value == 0.0
    assert robust.low == 0.0
    assert math.isnan(bootstrap_interval([1.0]).low)


def test_wilson_contains_the_share_and_never_collapses():
    from manyone.evaluation.intervals import wilson_interval

    half = wilson_interval(5, 10)
    assert half.value == 0.5
    assert (round(half.low, 4), round(half.high, 4)) == (0.2366, 0.7634)
    for n in range(1, 400):
        none, every = wilson_interval(0, n), wilson_interval(n, n)
        assert none.low == 0 < none.high
        assert every.low < 1 == every.high
        assert abs(none.high - (1 - every.low)) < 1e-12
    with pytest.raises(ValueError, match="no share"):
        wilson_interval(3, 2)
