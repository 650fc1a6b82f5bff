"""From a table to a minimax problem: what each ``--problem`` trains, how it is scored and what it leaves behind."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from manyone.data.tables.partitions import Kind, partition
from manyone.data.tables.tables import Table, fill_missing, load_table, split_table
from manyone.engine.inputs import digest
from manyone.engine.options import to_plain
from manyone.errors import ManyoneError
from manyone.minimax.calibration import platt
from manyone.minimax.client_data import ClientData
from manyone.minimax.predict import Scaling, build_network
from manyone.minimax.problems.agnostic import AgnosticLearning, GroupDRO
from manyone.minimax.problems.auc import AUC, positive_rate
from manyone.minimax.problems.gan import GAN
from manyone.minimax.problems.neyman_pearson import NeymanPearson
from manyone.minimax.problems.problem import Problem
from manyone.minimax.recipes.options import LocalSGDAOptions, StabilityOptions, TableOptions
from manyone.minimax.sampling import sample_normals
from manyone.minimax.stability.measures import frechet_distance, measure, roc_auc
from manyone.recipes.references import Reference

_PROBE = 512
PARAMETERS = (
    *("alpha", "batch", "categories", "clients", "decay", "device", "eta_x", "eta_y", "form", "hidden", "local_step"),
    *("margin", "missing", "model", "partition", "precision", "random_state", "ridge", "ridge_y", "rounds", "scale"),
    *("steps", "topology", "unknown"),
)
"""Parameters of ``DistributedAUCClassifier``, which a model of AUC maximisation becomes again when it is loaded."""
_CALIBRATE = 20_000
_POOLED = 2_000_000  # numbers of a table within which plain training on all rows takes a moment
_READING = (
    *("label", "positive", "columns", "drop", "client_column", "group"),
    *("categories", "missing", "delimiter", "decimal"),
)


@dataclass(frozen=True)
class Side:
    """One split: ``features`` scaled [N, d], ``labels``: +1/-1 or class numbers; ``raw``: the table behind it."""

    features: Tensor
    labels: Tensor
    raw: Table

    def fields(self) -> dict[str, Tensor]:
        return {"features": self.features, "labels": self.labels}


class Case(ABC):
    """A problem on a table: the parts of a run and its figures. One subclass for each ``--problem``.

    ``train`` is what the clients hold together, ``parts`` one array of its rows a client; scaling, rates of classes,
    calibration and every figure of the training split are of these rows.
    """

    kind = ""
    binary = True
    counts: ClassVar[tuple[str, ...]] = ()
    """The figures that a model is compared by, the one that counts first."""

    def __init__(self, options: LocalSGDAOptions, table: Table) -> None:
        self.dtype = torch.float64 if options.precision == "64-true" else torch.float32
        train, test = split_table(table, test=options.test, seed=options.seed, fill=False)
        self.table = table
        dealt = _deal(options, train)
        self.options = dataclasses.replace(options, clients=len(dealt))
        # what the clients hold is the training set; rows that nobody was dealt (--per-client) enter no figure
        held = torch.cat(dealt).sort().values
        train, test = fill_missing(train.select(held), test)
        self.parts = [torch.searchsorted(held, part) for part in dealt]
        if options.problem not in ("gan", "agnostic"):
            _check_classes(train)
        self.scaling: Scaling = Scaling.fit(train.features, options.scale)
        self.train, self.test = (self._side(part) for part in (train, test))
        self.widths = self._widths(table.width)
        self.problem: Problem = self.make()

    def inputs(self) -> dict[str, str]:
        """What the run reads -> the digest of its content."""
        return inputs(self.options, self.table)

    @abstractmethod
    def make(self) -> Problem:
        """The problem."""

    def loss(self, z: Tensor) -> float:
        """The value of the training objective at the consensus model ``z`` [P], on at most 512 training samples."""
        x, y = self.problem.spec.unpack(z)
        batch = {k: v[:_PROBE] for k, v in self.pool().items()}
        value = self.problem.loss(x, y, batch, self._noise(len(next(iter(batch.values()))), z))
        return float(value if isinstance(value, Tensor) else value[0])

    @abstractmethod
    def figures(self, z: Tensor, side: Side) -> dict[str, float]:
        """Scores of ``z`` on a split."""

    @abstractmethod
    def config(self, z: Tensor) -> dict[str, Any]:
        """What ``minimax.artefact.save`` needs besides the state."""

    def pool(self) -> dict[str, Tensor]:
        """The fields of the training samples."""
        return self.train.fields()

    def data(self) -> ClientData:
        """The clients' samples."""
        return ClientData.of_parts(self.pool(), self.parts)

    def evaluate(self, z: Tensor) -> dict[str, float]:
        """Figures on both splits, as train/... and test/..."""
        sides = {"train": self.train, "test": self.test}
        found = {n: self.figures(z, side) for n, side in sides.items()}
        return {f"{n}/{k}": v for n, values in found.items() for k, v in values.items()}

    def points(self) -> list[Reference]:
        """What a model is compared with: the start, and what can be had without clients."""
        start = self.evaluate(self.problem.start(self.options.seed, self.dtype))
        return [Reference("start", self._what_counts(start), "from"), *self.pooled()]

    def pooled(self) -> list[Reference]:
        """What somebody who holds all rows would get, where that costs little."""
        how = "not trained; it is this run with --clients 1 and as many local steps in all"
        return [Reference("all rows, one client", how=how)]

    def _what_counts(self, figures: Mapping[str, float]) -> dict[str, float]:
        return {name: figures[name] for name in self.counts}

    def _side(self, part: Table) -> Side:
        labels = part.signs.to(self.dtype) if self.binary else part.labels
        return Side(self.scaling(part.features).to(self.dtype), labels, part)

    def _widths(self, width: int) -> list[int]:
        out = 1 if self.binary else len(self.table.classes)
        hidden = list(self.options.hidden) if self.options.model == "mlp" else []
        return [width, *hidden, out]

    def _noise(self, count: int, z: Tensor) -> Tensor | None:
        shape = self.problem.noise_shape(count)
        return None if shape is None else sample_normals(self.options.seed, 0, [0], [0], shape, stream=255)[0, 0].to(z)

    def _network(self, prefix: str = "") -> dict[str, Any]:
        return {"widths": self.widths, "activation": "relu", "output": "none", "prefix": prefix}


