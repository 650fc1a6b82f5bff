"""The model folder of a minimax run: ``model.safetensors``, ``config.json``, ``README.md``.

Tensors are x/..., y/... (the saddle point), scaling/... (of rows), calibration/... (of scores as probabilities).

Nothing is pickled; a fresh process needs ``load`` alone. ``config.json`` keeps what the columns of the training table
mean (names, words, order), so that rows are read by name.
Public: ``save``, ``load``, ``load_model``.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from manyone.data.tables.encoder import TableEncoder
from manyone.engine.artefact import CONFIG, WEIGHTS, below, check_shapes, made_of, read_model, write_model
from manyone.engine.mergeable import Mergeable
from manyone.errors import ManyoneError
from manyone.minimax.predict import Network, Sampler, Scaling, ScoreClassifier, SoftmaxClassifier
from manyone.minimax.problems.flat import FlatSpec

if TYPE_CHECKING:
    from manyone.minimax.estimator import DistributedAUCClassifier

_CARD = """# {title}

```python
from manyone.minimax.artefact import load
model = load("{folder}")
{use}
```
"""
_FITTED, _PLATT = "calibration/", ("slope", "offset")
_HERE = "PATH/OF/THIS/FOLDER"
_ROWS = (
    "model.predict_proba(rows)   # a DataFrame with the table's columns, or an array [n, {d}]; also predict\n"
    "# manyone predict {folder} rows.csv --out scored.csv"
)
_USE = {
    "score": _ROWS,
    "softmax": _ROWS,
    "sampler": "model.sample(16, seed=0)",
}


def save(
    folder: str | PathLike[str],
    spec: FlatSpec | DistributedAUCClassifier,
    z: Tensor | None = None,
    scaling: Scaling | None = None,
    config: Mapping[str, Any] | None = None,
) -> None:
    """Writes a fitted classifier, or the flat state ``z`` [P] of ``spec``.

    ``config``: kind ("score", "softmax", "sampler"), network (widths, activation, output, prefix of its tensors in x),
    classes or latent, slope and offset, and anything else that is JSON.
    """
    if not isinstance(spec, FlatSpec):
        spec, z, scaling, config = spec.parts()
    if z is None or config is None:
        raise ManyoneError("save: give a fitted classifier; or the layout, its state and its configuration")
    x, y = spec.unpack(z.detach().cpu())
    tensors = {f"x/{k}": v for k, v in x.items()} | {f"y/{k}": v for k, v in y.items()}
    if scaling is not None:
        tensors |= {"scaling/mean": scaling.mean, "scaling/std": scaling.std}
    whole = {"unit_rows": scaling is not None and scaling.unit_rows, **config}
    # fitted as the weights are, and merged with them
    tensors |= {_FITTED + k: torch.tensor(float(whole.pop(k)), dtype=torch.float64) for k in _PLATT if k in whole}
    width = 0 if scaling is None else len(scaling.mean)
    card = _CARD.format(
        title=f"Consensus model of a {config.get('recipe', 'minimax')} run",
        folder=_HERE,
        use=_USE[config["kind"]].format(d=width, folder=_HERE),
    )
    merge = Mergeable(weights=("x/*", "y/*", f"{_FITTED}*"), described=("recipe", "data", "clients", "estimator"))
    write_model(folder, tensors, whole, card, merge=merge)


def load(
    folder: str | PathLike[str],
) -> DistributedAUCClassifier | ScoreClassifier | SoftmaxClassifier | Sampler:
    """The classifier (or sampler) in ``folder``: of AUC maximisation a fitted scikit-learn estimator with the
    parameters that it was trained with. Raises ``ManyoneError`` that names what is missing or damaged."""
    found = load_model(folder)
    if found.spec is None:
        return found.model
    from manyone.minimax.estimator import DistributedAUCClassifier  # with scikit-learn, whose import takes seconds

    assert isinstance(found.model, ScoreClassifier)
    with made_of(Path(folder) / CONFIG):
        known = DistributedAUCClassifier().get_params()
        given = {name: value for name, value in found.parameters.items() if name in known}
        estimator = DistributedAUCClassifier(**{**given, "hidden": tuple(given.get("hidden", known["hidden"]))})
        estimator.adopt(found.model, found.spec, found.state)
    return estimator


class Loaded(NamedTuple):
    """What a model folder holds: a classifier or sampler; of AUC maximisation also what an estimator of it is made of:
    the layout and the flat state behind it, and its parameters."""

    model: ScoreClassifier | SoftmaxClassifier | Sampler
    spec: FlatSpec | None = None
    state: Any = None
    parameters: Mapping[str, Any] = {}


def load_model(folder: str | PathLike[str]) -> Loaded:
    """What :func:`load` makes its estimator of, for those who only ask the model; scikit-learn is not imported."""
    config, tensors = read_model(folder, "a minimax model", ("kind", "network"))
    path = Path(folder) / CONFIG
    if str(config["kind"]) not in _USE:
        raise ManyoneError(f"{path}: kind {config['kind']!r}: must be one of {', '.join(_USE)}")
    with made_of(path, tensors):
        network = config["network"]
        weights = below(tensors, "x/" + network["prefix"])
        words = {k: network[k] for k in ("activation", "output") if k in network}
        model = Network(network["widths"], weights, **words)
        wanted = model.shapes()  # beside them AUC's auxiliary variables may stand
        check_shapes(wanted, {k: v for k, v in weights.items() if k in wanted}, Path(folder) / WEIGHTS)
        if config["kind"] == "sampler":
            return Loaded(Sampler(model, config["latent"]))
        scaling = Scaling(tensors["scaling/mean"], tensors["scaling/std"], config["unit_rows"])
        encoder = TableEncoder.from_dict(config["encoder"]) if "encoder" in config else None
        if config["kind"] == "softmax":
            return Loaded(SoftmaxClassifier(model, scaling, config["classes"], encoder))
        classes = _classes(config)
        # in models of earlier versions they are part of the configuration
        slope, offset = (float(tensors[_FITTED + k] if _FITTED + k in tensors else config[k]) for k in _PLATT)
        made = ScoreClassifier(model, scaling, classes, slope, offset, encoder)
        if config.get("problem", "auc") != "auc":
            return Loaded(made)
        x, y = below(tensors, "x/"), below(tensors, "y/")
        spec = FlatSpec.of(x, y)
        return Loaded(made, spec, spec.pack(x, y), config.get("estimator", {}))


def _classes(config: Mapping[str, Any]) -> NDArray[Any]:
    """The classes with the type that they had."""
    given = config.get("class_values")
    return np.asarray(config["classes"]) if given is None else np.array(given["values"], dtype=given["dtype"])
