"""What of a model a merge of weights may change, as the model's own folder says it: data, and no tensor is read here.

A merge averages numbers; in a model folder not every number is a weight. Statistics of observations, tables of tasks,
masks as bits, graphs and class names must be the same in all models that are merged, or belong to one task and are kept
with it. The ``merge`` entry of the configuration (written by :func:`manyone.engine.artefact.write_model`) says which is
which, so that whoever merges knows no field. A name of tensors that ends in ``*`` stands for all that begin so.

Nothing here needs PyTorch. Public names: :class:`Mergeable`, :class:`ByTask`, :func:`is_model`, :func:`mergeable`,
:func:`of_earlier`, :func:`matches`, :func:`at_path`, :func:`config_text`, and the names of files and entries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyone.engine.options import from_plain, to_plain
from manyone.errors import ManyoneError

WEIGHTS, CONFIG, CARD = "model.safetensors", "config.json", "README.md"
DESCRIPTION = "manyone.json"
"""What a Hugging Face folder that was trained here has beside the library's own files."""
DIGEST = "tensors_sha256"
"""Entry of the configuration: SHA-256 of the file of tensors."""
FORMAT = 1
SECTION, MERGED = "merge", "merged"
"""Entries of the configuration: what may be merged, and (of a merged model) what was."""


@dataclass(frozen=True, kw_only=True)
class ByTask:
    """What has a row, or a number, a task: of models of different tasks, the rows of all."""

    names: str
    """Entry of the configuration with the tasks' names, in the order of the rows."""
    rows: tuple[str, ...]
    """Tensors whose first axis is the tasks'. A task that two models know must have equal rows in both."""
    absent: dict[str, Any] = field(default_factory=dict)
    """Tensor -> what every row is, broadcast, of a model that lacks it."""
    numbered: tuple[str, ...] = ()
    """Entries of the configuration that count the tasks: 0, 1, ..."""


@dataclass(frozen=True, kw_only=True)
class Mergeable:
    """What a merge makes of a model's tensors and of its configuration; all that is not named here must be equal."""

    weights: tuple[str, ...] = ()
    """Tensors that are merged, where they are floating-point."""
    fixed: tuple[str, ...] = ()
    """Of these, those that are no weights all the same."""
    tasks: ByTask | None = None
    united: tuple[str, ...] = ()
    """Tensors that some models may lack: the merged model has those of all, which must be equal where several do."""
    united_entries: tuple[str, ...] = ()
    """Mappings in the configuration, likewise."""
    described: tuple[str, ...] = ()
    """Entries of the configuration that tell where a model comes from: what is not the same in all is left out
    (``*``: all entries)."""
    same: tuple[str, ...] = ()
    """Paths (``info.acts_with``) within these whose values must be equal nevertheless."""
    renewed: tuple[str, ...] = ()
    """Paths whose values were of the model before: null in the merged one."""
    never: str = ""
    """Why such a model cannot be merged, and what can."""

    def section(self) -> dict[str, Any]:
        """As the configuration holds it: what is not the default."""
        plain, usual = to_plain(self), to_plain(Mergeable())
        return {name: value for name, value in plain.items() if value != usual[name]}

    def is_weight(self, name: str) -> bool:
        """Whether the tensor ``name`` is one."""
        return matches(name, self.weights) and not matches(name, self.fixed)


_TEAM = Mergeable(weights=("*",), described=("versions", "extra"), renewed=("program",))
_HOW = ("acts_with", "task_free", "selection", "gate", "diffuser", "base")
_EARLIER: tuple[tuple[dict[str, str | None], Mergeable], ...] = (
    ({"policy": None, "tasks": None}, Mergeable(weights=("model.*",), fixed=("model.spaces.*", "model.factors.*"),
                                              described=("info",), same=tuple(f"info.{name}" for name in _HOW))),
    ({"behavior": "policies"}, Mergeable(weights=("weights.*",), described=("info",))),
    ({"behavior": "teacher"}, Mergeable(weights=("policy.*", "critics.*"), described=("info",))),
    ({"graph": None, "spec": None}, _TEAM),
    ({"kind": "earth-vit"}, Mergeable(weights=("*",))),
    ({"kind": "score", "network": None}, Mergeable(weights=("x/*",), described=("recipe", "data", "clients"))),
    ({"kind": "softmax", "network": None}, Mergeable(weights=("x/*",), described=("recipe", "data", "clients"))),
    ({"kind": "sampler", "network": None}, Mergeable(weights=("x/*",), described=("recipe", "data", "clients"))),
    ({"kind": "text-to-sql model"}, Mergeable(weights=("*",), described=("recipe", "data", "steps", "scores"))),
)  # fmt: skip
"""By entries of the configuration, and their values: what is a weight in models that do not say it themselves, as
those that version 0.1 wrote. Nothing of them is joined: what is no weight must be equal."""


def matches(name: str, patterns: Sequence[str]) -> bool:
    """Whether ``name`` is one of ``patterns``, or begins as one that ends in ``*``."""
    return any(name.startswith(p[:-1]) if p.endswith("*") else name == p for p in patterns)


def is_model(config: object) -> bool:
    """Whether ``config`` is the configuration (or description) of a model that this project wrote."""
    # models of minimax runs used to call the number "format"
    return isinstance(config, Mapping) and ("manyone_format" in config or {"format", "network"} <= config.keys())


def mergeable(config: Mapping[str, Any], path: Path) -> Mergeable | None:
    """What ``config``, of the file ``path``, says of itself; None where it says nothing."""
    if (number := config.get("manyone_format", config.get("format"))) != FORMAT:
        raise ManyoneError(f"{path}: format {number!r:.40}; this version of manyone knows {FORMAT}: use a newer one")
    section = config.get(SECTION)
    return None if section is None else from_plain(Mergeable, section, f"{path}: {SECTION}")


def of_earlier(config: Mapping[str, Any]) -> Mergeable:
    """What is known of models that say nothing; of unknown ones that nothing is a weight."""
    for entries, found in _EARLIER:
        if all(name in config and value in (None, config[name]) for name, value in entries.items()):
            return found
    return Mergeable(never="it does not say which of its tensors are weights: load and save it with this version")


def at_path(config: object, path: str) -> Any:
    """The value at ``path`` (keys with dots between); None where there is none."""
    for key in path.split("."):
        config = config.get(key) if isinstance(config, Mapping) else None
    return config


def config_text(config: Mapping[str, Any]) -> str:
    """The configuration as its file has it; ``TypeError`` or ``ValueError`` where it is no JSON data."""
    return json.dumps(config, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
