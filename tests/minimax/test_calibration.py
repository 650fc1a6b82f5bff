"""Platt's probabilities of scores."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

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


@pytest.mark.parametrize(("samples", "scale"), [(5, 1.0), (50, 0.01), (300, 100.0), (2000, 3.0), (64, 1e-6)])
def test_it_is_the_logistic_regression_to_nine_digits(samples, scale):
    draws = torch.Generator().manual_seed(samples)
    scores = torch.randn(samples, generator=draws).double() * scale
    labels = (torch.rand(samples, generator=draws) < torch.sigmoid(3 * scores / scale - 1)).long() * 2 - 1
    labels[:2] = torch.tensor([1, -1])
    plus, spread = (labels > 0).numpy(), float(scores.std(correction=0))
    target = np.where(plus, (plus.sum() + 1) / (plus.sum() + 2), 1 / ((~plus).sum() + 2))
    rows = (scores / spread).numpy()[:, None]  # every sample as a positive and as a negative, weighted by its target
    fit = LogisticRegression(C=1e6, solver="newton-cholesky", tol=1e-14, max_iter=1000)
    fit.fit(np.concatenate([rows, rows]), np.repeat([1, 0], samples), np.concatenate([target, 1 - target]))
    slope, offset = platt(scores, labels)
    assert slope * spread == pytest.approx(fit.coef_[0, 0], rel=1e-9)
    assert offset == pytest.approx(fit.intercept_[0], rel=1e-9)


def test_scores_without_a_spread_give_the_rate_of_positives():
    slope, offset = platt(torch.full((6,), 2.0), torch.tensor([1, 1, 1, -1, -1, -1]))
    assert torch.sigmoid(torch.tensor(2 * slope + offset)) == pytest.approx(0.5)
