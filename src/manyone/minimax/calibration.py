"""Probabilities from scores (Platt 1999): AUC training fixes the order of scores alone.

Public: ``platt``.
"""

from __future__ import annotations

import numpy as np
from sklearn.linear_model import LogisticRegression
from torch import Tensor


def platt(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """(slope, offset) of the logistic regression of labels (> 0: positive) on ``scores`` [N].

    Its targets are Platt's, (N+ + 1) / (N+ + 2) for positives and 1 / (N- + 2) for negatives: scores that separate the
    classes, as those of few samples do, have no maximum of the likelihood of targets 1 and 0.
    """
    spread = float(scores.double().std(correction=0)) or 1.0  # the fit is done in units of the scores' spread
    x, plus = (scores.double() / spread).cpu().numpy()[:, None], (labels > 0).cpu().numpy()
    target = np.where(plus, (plus.sum() + 1) / (plus.sum() + 2), 1 / ((~plus).sum() + 2))
    both = np.repeat([1, 0], len(x))  # every sample as a positive and as a negative, weighted by its target
    fit = LogisticRegression(C=1e6).fit(np.concatenate([x, x]), both, np.concatenate([target, 1 - target]))
    return float(fit.coef_[0, 0]) / spread, float(fit.intercept_[0])