class AUCCase(Case):
    """AUC maximisation."""

    kind = "score"
    problem: AUC
    counts = ("test/auc", "test/primal_risk")

    def pooled(self) -> list[Reference]:
        if self.problem.dim is None:
            return super().pooled()
        exact = self.problem.saddle(self.train.fields())
        return [Reference("all rows, exactly", self._what_counts(self.evaluate(exact)), "to")]

    def make(self) -> AUC:
        o, linear = self.options, self.options.model == "linear"
        return AUC(
            positive_rate(self.train.labels),
            dim=self.table.width if linear else None,
            score=None if linear else build_network(self.widths),
            form=o.form, margin=o.margin, ridge=o.ridge, ridge_y=o.ridge_y, running_p=o.running_p,
        )  # fmt: skip

    def loss(self, z: Tensor) -> float:
        return float(self.problem.value(z, {k: v[:_PROBE] for k, v in self.pool().items()}))

    def figures(self, z: Tensor, side: Side) -> dict[str, float]:
        risk = float(self.problem.primal_risk(z, side.fields()))
        return {"auc": roc_auc(self._scores(z, side), side.labels), "primal_risk": risk}

    def evaluate(self, z: Tensor) -> dict[str, float]:
        found = super().evaluate(z)
        return {**found, "gap": found["test/primal_risk"] - found["train/primal_risk"]}

    def config(self, z: Tensor) -> dict[str, Any]:
        slope, offset = platt(self._scores(z, self.train)[:_CALIBRATE], self.train.labels[:_CALIBRATE])
        linear = self.options.model == "linear"
        network = {**self._network("" if linear else "score."), "widths": [self.table.width] if linear else self.widths}
        params = {name: to_plain(getattr(self.options, name)) for name in PARAMETERS if hasattr(self.options, name)}
        params["partition"] = "iid" if self.options.partition == "auto" else self.options.partition
        params["missing"] = "refuse" if self.options.missing == "drop" else self.options.missing
        return {
            "network": network, "classes": list(self.table.classes), "slope": slope, "offset": offset,
            "estimator": {**params, "random_state": self.options.seed},
        }  # fmt: skip

    def _scores(self, z: Tensor, side: Side) -> Tensor:
        with torch.no_grad():
            return self.problem.score(self.problem.spec.unpack(z)[0], side.features)


