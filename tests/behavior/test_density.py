"""Inverse densities against distributions whose density is known."""

import dataclasses

import numpy as np
import pytest

from manyone.behavior import density
from manyone.behavior.density import LARGEST, density_weights, intrinsic_dimension, inverse_density_weights
from manyone.errors import ManyoneError


def gaussian(n, width, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width)).astype(np.float32)


def test_of_two_squares_the_one_with_half_the_density_has_twice_the_weight():
    rng = np.random.default_rng(0)
    dense, thin = rng.random((6000, 2)), 5 + rng.random((3000, 2))
    states = np.concatenate([dense, thin]).astype(np.float32)
    for exponent in (0.5, 1.0, 2.0):
        weights = inverse_density_weights(states, exponent)
        ratio = np.median(weights[6000:]) / np.median(weights[:6000])
        assert ratio == pytest.approx(2**exponent, rel=0.1)


@pytest.mark.parametrize("width", [1, 2, 4])
def test_of_a_gaussian_the_weights_follow_the_inverse_density(width):
    states = gaussian(5000, width)
    logs = np.log(inverse_density_weights(states, 0.5))
    expected = 0.25 * (states.astype(np.float64) ** 2).sum(1)  # of log p^-1/2, but for a constant
    inside = expected < np.quantile(expected, 0.9)  # beyond, neighbours lie on one side and few
    slope = np.polyfit(expected[inside], logs[inside], 1)[0]
    assert slope == pytest.approx(1, abs=0.2)
    assert np.corrcoef(expected[inside], logs[inside])[0, 1] > 0.75


def test_the_dimension_of_the_data_counts_not_the_width_of_a_state():
    flat = gaussian(6000, 2)
    rotation = np.linalg.qr(gaussian(17, 17, 1).astype(np.float64))[0][:2].astype(np.float32)
    plain, turned = inverse_density_weights(flat), inverse_density_weights(flat @ rotation)
    assert np.corrcoef(np.log(plain), np.log(turned))[0, 1] > 0.999
    assert np.abs(np.log(plain / turned)).max() < 0.1


@pytest.mark.parametrize("width", [1, 3, 6])
def test_the_dimension_is_found(width):
    points = np.random.default_rng(0).random((2000, width))
    distances = np.sort(np.linalg.norm(points[:400, None] - points, axis=2), 1)[:, 1:21]
    assert intrinsic_dimension(distances) == pytest.approx(width, rel=0.15)


def test_weights_have_mean_one_and_bounded_tails():
    states = np.concatenate([gaussian(3000, 3), 1e4 * gaussian(5, 3, 1)])
    for exponent in (0.5, 1.0, 4.0):
        weights = inverse_density_weights(states, exponent)
        assert weights.mean() == pytest.approx(1)
        assert weights.max() <= LARGEST * (1 + 1e-9)
        assert weights.min() > 0
    assert weights[3000:].min() == pytest.approx(LARGEST)
    assert np.allclose(inverse_density_weights(states, 0.0), 1)


def test_more_data_than_references_change_little_but_chance(monkeypatch):
    states = gaussian(3000, 2)
    whole = inverse_density_weights(states, 0.5)
    monkeypatch.setattr(density, "_REFERENCES", 600)
    monkeypatch.setattr(density, "_ROWS", 700)
    fewer = inverse_density_weights(states, 0.5)
    assert np.corrcoef(np.log(whole), np.log(fewer))[0, 1] > 0.85
    assert np.array_equal(fewer, inverse_density_weights(states, 0.5))
    assert not np.array_equal(fewer, inverse_density_weights(states, 0.5, seed=1))


def test_states_that_are_repeated_have_a_density_too():
    states = np.concatenate([np.repeat(gaussian(1, 2), 500, 0), gaussian(500, 2, 1)])
    weights = inverse_density_weights(states)
    assert np.isfinite(weights).all()
    assert weights[:500].max() <= weights[500:].min()
    assert weights[:500].mean() < 0.3 * weights[500:].mean()
    assert np.array_equal(inverse_density_weights(np.ones((50, 3), np.float32)), np.ones(50))


def test_a_data_set_gets_one_weight_a_row(data):
    weights = density_weights(data, 0.5, 3)
    assert weights.shape == (len(data),)
    assert weights.mean().item() == pytest.approx(1, abs=1e-6)
    farthest = data.states.norm(dim=1).argsort()
    assert weights[farthest[-20:]].mean() > weights[farthest[:20]].mean()


def test_what_cannot_be_is_said(data):
    with pytest.raises(ManyoneError, match="density exponent -1"):
        density_weights(data, -1.0)
    with pytest.raises(ManyoneError, match="5 states: their density needs 22 or more"):
        density_weights(dataclasses.replace(data, states=data.states[:5]))


def test_no_exponent_is_too_large():
    states = np.random.default_rng(0).normal(size=(300, 5)).astype(np.float32)
    weights = inverse_density_weights(states, 1e4)
    assert weights.mean() == pytest.approx(1)
    assert 1 < weights.max() <= LARGEST * (1 + 1e-9)
