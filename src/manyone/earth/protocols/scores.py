"""What every protocol gives back, and the labels of a task as numbers 0..K-1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from manyone.earth.metrics import classification_scores, multilabel_scores, regression_scores
from manyone.errors import ManyoneError

Kind = Literal["class", "labels", "value"]


@dataclass(frozen=True)
class Scores:
    """A protocol's result on the test samples, in the order of the split."""

    protocol: str
    values: Mapping[str, float]
    """Metric -> value."""
    truth: np.ndarray
    predictions: np.ndarray
    """Labels as the targets name them [N]; bool [N, K]; float [N]."""
    probabilities: np.ndarray | None = None
    """float32 [N, K], columns in the order of ``classes``."""
    classes: np.ndarray | None = None
    chosen: Mapping[str, Any] = field(default_factory=dict)
    """What was chosen on val, e.g. C."""
    seconds: float = 0.0


class Labels(NamedTuple):
    """Single labels as positions in the sorted classes: gaps in the numbers of classes cost nothing."""

    classes: np.ndarray
    numbers: np.ndarray
    """int64 [N]."""

    @classmethod
    def from_targets(cls, targets: np.ndarray) -> Labels:
        classes, numbers = np.unique(targets, return_inverse=True)
        return cls(classes, numbers.reshape(-1).astype(np.int64))


def kind_of(targets: np.ndarray) -> Kind:
    """Integers or strings [N] are classes, bool or 0/1 integers [N, K] label vectors, floats [N] values."""
    targets = np.asarray(targets)
    if targets.ndim == 2 and (targets.dtype == bool or (targets.dtype.kind in "iu" and np.isin(targets, (0, 1)).all())):
        return "labels"
    if targets.ndim == 1 and targets.dtype.kind in "biuU":
        return "class"
    if targets.ndim == 1 and targets.dtype.kind == "f":
        return "value"
    raise ManyoneError(
        f"targets: {targets.dtype} of shape {targets.shape}; give integers [N], bool [N, K] or floats [N]"
    )


def rows(features: Any, at: np.ndarray, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows of features [N, D] (numpy, memory-mapped or torch, any float type) as a CPU tensor; NaN is refused."""
    if isinstance(features, Tensor):
        part = features.detach()[torch.as_tensor(at, device=features.device)].to("cpu", dtype)
    else:
        part = torch.from_numpy(np.ascontiguousarray(features[at])).to(dtype)
    if part.ndim != 2:
        raise ManyoneError(f"features: {part.ndim} dimensions; give one vector a sample, [N, D]")
    bad = ~torch.isfinite(part).all(1)
    if bad.any():
        first = int(np.asarray(at)[int(bad.nonzero()[0])])
        raise ManyoneError(f"features: sample {first} has a NaN or infinite feature; leave it out or mend the encoder")
    return part


def class_result(protocol: str, labels: Labels, test: np.ndarray, probabilities: Tensor, **more: Any) -> Scores:
    """Scores of class probabilities [N, K]."""
    p = probabilities.numpy()
    numbers = p.argmax(1)
    values = classification_scores(labels.numbers[test], numbers, p, len(labels.classes))
    truth = labels.classes[labels.numbers[test]]
    return Scores(protocol, values, truth, labels.classes[numbers], p.astype(np.float32), labels.classes, **more)


def labels_result(protocol: str, targets: np.ndarray, test: np.ndarray, probabilities: Tensor, **more: Any) -> Scores:
    """Scores of label probabilities [N, K]; a label is predicted from 0.5 on."""
    p, truth = probabilities.numpy(), np.asarray(targets[test], dtype=bool)
    values = multilabel_scores(truth, p >= 0.5, p)
    return Scores(protocol, values, truth, p >= 0.5, p.astype(np.float32), np.arange(p.shape[1]), **more)


def value_result(protocol: str, targets: np.ndarray, test: np.ndarray, predicted: Tensor, **more: Any) -> Scores:
    """Scores of predicted numbers [N]."""
    p, truth = predicted.numpy(), np.asarray(targets[test], dtype=np.float64)
    return Scores(protocol, regression_scores(truth, p), truth, p, **more)
