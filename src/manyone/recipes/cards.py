"""What a finished run adds to its model's card: metadata as the hub reads it, the options, and the final figures.

The card is ``README.md`` in the model folder; what the model is and how it is loaded is written there by its field.
Nothing of this machine is told: of a place only its last part.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any

import manyone
from manyone.engine.card import inherited, loader_of, metadata_of, read_card, split_card, with_head
from manyone.engine.fabric import is_writer
from manyone.engine.files import write_atomic
from manyone.engine.mergeable import CARD
from manyone.engine.options import to_plain
from manyone.engine.run import RunFolder
from manyone.recipes.options import CommonOptions, defaults
from manyone.recipes.table import RECIPES

WEIGHTS = ("*.safetensors", "*.safetensors.index.json")
MARK = "## How it was made"
_HUB = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_MODELS = ("base", "experts", "teacher", "student", "policy", "model")
_HIDDEN = {"out", "overwrite", "device", "logger", "dry_run", "workers", "threads", "seed"}
_MOST = 12  # figures of the metadata and of the table


def finish_card(options: CommonOptions, folder: RunFolder) -> None:
    """Adds metadata, options and figures to the card of the run's model, where the run has left one."""
    home = folder.path / "model"
    if not is_writer() or not any(any(home.glob(pattern)) for pattern in WEIGHTS):
        return
    lines, body = split_card(read_card(home))
    library, loads = loader_of(home)
    base = getattr(options, "base", None)
    head = {"library_name": library, **(inherited(Path(str(base))) if base else {}), **metadata_of(lines)}
    body = body or f"# A model made by `{folder.recipe}`\n{loads}"
    if _made(options, folder) in body or (made := _made(options, folder, body)) in body:
        return
    head = _metadata(head, options, folder)
    write_atomic(home / CARD, with_head(head, f"{body.rstrip()}\n\n{made}").encode())


def _metadata(head: Mapping[str, Any], options: CommonOptions, folder: RunFolder) -> dict[str, Any]:
    field = RECIPES[folder.recipe].field if folder.recipe in RECIPES else ""
    found = dict(head)
    tags = head.get("tags")
    tags = tags if isinstance(tags, list) else []
    found["tags"] = list(dict.fromkeys([*map(str, tags), "manyone", *([field] if field else []), folder.recipe]))
    models = list(dict.fromkeys(_hub_models(options)))
    if models:
        found["base_model"] = models if len(models) > 1 else models[0]
    # the figures of a card that the model has inherited were measured on another model
    found.pop("model-index", None)
    figures = {name: value for name, value in _figures(folder).items() if isinstance(value, float)}  # no counts
    if figures:
        data = _data_of(options)
        found["model-index"] = [
            {
                "name": folder.recipe,
                "results": [
                    {
                        "task": {"type": field or "other"},
                        "dataset": {"type": re.sub(r"[^\w.-]+", "-", data), "name": data},
                        "metrics": [{"type": name, "value": value} for name, value in figures.items()],
                    }
                ],
            }
        ]
    return found


def _hub_models(options: CommonOptions) -> Iterator[str]:
    """The hub's ids among the models that the options name."""
    for name in _MODELS:
        value = getattr(options, name, None)
        for word in value if isinstance(value, tuple) else (value,):
            text = str(word or "")
            if _HUB.fullmatch(text) and not Path(text).exists():
                yield text


def _data_of(options: CommonOptions) -> str:
    """What the figures were measured on, by the name of a suite or of data that everybody has."""
    data = getattr(options, "data", None)
    return str(getattr(options, "suite", None) or (_told(data) if data and isinstance(data, str) else "own data"))


def _made(options: CommonOptions, folder: RunFolder, said: str = "") -> str:
    """How the model was made; figures of a table in ``said`` are left out."""
    lines = [MARK, "", f"`manyone run {folder.recipe}`, seed {options.seed}, manyone {manyone.__version__}.", ""]
    if changed := _changed(options):
        lines += ["| option | value |", "|---|---|", *(f"| {name} | {value} |" for name, value in changed.items()), ""]
    rows = [f"| {name} | {value:.4g} |" for name, value in _figures(folder).items()]
    if rows := [row for row in rows if row not in said.splitlines()]:
        lines += ["| figure | value |", "|---|---|", *rows, ""]
    return "\n".join(lines)


def _changed(options: CommonOptions) -> dict[str, str]:
    """The options that are not as they are by themselves, in words."""
    plain, usual = dataclasses.asdict(options), defaults(type(options), {})
    found = {}
    for name, value in plain.items():
        if name not in _HIDDEN and value != usual.get(name, ()) and value is not None:
            shown = _told(to_plain(value) if not isinstance(value, PurePath) else value)
            found[f"`--{name.replace('_', '-')}`"] = shown.replace("|", "\\|").replace("\n", " ")
    return found


def _told(value: Any) -> str:
    """A value as others may read it: of an absolute place its last part."""
    if isinstance(value, (list, tuple)):
        return " ".join(map(_told, value))
    text = str(value)
    name, equals, place = text.partition("=")
    if equals and place.startswith("/"):
        return f"{name}={','.join(PurePath(part).name for part in place.split(','))}"
    return PurePath(text).name if text.startswith("/") else text


def _figures(folder: RunFolder) -> dict[str, int | float]:
    """The final metrics that are numbers, at most a dozen."""
    final: Mapping[str, Any] = next((line for line in reversed(folder.metrics()) if line.get("kind") == "final"), {})
    numbers = {
        name: value
        for name, value in final.items()
        if name not in ("step", "kind", "time")
        and isinstance(value, int | float)
        and not isinstance(value, bool)
        and math.isfinite(value)
    }
    overall = {name: value for name, value in numbers.items() if "/" not in name} or numbers
    return dict(list(overall.items())[:_MOST])