class GANCase(Case):
    """A generative adversarial network on the rows of the table."""

    kind = "sampler"
    binary = False
    counts = ("test/frechet",)

    def pooled(self) -> list[Reference]:
        apart = frechet_distance(self.train.features, self.test.features)
        return [Reference("the training rows", {"test/frechet": apart}, "to")]

    def make(self) -> GAN:
        o = self.options
        self.widths = [o.latent, *o.hidden, self.table.width]
        generator = build_network(self.widths, activation="leaky-relu")
        critic = build_network([self.table.width, *reversed(o.hidden), 1], activation="leaky-relu")
        return GAN(generator, critic, o.latent, form=o.gan_form)

    def pool(self) -> dict[str, Tensor]:
        return {"features": self.train.features}

    def figures(self, z: Tensor, side: Side) -> dict[str, float]:
        found = measure(self.problem, z[None], [{"features": side.features}], [{"features": side.features}])
        return {"loss": float(found["loss_test"]), "frechet": float(found["frechet"])}

    def config(self, z: Tensor) -> dict[str, Any]:
        return {"network": {**self._network(), "activation": "leaky-relu"}, "latent": self.options.latent}


class MixtureCase(Case):
    """The worst mixture of clients (agnostic) or of classes (group-DRO), with a softmax classifier."""

    kind = "softmax"
    binary = False
    problem: AgnosticLearning | GroupDRO
    counts = ("test/worst_class_accuracy", "test/accuracy")

    def pooled(self) -> list[Reference]:
        """Always the largest class, and logistic regression on the mean loss."""
        from sklearn.linear_model import LogisticRegression  # here: its import takes seconds

        truth = self.test.labels
        largest = truth == self.train.labels.mode().values
        constant = dict(zip(self.counts, (float(bool(largest.all())), float(largest.double().mean()))))
        found = [Reference("always the largest class", constant)]
        if self.options.model != "linear" or self.train.features.numel() > _POOLED:
            return [*found, *super().pooled()]
        plain = LogisticRegression(max_iter=300).fit(self.train.features.numpy(), self.train.labels.numpy())
        right = torch.from_numpy(plain.predict(self.test.features.numpy())) == truth
        each = [float(right[truth == c].double().mean()) for c in truth.unique()]
        scores = dict(zip(self.counts, (min(each), float(right.double().mean()))))
        return [*found, Reference("all rows, logistic regression", scores)]

    def make(self) -> AgnosticLearning | GroupDRO:
        o, model = self.options, build_network(self.widths)
        if o.problem == "agnostic":
            return AgnosticLearning(model, o.clients, rho=o.rho, redraw=True)
        count = len(self.table.classes)
        shares = (self.train.labels.bincount(minlength=count).double() / len(self.train.labels)).tolist()
        return GroupDRO(model, count, frequencies=shares, rho=o.rho, redraw=True)

    def pool(self) -> dict[str, Tensor]:
        fields = self.train.fields()
        return fields | {"group": self.train.labels} if self.options.problem == "group-dro" else fields

    def loss(self, z: Tensor) -> float:
        """The mixture of mean losses, at the present weights."""
        classes = [self.train.labels == c for c in range(len(self.table.classes))]
        parts = self.parts if self.options.problem == "agnostic" else classes
        return float(self.problem.value(z, self.train.fields(), parts))

    def figures(self, z: Tensor, side: Side) -> dict[str, float]:
        x, _ = self.problem.spec.unpack(z)
        with torch.no_grad():
            losses = self.problem.losses(x, side.fields())
            right = (self.problem.model(x, side.features).argmax(-1) == side.labels).double()
        groups = [side.labels == c for c in range(len(self.table.classes))]
        present = [g for g in groups if bool(g.any())]
        return {
            "accuracy": float(right.mean()),
            "worst_class_accuracy": min(float(right[g].mean()) for g in present),
            "loss": float(losses.mean()),
            "worst_class_loss": max(float(losses[g].mean()) for g in present),
        }

    def evaluate(self, z: Tensor) -> dict[str, float]:
        lam = self.problem.spec.unpack(z)[1]["lam"]
        return {**super().evaluate(z), "largest_weight": float(lam.max())}

    def config(self, z: Tensor) -> dict[str, Any]:
        return {"network": self._network(), "classes": list(self.table.classes)}


