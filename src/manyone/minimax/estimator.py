"""Distributed AUC maximisation as a scikit-learn classifier: what ``manyone run local-sgda`` trains, on rows in memory.

    model = DistributedAUCClassifier(topology="ring", rounds=50).fit(x, y, groups=hospital)   # a client per hospital
    cross_val_score(model, x, y, scoring="roc_auc")

Public: ``DistributedAUCClassifier``.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.sparse import issparse
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state, column_or_1d
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_array, check_consistent_length, check_is_fitted, validate_data
from torch import Tensor

from manyone.data.tables.encoder import canonical_word, learn_encoder, require_complete
from manyone.data.tables.files import from_columns
from manyone.data.tables.partitions import Kind, partition
from manyone.data.tables.tables import Table, fill_missing
from manyone.engine.artefact import below
from manyone.engine.devices import device_of
from manyone.errors import ManyoneError
from manyone.minimax.calibration import platt
from manyone.minimax.client_data import ClientData
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.mixing.topology import Topology
from manyone.minimax.predict import Network, Scaling, ScoreClassifier, build_network, column_names
from manyone.minimax.problems.auc import AUC, positive_rate
from manyone.minimax.problems.flat import FlatSpec
from manyone.minimax.schedules import decaying
from manyone.minimax.simulated import Simulated

_WORDS = {
    "model": ("linear", "mlp"),
    "categories": ("refuse", "one-hot"),
    "missing": ("refuse", "mean", "median"),
    "unknown": ("refuse", "zeros"),
    "precision": ("64-true", "32-true"),
}
"""What these parameters may be; others are checked where they are used."""


class DistributedAUCClassifier(ClassifierMixin, BaseEstimator):
    """Two classes ranked by one score that clients train together, each on its own rows.

    Parameters are those of ``manyone run local-sgda`` (same numbers, and the same names but for
    three): ``steps`` is its ``--local-steps``, ``batch`` its ``--batch-size``, ``random_state`` its ``--seed``.

    Args:
        clients: m, to whom ``fit`` deals the rows where it gets no ``groups`` (at most as many as rows).
        partition, alpha: how it deals them, see ``data.tables.partitions``.
        topology, steps, rounds, batch, eta_x, eta_y, decay, local_step: the algorithm, see ``DistributedSGDA``.
        model, hidden: "linear" or "mlp", and the widths of its hidden layers.
        form, margin, ridge, ridge_y: the objective, see ``problems.auc.AUC``.
        scale: of the rows, see ``Scaling.fit``.
        categories, missing: columns of words ("refuse", "one-hot") and missing cells ("refuse", "mean", "median") of a
            DataFrame; an array holds numbers, all of them. unknown: words of new rows that no training row had are an
            error ("refuse"), or none of the known words ("zeros").
        precision: "64-true" or "32-true"; device: where to compute.

    Attributes:
        classes_ (the second is positive; sorted after ``fit``, not always after ``load``), n_features_in_,
        feature_names_in_ (of a DataFrame); model_: the fitted ``ScoreClassifier``; state_: the flat state [P] of
        ``spec_``.
    """

    def __init__(
        self,
        *,
        clients: int = 16,
        partition: Kind = "iid",
        alpha: float = 0.5,
        topology: Topology | str = "server",
        steps: int = 5,
        rounds: int = 100,
        batch: int = 1,
        eta_x: float = 0.1,
        eta_y: float = 0.1,
        decay: bool = False,
        local_step: str = "simultaneous",
        model: Literal["linear", "mlp"] = "linear",
        hidden: tuple[int, ...] = (64,),
        form: Literal["solam", "aucm"] = "solam",
        margin: float = 1.0,
        ridge: float = 0.0,
        ridge_y: float = 0.0,
        scale: Literal["standard-rows", "standard", "rows", "none"] = "standard-rows",
        categories: Literal["refuse", "one-hot"] = "refuse",
        missing: Literal["refuse", "mean", "median"] = "refuse",
        unknown: Literal["refuse", "zeros"] = "refuse",
        precision: Literal["64-true", "32-true"] = "64-true",
        device: str = "auto",
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.clients, self.partition, self.alpha = clients, partition, alpha
        self.topology, self.steps, self.rounds, self.batch = topology, steps, rounds, batch
        self.eta_x, self.eta_y, self.decay, self.local_step = eta_x, eta_y, decay, local_step
        self.model, self.hidden = model, hidden
        self.form, self.margin, self.ridge, self.ridge_y = form, margin, ridge, ridge_y
        self.scale, self.categories, self.missing, self.unknown = scale, categories, missing, unknown
        self.precision, self.device, self.random_state = precision, device, random_state

    def fit(self, X: Any, y: ArrayLike, groups: ArrayLike | None = None) -> DistributedAUCClassifier:
        """Trains on rows ``X`` [n, d] (array, sparse matrix, DataFrame) with labels ``y`` [n] of two classes.

        ``groups`` [n]: whose row each is; a client per value.
        """
        for name, words in _WORDS.items():
            if (word := getattr(self, name)) not in words:
                raise ManyoneError(f"{name} = {word!r}: must be one of {', '.join(words)}")
        table, seed = self._table(X, y), self._seed()
        if groups is None:
            parts = partition(table.labels, min(self.clients, len(table)), kind=self.partition, seed=seed,
                              alpha=self.alpha)  # fmt: skip
        else:
            owners = column_or_1d(groups)
            check_consistent_length(owners, table.labels)
            number = torch.from_numpy(np.unique(owners, return_inverse=True)[1])
            parts = [(number == i).nonzero()[:, 0] for i in range(int(number.max()) + 1)]
        scaling, linear = Scaling.fit(table.features, self.scale), self.model == "linear"
        widths = [table.width] if linear else [table.width, *self.hidden, 1]
        problem = AUC(
            positive_rate(table.labels), dim=table.width if linear else None,
            score=None if linear else build_network(widths), form=self.form, margin=self.margin, ridge=self.ridge,
            ridge_y=self.ridge_y,
        )  # fmt: skip
        dtype = torch.float64 if self.precision == "64-true" else torch.float32
        fields = {"features": scaling(table.features).to(dtype), "labels": table.signs.to(dtype)}
        run = Simulated(problem, ClientData.of_parts(fields, parts), self._method(), seed=seed, dtype=dtype,
                        device=device_of(self.device, double=True))  # fmt: skip
        z = run.run()[0, 0].cpu()
        x, _ = problem.spec.unpack(z)
        network = Network(widths, x if linear else below(x, "score."))
        with torch.no_grad():
            slope, offset = platt(problem.score(x, fields["features"]), fields["labels"])
        model = ScoreClassifier(network, scaling, self.classes_, slope, offset, table.encoder)
        self.adopt(model, problem.spec, z)
        return self

    def adopt(self, model: ScoreClassifier, spec: FlatSpec, z: Tensor) -> None:
        """Takes over a classifier and the flat state ``z`` [P] of ``spec`` behind it, trained here or elsewhere."""
        self.spec_, self.state_ = spec, z
        self.model_, self.classes_, self.n_features_in_ = model, model.classes_, model.n_features_in_
        if model.encoder is not None:
            self.feature_names_in_ = model.feature_names_in_
        elif hasattr(self, "feature_names_in_"):  # of an earlier fit
            del self.feature_names_in_

    def parts(self) -> tuple[FlatSpec, Tensor, Scaling, dict[str, Any]]:
        """What :func:`manyone.minimax.artefact.save` writes of the fitted classifier."""
        check_is_fitted(self)
        made, linear = self.model_, self.model == "linear"
        network = {
            "widths": made.network.widths,
            "activation": "relu",
            "output": "none",
            "prefix": "" if linear else "score.",
        }
        params = {**self.get_params(), "topology": Topology.of(self.topology).name}
        if not isinstance(params["random_state"], int):
            params["random_state"] = None
        config = {
            "kind": "score", "recipe": "DistributedAUCClassifier", "problem": "auc", "network": network,
            "classes": [str(c) for c in made.classes_], "slope": made.slope, "offset": made.offset, "estimator": params,
        }  # fmt: skip
        if made.classes_.dtype.kind != "U":
            config["class_values"] = {"dtype": made.classes_.dtype.str, "values": made.classes_.tolist()}
        if made.encoder is not None:
            config["encoder"] = made.encoder.to_dict()
        return self.spec_, self.state_, made.scaling, config

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Scores [n], higher for the positive class."""
        rows = self._rows(X)
        return self.model_.decision_function(rows)

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """[n, 2] in the order of ``classes_``."""
        rows = self._rows(X)
        return self.model_.predict_proba(rows)

    def predict(self, X: Any) -> NDArray:
        """The more probable classes [n]."""
        rows = self._rows(X)
        return self.model_.predict(rows)

    def score(self, X: Any, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy."""
        check_is_fitted(self)
        if self.classes_.dtype.kind == "U":  # the classes of a file are words, also where they are numbers
            y = np.array([w if w in self.classes_ else canonical_word(w) for w in map(str, np.asarray(y).tolist())])
        return super().score(X, y, sample_weight)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        tags.input_tags.sparse = True
        return tags

    def _table(self, X: Any, y: ArrayLike) -> Table:
        """The rows as numbers, with what their columns mean; also sets ``classes_``."""
        encoder, names = None, column_names(X)
        if names is None:
            values, y = validate_data(self, X, y, accept_sparse="csr", dtype=np.float64)
            values = values.toarray() if issparse(values) else np.array(values)
        else:
            frame = from_columns(X, "X")
            check_consistent_length(frame.table, y)
            encoder, frame = learn_encoder(
                frame, label=None, features=names, categories=self.categories, missing=self.missing
            )
            values, y = encoder.matrix(frame), column_or_1d(y, warn=True)
            if self.missing == "refuse":
                require_complete(values, encoder, frame)
        check_classification_targets(y)
        self.classes_, codes = np.unique(y, return_inverse=True)
        if len(self.classes_) != 2:
            if len(self.classes_) < 2:
                raise ValueError(f"Two classes are needed, y holds one class: {self.classes_[0]!r}")
            raise ValueError(f"Only binary classification is supported. The type of the target is {type_of_target(y)}.")
        columns = tuple(map(str, range(values.shape[1]))) if encoder is None else encoder.names
        fill = None if encoder is None or self.missing == "refuse" else self.missing
        table = Table(torch.from_numpy(values), torch.from_numpy(codes), ("0", "1"), columns, "X", encoder=encoder,
                      fill=fill)  # fmt: skip
        return fill_missing(table)[0]

    def _rows(self, X: Any) -> Tensor:
        """Rows as the fitted classifier takes them."""
        check_is_fitted(self)
        encoder = self.model_.encoder
        if encoder is not None and column_names(X) is not None:
            return encoder.features(from_columns(X, "X"), unknown=self.unknown)
        values = check_array(X, accept_sparse="csr", dtype=np.float64, estimator=self)
        width = self.n_features_in_ if encoder is None else encoder.width
        if values.shape[1] != width:
            raise ValueError(f"X has {values.shape[1]} features, but {type(self).__name__} is expecting {width} "
                             "features as input")  # fmt: skip
        return torch.from_numpy(values.toarray() if issparse(values) else np.array(values))

    def _seed(self) -> int:
        state = self.random_state
        return int(state) if isinstance(state, int | np.integer) else int(check_random_state(state).randint(2**31 - 1))

    def _method(self) -> DistributedSGDA:
        rates = (decaying(self.eta_x), decaying(self.eta_y)) if self.decay else (self.eta_x, self.eta_y)
        return DistributedSGDA(topology=self.topology, steps=self.steps, rounds=self.rounds, batch=self.batch,
                               step_sizes=rates, local_step=self.local_step)  # fmt: skip
