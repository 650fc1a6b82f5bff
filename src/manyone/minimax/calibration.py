"""Probabilities from scores (Platt 1999): AUC training fixes the order of scores alone.

Public: ``platt``.
"""

from __future__ import annotations

from sklearn.linear_model import LogisticRegression
from torch import Tensor


def platt(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """(slope, offset) of the logistic regression of labels (> 0: positive) on ``scores`` [N]."""
    spread = float(scores.double().std(correction=0)) or 1.0  # the fit is done in units of the scores' spread
    fit = LogisticRegression(C=1e6).fit((scores.double() / spread).cpu().numpy()[:, None], (labels > 0).cpu().numpy())
    return float(fit.coef_[0, 0]) / spread, float(fit.intercept_[0])
