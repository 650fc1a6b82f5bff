"""From a table to a minimax problem: what each ``--problem`` trains, how it is scored and what it leaves behind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from manyone.errors import ManyoneError

if TYPE_CHECKING:
    from manyone.data.tables.tables import Table
    from manyone.minimax.client_data import ClientData
    from manyone.minimax.predict import Scaling
    from manyone.minimax.problems.problem import Problem

ProblemName = Literal["auc", "gan", "agnostic", "group-dro", "neyman-pearson"]
DEFAULT_DATA = {"gan": "digits", "agnostic": "digits", "group-dro": "digits"}
_PROBE = 512
_CALIBRATE = 20_000


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

    ``fields``: the pool of training samples; ``parts``: one array of rows a client.
    """

    kind = ""
    binary = True

    def __init__(self, options: Any, table: Table, dtype: torch.dtype) -> None:
        from manyone.data.tables.partitions import partition
        from manyone.data.tables.tables import split_table
        from manyone.minimax.predict import Scaling

        self.options, self.dtype = options, dtype
        train, test = split_table(table, test=options.test, seed=options.seed)
        self.table = table
        self.scaling: Scaling = Scaling.fit(train.features, options.scale)
        self.train, self.test = (self._side(part) for part in (train, test))
        kind = options.partition
        if kind == "auto":
            kind = "by-class" if options.problem == "agnostic" else "iid"
        self.parts = partition(
            train.labels, options.clients, kind=kind, seed=options.seed, alpha=options.alpha,
            per_client=options.per_client,
        )  # fmt: skip
        self.widths = self._widths(table.width)
        self.problem: Problem = self.make()

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
        from manyone.minimax.client_data import ClientData

        return ClientData.of_parts(self.pool(), self.parts)

    def evaluate(self, z: Tensor) -> dict[str, float]:
        """Figures on both splits, as train/... and test/..."""
        sides = {"train": self.train, "test": self.test}
        found = {n: self.figures(z, side) for n, side in sides.items()}
        return {f"{n}/{k}": v for n, values in found.items() for k, v in values.items()}

    def _side(self, part: Table) -> Side:
        labels = part.signs.to(self.dtype) if self.binary else part.labels
        return Side(self.scaling(part.features).to(self.dtype), labels, part)

    def _widths(self, width: int) -> list[int]:
        out = 1 if self.binary else len(self.table.classes)
        hidden = list(self.options.hidden) if self.options.model == "mlp" else []
        return [width, *hidden, out]

    def _noise(self, count: int, z: Tensor) -> Tensor | None:
        from manyone.minimax.sampling import sample_normals

        shape = self.problem.noise_shape(count)
        return None if shape is None else sample_normals(self.options.seed, 0, [0], [0], shape, stream=255)[0, 0].to(z)

    def _network(self, prefix: str = "") -> dict[str, Any]:
        return {"widths": self.widths, "activation": "relu", "output": "none", "prefix": prefix}


class AUCCase(Case):
    """AUC maximisation."""

    kind = "score"

    def make(self) -> Problem:
        from manyone.minimax.predict import build_network
        from manyone.minimax.problems.auc import AUC, positive_rate

        o, p = self.options, positive_rate(self.train.labels)
        words = {"form": o.form, "ridge": o.ridge}
        if o.model == "linear":
            return AUC(p, dim=self.table.width, **words)
        return AUC(p, score=build_network(self.widths), **words)

    def loss(self, z: Tensor) -> float:
        return float(self.problem.value(z, {k: v[:_PROBE] for k, v in self.pool().items()}))  # type: ignore[attr-defined]

    def figures(self, z: Tensor, side: Side) -> dict[str, float]:
        from manyone.minimax.stability.measures import roc_auc

        risk = float(self.problem.primal_risk(z, side.fields()))  # type: ignore[attr-defined]
        return {"auc": roc_auc(self._scores(z, side), side.labels), "primal_risk": risk}

    def evaluate(self, z: Tensor) -> dict[str, float]:
        found = super().evaluate(z)
        return {**found, "gap": found["test/primal_risk"] - found["train/primal_risk"]}

    def config(self, z: Tensor) -> dict[str, Any]:
        from manyone.minimax.calibration import platt

        slope, offset = platt(self._scores(z, self.train)[:_CALIBRATE], self.train.labels[:_CALIBRATE])
        linear = self.options.model == "linear"
        network = {**self._network("" if linear else "score."), "widths": [self.table.width] if linear else self.widths}
        return {"network": network, "classes": list(self.table.classes), "slope": slope, "offset": offset}

    def _scores(self, z: Tensor, side: Side) -> Tensor:
        with torch.no_grad():
            return self.problem.score(self.problem.spec.unpack(z)[0], side.features)  # type: ignore[attr-defined]


