"""The model folder of a minimax run: ``model.safetensors`` (x/..., y/..., scaling/...), ``config.json``, ``README.md``.

Nothing is pickled; a fresh process needs ``load`` alone.
Public: ``save``, ``load``.
"""

from __future__ import annotations

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from torch import Tensor

from manyone.engine.artefact import CONFIG, below, made_of, read_model, write_model
from manyone.errors import ManyoneError
from manyone.minimax.predict import Sampler, Scaling, ScoreClassifier, SoftmaxClassifier, _Network
from manyone.minimax.problems.flat import FlatSpec

_CARD = """# {title}

```python
from manyone.minimax.artefact import load
model = load("{folder}")
{use}
```
"""
_USE = {
    "score": "model.predict_proba(rows)   # rows [n, {d}] as in the table; also decision_function, predict",
    "softmax": "model.predict_proba(rows)   # rows [n, {d}] as in the table; also decision_function, predict",
    "sampler": "model.sample(16, seed=0)",
}


def save(
    folder: str | PathLike[str], spec: FlatSpec, z: Tensor, scaling: Scaling | None, config: Mapping[str, Any]
) -> None:
    """Writes the flat state ``z`` [P] of ``spec``.

    ``config``: kind ("score", "softmax", "sampler"), network (widths, activation, output, prefix of its tensors in x),
    classes or latent, slope and offset, and anything else that is JSON.
    """
    x, y = spec.unpack(z.detach().cpu())
    tensors = {f"x/{k}": v for k, v in x.items()} | {f"y/{k}": v for k, v in y.items()}
    if scaling is not None:
        tensors |= {"scaling/mean": scaling.mean, "scaling/std": scaling.std}
    whole = {"unit_rows": scaling is not None and scaling.unit_rows, **config}
    width = 0 if scaling is None else len(scaling.mean)
    card = _CARD.format(
        title=f"Consensus model of a {config.get('recipe', 'minimax')} run",
        folder="PATH/OF/THIS/FOLDER",
        use=_USE[config["kind"]].format(d=width),
    )
    write_model(folder, tensors, whole, card)


def load(folder: str | PathLike[str]) -> ScoreClassifier | SoftmaxClassifier | Sampler:
    """The classifier (or sampler) in ``folder``. Raises ``ManyoneError`` that names what is missing or damaged."""
    config, tensors = read_model(folder, "a minimax model", ("kind", "network"))
    path = Path(folder) / CONFIG
    if config["kind"] not in _USE:
        raise ManyoneError(f"{path}: kind {config['kind']!r}: must be one of {', '.join(_USE)}")
    with made_of(path):
        network = config["network"]
        weights = below(tensors, "x/" + network["prefix"])
        words = {k: network[k] for k in ("activation", "output") if k in network}
        model = _Network(network["widths"], weights, **words)
        if config["kind"] == "sampler":
            return Sampler(model, config["latent"])
        scaling = Scaling(tensors["scaling/mean"], tensors["scaling/std"], config["unit_rows"])
        if config["kind"] == "score":
            return ScoreClassifier(model, scaling, config["classes"], config["slope"], config["offset"])
        return SoftmaxClassifier(model, scaling, config["classes"])
