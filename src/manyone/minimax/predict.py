"""What comes out of a run and is put to use: classifiers in scikit-learn's words, and a sampler.

    model = load("runs/first/model")            # manyone.minimax.artefact.load, in any process
    model.predict_proba(rows)                   # rows as they were in the table: scaling is part of the model

Rows with named columns (a DataFrame, a pyarrow table, a mapping) are read by name and may hold words; an array has its
columns in the order of training.
Public: ``Scaling``, ``ScoreClassifier``, ``SoftmaxClassifier``, ``Sampler``, ``Network``, ``build_network``,
``column_names``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from torch import Tensor, nn
from torch.func import functional_call

from manyone.data.tables.encoder import TableEncoder, canonical_word
from manyone.data.tables.files import Frame
from manyone.data.tables.tables import check_scale
from manyone.errors import ManyoneError
from manyone.minimax.arguments import tensor
from manyone.randomness import generator_for

_FEW = 1e-12


@dataclass(frozen=True)
class Scaling:
    """Rows as the model wants them: (row - mean) / std, then divided by their norm if ``unit_rows``."""

    mean: Tensor
    std: Tensor
    unit_rows: bool

    @classmethod
    def fit(cls, features: ArrayLike | Tensor, scale: str) -> Scaling:
        """From training rows [N, d]; ``scale``: none, standard, rows or standard-rows (see ``data.tables.prepare``)."""
        check_scale(scale)
        wide = tensor("features", features).double()
        if wide.ndim != 2 or not len(wide) or not bool(torch.isfinite(wide).all()):
            raise ManyoneError(f"features of shape {list(wide.shape)}: rows [N, d] of finite numbers are needed")
        mean, std = torch.zeros(wide.shape[1], dtype=torch.float64), torch.ones(wide.shape[1], dtype=torch.float64)
        if scale.startswith("standard"):
            mean, std = wide.mean(0), wide.std(0, correction=0)
            std = torch.where(std < _FEW, torch.ones_like(std), std)
        return cls(mean, std, scale.endswith("rows"))

    def __call__(self, rows: ArrayLike | Tensor) -> Tensor:
        """float64 [n, d] of raw rows [n, d]; raises when the width is wrong or a value is NaN or infinite."""
        wide = torch.as_tensor(np.asarray(rows, dtype=np.float64) if not isinstance(rows, Tensor) else rows).double()
        if wide.ndim != 2 or wide.shape[1] != len(self.mean):
            raise ManyoneError(f"rows of shape {list(wide.shape)}: this model takes [n, {len(self.mean)}]")
        if not bool(torch.isfinite(wide).all()):
            raise ManyoneError(f"row {int((~torch.isfinite(wide)).any(1).nonzero()[0])} holds NaN or infinite values")
        wide = (wide - self.mean) / self.std
        if self.unit_rows:
            norms = torch.linalg.vector_norm(wide, dim=1, keepdim=True)
            wide = wide / torch.where(norms < _FEW, torch.ones_like(norms), norms)
        return wide


def build_network(widths: Sequence[int], *, activation: str = "relu", output: str = "none") -> nn.Sequential:
    """Linear layers of ``widths`` (input first) with ``activation`` between and ``output`` at the end."""
    kinds: dict[str, Callable[[], nn.Module]] = {
        "relu": nn.ReLU,
        "leaky-relu": lambda: nn.LeakyReLU(0.2),
        "tanh": nn.Tanh,
        "sigmoid": nn.Sigmoid,
        "none": nn.Identity,
    }
    for name in (activation, output):
        if name not in kinds:
            raise ManyoneError(f"activation {name!r}: choose one of {', '.join(kinds)}")
    layers: list[nn.Module] = []
    for k, (before, after) in enumerate(pairwise(widths)):
        last = k == len(widths) - 2
        layers.append(nn.Linear(before, after))
        if not last or output != "none":
            layers.append(kinds[output if last else activation]())
    return nn.Sequential(*layers)


class Network:
    """A network of ``build_network`` (or a single linear score without bias) with its weights."""

    def __init__(self, widths: Sequence[int], weights: Mapping[str, Tensor], **words: str) -> None:
        self.widths = list(widths)
        self.module = None if len(widths) == 1 else build_network(widths, **words)
        self.weights = dict(weights)

    def shapes(self) -> dict[str, list[int]]:
        """Name -> shape of the weights that it needs."""
        if self.module is None:
            return {"w": self.widths}
        return {name: list(value.shape) for name, value in self.module.state_dict().items()}

    def __call__(self, rows: Tensor) -> Tensor:
        rows = rows.to(next(iter(self.weights.values())).dtype)
        with torch.no_grad():
            if self.module is None:
                return rows @ self.weights["w"][:, None]
            return functional_call(self.module, self.weights, (rows,))


def column_names(rows: Any) -> list[str] | None:
    """The names of the columns of ``rows``; None for what has none, as arrays."""
    if isinstance(rows, Mapping) and not issparse(rows):  # one of scipy's sparse kinds is a dict
        return list(map(str, rows))
    names = getattr(rows, "column_names", None)  # pyarrow's word; pandas' and polars' is columns
    names = getattr(rows, "columns", None) if names is None else names
    if names is None or not len(names) or not all(isinstance(name, str) for name in names):
        return None
    return list(names)


class _Classifier(ABC):
    """``encoder``: what the columns of the training table mean; then ``feature_names_in_`` are its columns."""

    def __init__(
        self, network: Network, scaling: Scaling, classes: ArrayLike, encoder: TableEncoder | None = None
    ) -> None:
        self.network, self.scaling, self.encoder = network, scaling, encoder
        self.classes_ = np.asarray(classes)
        self.n_features_in_ = len(scaling.mean) if encoder is None else len(encoder.columns)
        if encoder is not None:
            self.feature_names_in_ = np.array([column.name for column in encoder.columns], dtype=object)

    def scaled(self, rows: Any) -> Tensor:
        """float64 [n, width] as the network takes them."""
        if self.encoder is not None and (isinstance(rows, Frame) or column_names(rows) is not None):
            rows = self.encoder.features(rows)
        return self.scaling(rows)

    @abstractmethod
    def decision_function(self, rows: Any) -> NDArray[np.float64]:
        """Scores [n] or logits [n, classes]."""

    @abstractmethod
    def predict_proba(self, rows: Any) -> NDArray[np.float64]:
        """Probabilities of the classes [n, C]."""

    def predict(self, rows: Any) -> NDArray:
        """The most probable class names [n]."""
        return self.classes_[self.predict_proba(rows).argmax(1)]

    def score(self, rows: Any, labels: ArrayLike) -> float:
        """Accuracy on class names."""
        known = set(map(str, self.classes_))
        words = [w if w in known else canonical_word(w) for w in map(str, np.asarray(labels).tolist())]
        return float((self.predict(rows).astype(str) == np.array(words)).mean())


class ScoreClassifier(_Classifier):
    """Two classes ranked by one score; ``classes_[1]`` is the positive one.

    Probabilities are the sigmoid of slope * score + offset, fitted by maximum likelihood on the training samples
    (Platt): AUC training itself fixes the order of the scores alone.
    """

    def __init__(
        self,
        network: Network,
        scaling: Scaling,
        classes: ArrayLike,
        slope: float = 1.0,
        offset: float = 0.0,
        encoder: TableEncoder | None = None,
    ) -> None:
        super().__init__(network, scaling, classes, encoder)
        self.slope, self.offset = slope, offset

    def decision_function(self, rows: Any) -> NDArray[np.float64]:
        """Scores [n], higher for the positive class."""
        return self.network(self.scaled(rows)).squeeze(-1).double().numpy()

    def predict_proba(self, rows: Any) -> NDArray[np.float64]:
        """[n, 2] in the order of ``classes_``."""
        logit = torch.from_numpy(self.decision_function(rows)) * self.slope + self.offset
        positive = torch.sigmoid(logit)
        return torch.stack([1 - positive, positive], 1).numpy()


class SoftmaxClassifier(_Classifier):
    """Any number of classes, one logit each."""

    def decision_function(self, rows: Any) -> NDArray[np.float64]:
        """Logits [n, classes]."""
        return self.network(self.scaled(rows)).double().numpy()

    def predict_proba(self, rows: Any) -> NDArray[np.float64]:
        """[n, classes]."""
        return torch.from_numpy(self.decision_function(rows)).softmax(1).numpy()


class Sampler:
    """The generator of a GAN."""

    def __init__(self, network: Network, latent: int) -> None:
        self.network, self.latent = network, latent

    def sample(self, count: int, seed: int = 0) -> NDArray[np.float64]:
        """[count, d] new samples, in the units the discriminator saw."""
        noise = torch.randn(count, self.latent, generator=generator_for(seed, "made samples"), dtype=torch.float64)
        return self.network(noise).double().numpy()
