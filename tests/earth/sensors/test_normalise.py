"""Streaming statistics."""

import pytest
import torch

from manyone.earth.sensors.normalise import RunningStatistics, shift_scale
from manyone.errors import ManyoneError


def test_batches_give_what_all_pixels_give():
    g = torch.Generator().manual_seed(0)
    x = torch.randn(10, 3, 5, 5, generator=g) * 100 + 3000
    valid = torch.rand(x.shape, generator=g) > 0.3
    x = torch.where(valid, x, torch.nan)
    running = RunningStatistics(3)
    for part in (slice(0, 1), slice(1, 7), slice(7, 10)):
        running.add(x[part], valid[part])
    found = running.result()
    for c in range(3):
        values = x[:, c][valid[:, c]].double()
        assert found.count[c] == len(values)
        assert found.mean[c] == pytest.approx(float(values.mean()), rel=1e-12)
        assert found.std[c] == pytest.approx(float(values.std(correction=0)), rel=1e-12)
        assert (found.low[c], found.high[c]) == (float(values.min()), float(values.max()))


def test_a_batch_without_a_valid_pixel_changes_nothing():
    running, alone = RunningStatistics(1), RunningStatistics(1)
    x = torch.rand(2, 1, 4, 4)
    for one in (running, alone):
        one.add(x, torch.ones_like(x, dtype=torch.bool))
    running.add(x * 100, torch.zeros_like(x, dtype=torch.bool))
    assert running.result() == alone.result()


def test_a_channel_without_any_is_told():
    running = RunningStatistics(2)
    running.add(torch.zeros(1, 2, 2, 2), torch.tensor([True, False])[None, :, None, None].expand(1, 2, 2, 2))
    with pytest.raises(ManyoneError, match="channels 1 have no valid pixel"):
        running.result()


def test_a_constant_channel_becomes_zero():
    x = torch.full((1, 1, 2, 2), 7.0)
    assert (shift_scale(x, torch.tensor([7.0]), torch.tensor([0.0])) == 0).all()
