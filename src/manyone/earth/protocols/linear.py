"""The linear probe: logistic regression on frozen, standardised features; C is chosen on val.

    F(W, b) = 1/n Sum CE(softmax(W z + b), y) + 1/(2 C n) |W|^2          one class a sample
    F(W, b) = 1/(n K) Sum_i,k BCE + 1/(2 C n K) |W|^2                    several labels (each label for itself)

z: features standardised with the mean and deviation of train. ``newton.logistic_path`` computes the minimisers (this
is scikit-learn's ``LogisticRegression`` with the same C; for two classes, whose soft-max has two rows, with 2 C).
The path over C ends where three values in a row have been worse on val than the best: what follows is all but
unregularised, takes most of the time and is seldom better (``patience=None`` goes to the end). After the choice the
probe is refitted on train and val together, from the chosen solution. Probabilities are those after temperature
scaling: softmax(logits / T), T > 0 minimising the cross-entropy on val before the refit.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

from manyone.earth.metrics import calibration_error, mean_average_precision
from manyone.earth.protocols.newton import logistic_path, logistic_steps
from manyone.earth.protocols.scores import Labels, Scores, class_result, kind_of, labels_result, rows
from manyone.earth.splits import Splits
from manyone.errors import ManyoneError

STRENGTHS = tuple(float(c) for c in np.logspace(-6, 4, 13))
"""The default values of C."""
PUBLIC_STRENGTHS = tuple(float(c) for c in np.logspace(-6, 4, 40))
"""The 40 values of the public benchmark's protocol."""
_CHOOSING = 1e-2
"""How far coefficients of standardised features may still move while C is chosen; 1e-4 after that."""
_EFFORT = (6, 25)
"""Newton steps for one C and products for a step while C is chosen: about scikit-learn's 100 iterations of L-BFGS."""


@dataclass(frozen=True)
class LinearModel:
    """logits = W (x - mean) / deviation + b."""

    mean: Tensor
    deviation: Tensor
    weight: Tensor
    """float64 [K, D], for standardised features."""
    bias: Tensor

    def logits(self, x: Tensor) -> Tensor:
        """float64 [N, K]."""
        return ((x.to(torch.float64) - self.mean) / self.deviation) @ self.weight.T + self.bias


def standardiser(x: Tensor) -> tuple[Tensor, Tensor]:
    """(mean, deviation) in float64 [D]; a constant feature is divided by 1."""
    x = x.to(torch.float64)
    deviation = x.std(0, correction=0)
    return x.mean(0), torch.where(deviation > 1e-12 * x.abs().amax(0).clamp_min(1e-300), deviation, 1.0)


def fit_path(
    x: Tensor, y: Tensor, strengths: Sequence[float] = STRENGTHS, *, exclusive: bool = True
) -> list[LinearModel]:
    """One model for every C, in the order given. ``x`` [n, D] features, ``y`` [n, K] zeros and ones."""
    if not strengths or min(strengths) <= 0:
        raise ManyoneError(f"strengths: C must be positive numbers, got {list(strengths)}")
    mean, deviation = standardiser(x)
    order = np.argsort(strengths)
    path = logistic_path((x - mean) / deviation, y, [strengths[i] for i in order], exclusive=exclusive)
    models = {i: LinearModel(mean, deviation, w, b) for i, (w, b) in zip(order, path)}
    return [models[i] for i in range(len(strengths))]


def temperature(logits: Tensor, y: Tensor, exclusive: bool = True) -> float:
    """T in [e^-5, e^5] with the smallest cross-entropy of logits / T for ``y`` [N, K] zeros and ones."""

    def loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        if exclusive:
            return float(torch.logsumexp(scaled, 1).sub((scaled * y).sum(1)).mean())
        return float(torch.nn.functional.binary_cross_entropy_with_logits(scaled, y.to(scaled.dtype)))

    return float(np.exp(minimize_scalar(loss, bounds=(-5, 5), method="bounded").x))


def linear_probe(
    features: Any,
    targets: np.ndarray,
    splits: Splits,
    *,
    strengths: Sequence[float] = STRENGTHS,
    refit: bool = True,
    patience: int | None = 3,
) -> Scores:
    """Fits on train for every C, chooses on val (accuracy, or micro mAP; the smallest C of equals), tests.

    ``refit=False`` keeps the model of train alone (few-shot: val would add the labels that are missing).
    """
    began = time.perf_counter()
    targets = np.asarray(targets)
    exclusive = kind_of(targets) == "class"
    if kind_of(targets) == "value":
        raise ManyoneError("targets: the linear probe takes classes or labels; use protocol 'ridge' for numbers")
    labels = Labels.from_targets(targets) if exclusive else None
    k = len(labels.classes) if labels else targets.shape[1]

    def one_hot(at: np.ndarray) -> Tensor:
        if labels:
            return torch.nn.functional.one_hot(torch.from_numpy(labels.numbers[at]), k).to(torch.float64)
        return torch.from_numpy(targets[at].astype(np.float64))

    strengths = sorted(strengths)
    x_train, x_val, x_test = (rows(features, at) for at in (splits.train, splits.val, splits.test))
    truth = one_hot(splits.val)
    mean, deviation = standardiser(x_train)
    z_train = (x_train.to(torch.float64) - mean) / deviation
    tried: list[tuple[LinearModel, Tensor, float]] = []
    best = below = 0
    for weight, bias in logistic_steps(
        z_train, one_hot(splits.train), strengths, exclusive=exclusive, tolerance=_CHOOSING, effort=_EFFORT
    ):
        one = LinearModel(mean, deviation, weight, bias)
        logits = one.logits(x_val)
        if exclusive:
            quality = float((logits.argmax(1) == truth.argmax(1)).double().mean())
        else:
            quality = mean_average_precision(truth.numpy(), logits.numpy())["micro_map"]
        tried.append((one, logits, quality))
        if quality > tried[best][2]:
            best = len(tried) - 1
        below = below + 1 if quality < tried[best][2] else 0  # equal is not worse: the smallest C all predict alike
        if patience is not None and below >= patience:
            break
    model, on_val, reached = tried[best]
    scale = temperature(on_val, truth, exclusive)
    last = np.concatenate([splits.train, splits.val]) if refit else splits.train
    z = (torch.cat([x_train, x_val]) - mean) / deviation if refit else z_train
    path = logistic_path(z, one_hot(last), [strengths[best]], exclusive=exclusive, start=(model.weight, model.bias))
    model = LinearModel(mean, deviation, *path[0])
    logits = model.logits(x_test)
    chosen = {"C": strengths[best], "temperature": scale, "val": reached}
    if labels is None:
        p = torch.sigmoid(logits / scale)
        return labels_result("linear", targets, splits.test, p, chosen=chosen, seconds=time.perf_counter() - began)
    plain = torch.softmax(logits, 1).numpy()
    chosen["ece_uncalibrated"] = calibration_error(labels.numbers[splits.test], plain)
    p = torch.softmax(logits / scale, 1)
    return class_result("linear", labels, splits.test, p, chosen=chosen, seconds=time.perf_counter() - began)