class NeymanPearsonCase(Case):
    """Fewest misses subject to a bound on false alarms: a Lagrange multiplier as y."""

    kind = "score"
    problem: NeymanPearson
    counts = ("test/detection", "test/false_alarm")

    def make(self) -> NeymanPearson:
        return NeymanPearson(positive_rate(self.train.labels), build_network(self.widths), level=self.options.level)

    def figures(self, z: Tensor, side: Side) -> dict[str, float]:
        scores = self._scores(z, side)
        flagged, plus = scores > 0, side.labels > 0
        return {
            "detection": float(flagged[plus].double().mean()),
            "false_alarm": float(flagged[~plus].double().mean()),
            "auc": roc_auc(scores, side.labels),
        }

    def evaluate(self, z: Tensor) -> dict[str, float]:
        return {**super().evaluate(z), "multiplier": float(z[-1])}

    def config(self, z: Tensor) -> dict[str, Any]:
        classes = list(self.table.classes)
        return {"network": self._network(), "classes": classes, "slope": 1.0, "offset": 0.0}

    def _scores(self, z: Tensor, side: Side) -> Tensor:
        with torch.no_grad():
            return self.problem.scores(z, side.features)


CASES: dict[str, type[Case]] = {
    "auc": AUCCase,
    "gan": GANCase,
    "agnostic": MixtureCase,
    "group-dro": MixtureCase,
    "neyman-pearson": NeymanPearsonCase,
}


def inputs(options: LocalSGDAOptions | StabilityOptions, table: Table) -> dict[str, str]:
    """What a run reads -> the digest of its content (:func:`manyone.engine.inputs.check_inputs`)."""
    whole = [table.features, table.labels, *(t for t in (table.clients, table.groups) if t is not None)]
    found = {f"--data {options.data}": digest(*(part.numpy() for part in whole), "\x1f".join(table.classes))}
    if Path(options.topology).is_file():
        found[f"--topology {options.topology}"] = digest(Path(options.topology).read_bytes())
    return found


def _check_classes(train: Table) -> None:
    missing = next((name for name, count in train.counts.items() if not count), None)
    if missing is not None:
        raise ManyoneError(
            f"{train.name}: the clients' {len(train)} rows hold none of class {missing!r}: give them more rows "
            "(--per-client) or take more --clients"
        )


def _deal(options: LocalSGDAOptions, train: Table) -> list[Tensor]:
    """The rows of each client: those that are its own, or those that it is dealt."""
    if train.clients is not None:
        return [rows for c in range(len(train.client_names)) if len(rows := (train.clients == c).nonzero()[:, 0])]
    kind: Kind = "by-class" if options.problem == "agnostic" else "iid"
    if options.partition != "auto":
        kind = options.partition
    return partition(
        train.labels, options.clients, kind=kind, seed=options.seed, alpha=options.alpha, per_client=options.per_client
    )


def open_table(options: TableOptions) -> Table:
    """The table that ``options`` describe, in double precision."""
    given = {name: getattr(options, name) for name in _READING if hasattr(options, name)}
    return load_table(options.data, **given, dtype=torch.float64)


def load_case(options: LocalSGDAOptions, as_begun: Mapping[str, Any] | None = None) -> Case:
    """The problem that ``options`` describe, on its data; ``as_begun``: the options in the run's folder.

    Until 0.1 the split of a file depended on its name: such a run goes on with the rows that it began with.
    """
    table = open_table(options)
    if as_begun is not None and "missing" not in as_begun:  # an option that is younger than 0.1
        table = dataclasses.replace(table, from_file=False)
    return CASES[options.problem](options, table)
