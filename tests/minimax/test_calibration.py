"""Platt's probabilities of scores."""

import pytest
import torch

from manyone.minimax.calibration import platt


def test_separable_scores_get_platts_targets_and_many_samples_the_likelihood():
    scores = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0])
    slope, offset = platt(scores, scores)
    rates = torch.sigmoid(slope * torch.tensor([1.0, -1.0]) + offset).tolist()
    assert rates == pytest.approx([4 / 5, 1 / 4], abs=1e-3)  # (3 + 1) / (3 + 2) and 1 / (2 + 2)
    draws = torch.Generator().manual_seed(0)
    scores = torch.randn(20_000, generator=draws)
    labels = (torch.rand(20_000, generator=draws) < torch.sigmoid(3 * scores - 1)).long() * 2 - 1
    assert platt(scores, labels) == pytest.approx((3, -1), abs=0.15)
