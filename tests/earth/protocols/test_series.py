"""Dates merged: means, weights and attention, with dates that are not there."""

import numpy as np
import pytest
import torch

from manyone.earth.heads.train import Training
from manyone.earth.protocols.probe import probe
from manyone.earth.protocols.series import LTAE, LinearOverTime, day_encoding, mean_over_time, series_probe
from manyone.earth.splits import random_split
from manyone.errors import ManyoneError


def task(n=240, dates=6, d=12):
    """The class is in one date alone: its sign there; every other date is noise."""
    r = np.random.default_rng(0)
    y = r.integers(2, size=n)
    x = r.normal(size=(n, dates, d))
    x[:, 2, 0] += 3.0 * (2 * y - 1)
    return x.astype(np.float32), y, random_split(n), np.tile(np.arange(dates) * 60 + 7000, (n, 1))


def test_the_mean_is_any_protocol_on_the_mean():
    x, y, splits, _ = task()
    expected = probe(x.mean(1), y, splits, "knn5-l2")
    assert series_probe(x, y, splits, protocol="knn5-l2").values == expected.values


@pytest.mark.parametrize("merge", ["linear", "ltae"])
def test_learned_merging_finds_the_date(merge):
    x, y, splits, days = task()
    settings = Training(epochs=30, batch_size=36, lr=1e-2, look_every=2)
    found = series_probe(x, y, splits, merge=merge, days=days, settings=settings)
    assert found.values["accuracy"] > 0.8
    assert found.probabilities.sum(1) == pytest.approx(1, abs=1e-5)


def test_dates_that_are_not_there_change_nothing():
    torch.manual_seed(0)
    x, there = (
        torch.randn(3, 5, 12),
        torch.tensor([[True] * 5, [True, False, True, False, False], [True] * 4 + [False]]),
    )
    noise = torch.where(there[..., None], x, 99.0)
    days = torch.arange(5.0).expand(3, 5)
    module = LTAE(12).eval()
    assert torch.allclose(module(x, days, there), module(noise, days, there), atol=1e-6)
    assert torch.allclose(mean_over_time(x, there), mean_over_time(noise, there))
    assert torch.allclose(mean_over_time(x, there)[1], (x[1, 0] + x[1, 2]) / 2)
    assert torch.allclose(LinearOverTime(5)(x), x.mean(1), atol=1e-6)


def test_attention_does_not_know_the_order_but_the_days():
    torch.manual_seed(0)
    module, x, days = LTAE(12).eval(), torch.randn(2, 5, 12), torch.tensor([[0.0, 30, 60, 90, 200]] * 2)
    order = torch.tensor([3, 1, 4, 0, 2])
    assert torch.allclose(module(x[:, order], days[:, order]), module(x, days), atol=1e-5)
    assert not torch.allclose(module(x[:, order], days), module(x, days), atol=1e-3)
    assert module.query.shape == (16, 8)
    assert torch.allclose(day_encoding(torch.zeros(1), 4), torch.tensor([[0.0, 1, 0, 1]]))


def test_refusals():
    x, y, splits, _ = task(60)
    with pytest.raises(ManyoneError, match="one vector a date"):
        series_probe(x[:, 0], y, splits)
    with pytest.raises(ManyoneError, match="sample 3 has no date"):
        series_probe(x, y, splits, there=np.arange(60)[:, None] != np.full((1, 6), 3))
    with pytest.raises(ManyoneError, match="use mean, linear or ltae"):
        series_probe(x, y, splits, merge="max")
