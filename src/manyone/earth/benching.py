"""Cells of a comparison: one encoder on one set under one protocol, a figure with its interval, and what it cost.

The figure is overall accuracy (classes), micro mAP (label vectors) or RMSE (numbers); intervals are bootstrapped over
blocks of ground where the samples have any, as neighbours are nearly copies of each other.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from manyone.earth.metrics import class_iou, confusion, mean_average_precision
from manyone.earth.protocols.few_shot import SHOTS, few_shot
from manyone.earth.protocols.probe import PROTOCOLS, probe
from manyone.earth.protocols.scores import Scores, kind_of
from manyone.earth.samples import Samples
from manyone.earth.statistics import Ranking, mean_interval, rank, regression_interval
from manyone.errors import ManyoneError
from manyone.evaluation.intervals import Interval

METRIC = {"class": "accuracy", "labels": "micro_map", "value": "rmse"}
"""What a cell's figure is, by the kind of its targets."""
_FEW = re.compile(r"few-shot(\d*)$")
_DRAWS = 3


@dataclass(frozen=True)
class Cell:
    """One figure of the table."""

    data: str
    model: str
    protocol: str
    metric: str
    value: float
    low: float | None
    high: float | None
    n: int
    """Test samples."""
    width: int
    seconds: float
    """Of the protocol; the encoder's passes are counted apart."""
    values: Mapping[str, float] = field(default_factory=dict)
    """Every metric of the protocol."""
    chosen: Mapping[str, Any] = field(default_factory=dict)
    curve: Mapping[int, tuple[float, float]] = field(default_factory=dict)
    """Of few labels: labels a class -> mean and deviation over draws."""
    confusion: tuple[tuple[int, ...], ...] = ()
    iou: tuple[float | None, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As JSON data."""
        return {**self.__dict__, "values": dict(self.values), "chosen": dict(self.chosen),
                "curve": {str(k): list(v) for k, v in self.curve.items()}}  # fmt: skip


def cell_from(data: Any, where: str) -> Cell:
    """What :meth:`Cell.to_json` made. ``ManyoneError`` that names ``where`` for anything else."""
    try:
        rest = {k: v for k, v in data.items() if k not in ("curve", "confusion", "iou")}
        curve = {int(k): (float(m), float(s)) for k, (m, s) in data["curve"].items()}
        return Cell(**rest, curve=curve, confusion=tuple(map(tuple, data["confusion"])), iou=tuple(data["iou"]))
    except (AttributeError, KeyError, TypeError, ValueError) as problem:
        raise ManyoneError(f"{where}: no figure of a comparison ({problem}): run it again") from None


def check_protocols(names: Sequence[str]) -> None:
    """Raises ``ManyoneError`` for a protocol that there is not."""
    for name in names:
        found = _FEW.match(name)
        if name not in PROTOCOLS and not (found and (not found[1] or int(found[1]) > 0)):
            raise ManyoneError(f"--protocols {name}: must be {', '.join(PROTOCOLS)} or few-shotN (N labels a class)")


def is_few_shot(name: str) -> bool:
    """Whether the protocol draws a few labels of each class."""
    return _FEW.match(name) is not None


def applies(name: str, samples: Samples) -> bool:
    """Whether the protocol takes the set's targets."""
    kind = kind_of(samples.targets)
    return kind == "class" if _FEW.match(name) else kind in PROTOCOLS[name].takes


def measure(
    features: np.ndarray, samples: Samples, model: str, protocol: str, *, resamples: int = 1000, seed: int = 0
) -> tuple[Cell, Scores]:
    """The cell, and the scores that it is made of (of few labels, those of the first draw)."""
    few = _FEW.match(protocol)
    began = time.process_time()
    curve: dict[int, tuple[float, float]] = {}
    if few:
        at = int(few[1] or 10)
        sizes = sorted({at, *(() if few[1] else SHOTS)})
        found = few_shot(features, samples.targets, samples.splits, sizes=sizes, seeds=_DRAWS)
        curve = {int(k): (m, 0.0 if np.isnan(s) else s) for k, (m, s) in found.mean_std("accuracy").items()}
        draws = found.scores[at]
    else:
        draws = (probe(features, samples.targets, samples.splits, protocol),)
    seconds = time.process_time() - began
    interval, metric = _interval(draws, samples, resamples, seed)
    shown = draws[0]
    means = {name: float(np.mean([one.values[name] for one in draws])) for name in shown.values}
    values = {name: value for name, value in means.items() if np.isfinite(value)}
    matrix = iou = None
    if metric == "accuracy":
        # of all draws together: numbers of classes are those of the set, which training need not have all of
        matrix = np.sum([confusion(d.truth, d.predictions, len(samples.classes)) for d in draws], axis=0)
        iou = class_iou(matrix)
    cell = Cell(
        samples.name, model, protocol, metric, interval.value, _finite(interval.low), _finite(interval.high),
        len(samples.splits.test), int(features.shape[1]), seconds, values, dict(shown.chosen), curve,
        () if matrix is None else tuple(map(tuple, matrix.tolist())),
        () if iou is None else tuple(_finite(v) for v in iou.tolist()),
    )  # fmt: skip
    return cell, shown


def blind(samples: Samples) -> float:
    """The figure of one that sees no image: always the largest class of the training samples, the rate of each of
    their labels, or the mean of their values."""
    train, test = (samples.targets[part] for part in (samples.splits.train, samples.splits.test))
    kind = kind_of(samples.targets)
    if kind == "class":
        values, counts = np.unique(train, return_counts=True)
        return float(np.mean(test == values[counts.argmax()]))
    if kind == "labels":
        rates = np.broadcast_to(train.mean(0), test.shape)
        return float(mean_average_precision(np.asarray(test), rates)["micro_map"])
    return float(np.sqrt(np.mean(np.square(test - train.mean()))))


def ranking(cells: Sequence[Cell], protocol: str, models: Sequence[str], seed: int = 0) -> Ranking | None:
    """Ranks of the models that have figures on most sets, over these sets; None where that is one model alone.

    A model that lacks one of the sets (another kind of data, a band too few) is not ranked, and the notes say so.
    """
    own = {(c.model, c.data): c for c in cells if c.protocol == protocol}
    sets = {m: tuple(d for d in dict.fromkeys(key[1] for key in own) if (m, d) in own) for m in models}
    data = max(sets.values(), key=len, default=())
    ranked = [m for m in models if sets[m] == data]
    if len(ranked) < 2 or not data:
        return None
    table = np.array([[own[m, d].value for d in data] for m in ranked])
    lower = [own[ranked[0], d].metric == "rmse" for d in data]
    found = rank(table, ranked, data, lower_is_better=lower, seed=seed)
    others = [m for m in models if sets[m] and m not in ranked]
    note = (f"not ranked, as they lack some of these sets: {', '.join(others)}",) if others else ()
    return replace(found, notes=(*found.notes, *note))


def _interval(draws: Sequence[Scores], samples: Samples, resamples: int, seed: int) -> tuple[Interval, str]:
    metric = METRIC[kind_of(samples.targets)]
    blocks = samples.splits.test_blocks
    if metric == "accuracy":
        right = np.mean([one.predictions == one.truth for one in draws], axis=0)
        return mean_interval(right, blocks, resamples=resamples, seed=seed), metric
    if metric == "rmse":
        truth, predicted = draws[0].truth, draws[0].predictions
        return regression_interval("rmse", truth, predicted, blocks, resamples=resamples, seed=seed), metric
    value = draws[0].values[metric]
    return Interval(value, float("nan"), float("nan"), len(draws[0].truth), 0.95), metric


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