class GANCase(Case):
    """A generative adversarial network on the rows of the table."""

    kind = "sampler"
    binary = False

    def make(self) -> Problem:
        from manyone.minimax.predict import build_network
        from manyone.minimax.problems.gan import GAN

        o = self.options
        self.widths = [o.latent, *o.hidden, self.table.width]
        generator = build_network(self.widths, activation="leaky-relu")
        critic = build_network([self.table.width, *reversed(o.hidden), 1], activation="leaky-relu")
        return GAN(generator, critic, o.latent, form=o.gan_form)

    def pool(self) -> dict[str, Tensor]:
        return {"features": self.train.features}

    def figures(self, z: Tensor, side: Side) -> dict[str, float]:
        from manyone.minimax.stability.measures import measure

        found = measure(self.problem, z[None], [{"features": side.features}], [{"features": side.features}])
        return {"loss": float(found["loss_test"]), "frechet": float(found["frechet"])}

    def config(self, z: Tensor) -> dict[str, Any]:
        return {"network": {**self._network(), "activation": "leaky-relu"}, "latent": self.options.latent}


class MixtureCase(Case):
    """The worst mixture of clients (agnostic) or of classes (group-DRO), with a softmax classifier."""

    kind = "softmax"
    binary = False

    def make(self) -> Problem:
        from manyone.minimax.predict import build_network
        from manyone.minimax.problems.agnostic import AgnosticLearning, GroupDRO

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
        x, y = self.problem.spec.unpack(z)
        losses = self.problem.losses(x, self.train.fields())  # type: ignore[attr-defined]
        if self.options.problem == "agnostic":
            means = torch.stack([losses[part].mean() for part in self.parts])
        else:
            means = torch.stack([losses[self.train.labels == c].mean() for c in range(len(self.table.classes))])
        return float((y["lam"] * means).sum() - self.problem.penalty(y["lam"]))  # type: ignore[attr-defined]

    def figures(self, z: Tensor, side: Side) -> dict[str, float]:
        x, _ = self.problem.spec.unpack(z)
        with torch.no_grad():
            losses = self.problem.losses(x, side.fields())  # type: ignore[attr-defined]
            right = (self.problem.model(x, side.features).argmax(-1) == side.labels).double()  # type: ignore[attr-defined]
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
    """Fewest misses subject to a bound on false alarms: a Lagrange multiplier as y.

    Objective: mean softplus(-h) on positives; constraint: mean softplus(h) on negatives at most ``level``.
    """

    kind = "score"

    def make(self) -> Problem:
        from torch.nn.functional import softplus

        from manyone.minimax.predict import build_network
        from manyone.minimax.problems.auc import positive_rate
        from manyone.minimax.problems.constrained import Constrained

        p, level = positive_rate(self.train.labels), self.options.level

        def objective(h: Any, batch: Mapping[str, Tensor]) -> Tensor:
            plus = (batch["labels"] > 0).to(batch["features"])
            return (softplus(-h(batch["features"]).squeeze(-1)) * plus).mean() / p

        def constraint(h: Any, batch: Mapping[str, Tensor]) -> Tensor:
            minus = (batch["labels"] < 0).to(batch["features"])
            return ((softplus(h(batch["features"]).squeeze(-1)) * minus).mean() / (1 - p) - level)[None]

        return Constrained(build_network(self.widths), objective, constraint, 1, redraw=True)

    def figures(self, z: Tensor, side: Side) -> dict[str, float]:
        from manyone.minimax.stability.measures import roc_auc

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
            return self.problem.call_x(z)(side.features).squeeze(-1)  # type: ignore[attr-defined]


CASES: dict[str, type[Case]] = {
    "auc": AUCCase,
    "gan": GANCase,
    "agnostic": MixtureCase,
    "group-dro": MixtureCase,
    "neyman-pearson": NeymanPearsonCase,
}


def load_case(options: Any, dtype: torch.dtype) -> Case:
    """The case of ``options`` (see ``recipes.local_sgda``)."""
    from manyone.data.tables.tables import load_table

    name = options.data or DEFAULT_DATA.get(options.problem, "breast-cancer")
    table = load_table(
        name, label=options.label, positive=options.positive, categories=options.categories, dtype=torch.float64
    )
    return CASES[options.problem](options, table, dtype)


def topology_of(text: str) -> Any:
    """``--topology``: a name, hierarchical:GROUP[:EVERY], or a file with an edge list."""
    from manyone.minimax.mixing.topology import TOPOLOGIES, Topology

    name, _, rest = text.partition(":")
    if name == "hierarchical":
        words = rest.split(":") if rest else []
        if not 1 <= len(words) <= 2 or not all(w.isdigit() for w in words):
            raise ManyoneError(
                f"--topology {text}: give the group size, hierarchical:GROUP or hierarchical:GROUP:EVERY"
            )
        return Topology("hierarchical", group=int(words[0]), every=int(words[1]) if len(words) == 2 else 4)
    if text in TOPOLOGIES:
        return Topology(text)
    if Path(text).is_file():
        return Topology.from_file(text)
    raise ManyoneError(f"--topology {text}: choose one of {', '.join(TOPOLOGIES)}, or a file with one edge a line")
