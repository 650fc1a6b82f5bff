"""``manyone predict`` for minimax: a classifier's probabilities for the rows of a file, its columns found by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from manyone.errors import ManyoneError
from manyone.minimax.artefact import load
from manyone.minimax.estimator import DistributedAUCClassifier
from manyone.minimax.predict import Sampler


def recognises(config: Mapping[str, Any]) -> bool:
    """Whether the configuration of a model folder is one of minimax."""
    return config.get("kind") in ("score", "softmax", "sampler") and "network" in config


def predict(
    folder: Path, file: Path, *, delimiter: str | None = None, unknown: Literal["refuse", "zeros"] = "refuse"
) -> dict[str, Sequence[Any]]:
    """Column -> its values: ``predicted``, and ``probability NAME`` of every class."""
    model = load(folder)
    if isinstance(model, Sampler):
        raise ManyoneError(f"{folder}: the generator of a GAN scores no rows: load it in Python, model.sample(16)")
    encoder = (model.model_ if isinstance(model, DistributedAUCClassifier) else model).encoder
    if encoder is None:
        raise ManyoneError(f"{folder}: this model keeps no names of columns (trained on an array, or by an earlier "
                           "version): load it in Python and give it arrays")  # fmt: skip
    rows = encoder.features(encoder.frame(file, delimiter=delimiter), unknown=unknown)
    probabilities = model.predict_proba(rows)
    names = [str(name) for name in model.classes_]
    found = {f"probability {name}": probabilities[:, i].tolist() for i, name in enumerate(names)}
    return {"predicted": [names[i] for i in probabilities.argmax(1)], **found}
