"""The linear probe for numbers: ridge regression for all penalties from one decomposition.

F(w, b) = 1/(2n) Sum (w z + b - y)^2 + 1/(2 C n) |w|^2,   z standardised on train (scikit-learn's alpha = 1 / C)
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from manyone.earth.protocols.linear import STRENGTHS, LinearModel, standardiser
from manyone.earth.protocols.newton import Basis
from manyone.earth.protocols.scores import Scores, kind_of, rows, value_result
from manyone.earth.splits import Splits
from manyone.errors import ManyoneError


def ridge_path(x: Tensor, y: Tensor, strengths: Sequence[float] = STRENGTHS) -> list[LinearModel]:
    """One model for every C. ``x`` [n, D], ``y`` [n]; exact: w = Q (g + 1/(Cn))^-1 Q^T Z^T (y - mean) / n."""
    mean, deviation = standardiser(x)
    z, n, middle = (x.to(torch.float64) - mean) / deviation, len(x), y.to(torch.float64).mean()
    models = []
    basis = Basis.from_features(z)
    shared = basis.rotated @ (y.to(torch.float64) - middle) / n
    for c in strengths:
        weight = basis.back((shared / (basis.energies + 1 / (c * n)))[None])
        models.append(LinearModel(mean, deviation, weight, middle[None]))
    return models


def ridge_probe(
    features: Any, targets: np.ndarray, splits: Splits, *, strengths: Sequence[float] = STRENGTHS, refit: bool = True
) -> Scores:
    """Fits on train for every C, chooses the smallest RMSE on val, refits on train and val, tests."""
    began = time.perf_counter()
    targets = np.asarray(targets)
    if kind_of(targets) != "value":
        raise ManyoneError(f"targets: {targets.dtype} of shape {targets.shape}; ridge takes one float a sample")
    if not np.isfinite(targets).all():
        raise ManyoneError("targets: some are NaN or infinite; leave these samples out of the splits")
    strengths = sorted(strengths)
    y = torch.from_numpy(targets.astype(np.float64))
    x_train, x_val = rows(features, splits.train), rows(features, splits.val)
    models = ridge_path(x_train, y[splits.train], strengths)
    errors = [float((m.logits(x_val)[:, 0] - y[splits.val]).square().mean().sqrt()) for m in models]
    best = int(np.argmin(errors))
    model = models[best]
    if refit:
        both = torch.cat([y[splits.train], y[splits.val]])
        model = ridge_path(torch.cat([x_train, x_val]), both, [strengths[best]])[0]
    predicted = model.logits(rows(features, splits.test))[:, 0]
    chosen = {"C": strengths[best], "val": errors[best]}
    return value_result("ridge", targets, splits.test, predicted, chosen=chosen, seconds=time.perf_counter() - began)
