"""Probabilities from scores (Platt 1999): AUC training fixes the order of scores alone.

Public: ``platt``.
"""

from __future__ import annotations

import torch
from torch import Tensor

_RIDGE = 1e-6  # of the slope, in units of the scores' spread
_STEPS = 100


def platt(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """(slope, offset) of the logistic regression of labels (> 0: positive) on ``scores`` [N], by Newton's method.

    Its targets are Platt's, (N+ + 1) / (N+ + 2) for positives and 1 / (N- + 2) for negatives: scores that separate the
    classes, as those of few samples do, have no maximum of the likelihood of targets 1 and 0.
    """
    spread = float(scores.double().std(correction=0)) or 1.0  # the fit is done in units of the scores' spread
    x, plus = (scores.detach().double() / spread).cpu(), (labels > 0).cpu()
    p, n = int(plus.sum()), int((~plus).sum())
    target = torch.full_like(x, 1 / (n + 2)).masked_fill(plus, (p + 1) / (p + 2))
    rows, ridge = torch.stack([x, torch.ones_like(x)]), torch.tensor([_RIDGE, 0.0], dtype=torch.float64)

    def loss(w: Tensor) -> Tensor:
        z = w @ rows
        return (torch.nn.functional.softplus(z) - target * z).sum() + (ridge * w * w).sum() / 2

    w = torch.zeros(2, dtype=torch.float64)
    for _ in range(_STEPS):
        rates = torch.sigmoid(w @ rows)
        gradient = rows @ (rates - target) + ridge * w
        hessian = (rows * (rates * (1 - rates))) @ rows.T + torch.diag(ridge)
        step, length = torch.linalg.lstsq(hessian, gradient[:, None], driver="gelsd").solution[:, 0], 1.0
        while length > 1e-9 and loss(w - length * step) > loss(w):
            length /= 2
        w = w - length * step
        if float(step.abs().max()) < 1e-12 * max(1.0, float(w.abs().max())):
            break
    return float(w[0]) / spread, float(w[1])
