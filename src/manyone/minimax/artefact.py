"""The model folder of a minimax run: ``model.safetensors`` (x/..., y/..., scaling/...), ``config.json``, ``README.md``.

Nothing is pickled; a fresh process needs ``load`` alone.
Public: ``save``, ``load``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.minimax.predict import Sampler, Scaling, ScoreClassifier, SoftmaxClassifier, _Network
from manyone.minimax.problems.flat import FlatSpec

_FORMAT = 1
_README = """# {title}

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


def save(folder: Path, spec: FlatSpec, z: Tensor, scaling: Scaling | None, config: Mapping[str, Any]) -> None:
    """Writes the flat state ``z`` [P] of ``spec``.

    ``config``: kind ("score", "softmax", "sampler"), network (widths, activation, output, prefix of its tensors in x),
    classes or latent, slope and offset, and anything else that is JSON.
    """
    x, y = spec.unpack(z.detach().cpu())
    tensors = {f"x/{k}": v for k, v in x.items()} | {f"y/{k}": v for k, v in y.items()}
    if scaling is not None:
        tensors |= {"scaling/mean": scaling.mean, "scaling/std": scaling.std}
    whole = {"format": _FORMAT, "unit_rows": scaling is not None and scaling.unit_rows, **config}
    width = 0 if scaling is None else len(scaling.mean)
    text = _README.format(
        title=f"Consensus model of a {config.get('recipe', 'minimax')} run",
        folder="PATH/OF/THIS/FOLDER",
        use=_USE[config["kind"]].format(d=width),
    )
    try:
        save_file({k: v.contiguous().clone() for k, v in tensors.items()}, folder / "model.safetensors")
        (folder / "config.json").write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        (folder / "README.md").write_text(text, encoding="utf-8")
    except OSError as problem:
        raise ManyoneError(f"{folder}: cannot write the model: {problem.strerror or problem}") from problem


def load(folder: Path | str) -> ScoreClassifier | SoftmaxClassifier | Sampler:
    """The classifier (or sampler) in ``folder``. Raises ``ManyoneError`` that names what is missing or damaged."""
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        tensors = load_file(folder / "model.safetensors")
    except (OSError, ValueError, SafetensorError) as problem:
        raise ManyoneError(f"{folder} holds no model of a minimax run: {problem}") from None
    if config.get("format") != _FORMAT or config.get("kind") not in _USE:
        raise ManyoneError(f"{folder / 'config.json'}: not a minimax model that this version knows")
    try:
        network = config["network"]
        prefix = "x/" + network["prefix"]
        weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        words = {k: network[k] for k in ("activation", "output") if k in network}
        model = _Network(network["widths"], weights, **words)
        if config["kind"] == "sampler":
            return Sampler(model, config["latent"])
        scaling = Scaling(tensors["scaling/mean"], tensors["scaling/std"], config["unit_rows"])
        if config["kind"] == "score":
            return ScoreClassifier(model, scaling, config["classes"], config["slope"], config["offset"])
        return SoftmaxClassifier(model, scaling, config["classes"])
    except KeyError as problem:
        raise ManyoneError(f"{folder}: the model lacks {problem}") from None
