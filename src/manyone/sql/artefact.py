"""What a distillation leaves: a plain Hugging Face folder that ``from_pretrained`` opens, with ``manyone.json``.

Public names: :func:`save`, :func:`load`, :class:`Saved`, :func:`is_sql_model`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from manyone.engine.documents import loads_json
from manyone.engine.files import sync_file, sync_folder, writing
from manyone.engine.mergeable import CARD, DESCRIPTION, SECTION, Mergeable
from manyone.errors import ManyoneError
from manyone.sql.language_model import LanguageModel
from manyone.sql.models import open_model, open_tokenizer, without_bars, without_lora

_FORMAT, _KIND = 1, "text-to-sql model"
_LARGEST = 1 << 20  # bytes
_MERGEABLE = Mergeable(
    weights=("*",), described=("*",), same=("kind", "style", "matched", "tables", "columns", "max_input", "max_output")
)
"""Of models that were asked in the same way the weights are merged; where they come from is told no more."""


@dataclass(frozen=True, eq=False)
class Saved:
    """A model, its tokenizer, and how it is asked."""

    model: LanguageModel
    tokenizer: Any
    info: dict[str, Any] = field(default_factory=dict)
    """Recipe, data, scores ...; ``max_input`` and ``max_output`` in tokens. Plain JSON values."""


def save(
    folder: str | os.PathLike[str],
    model: Any,
    tokenizer: Any,
    info: Mapping[str, Any],
    *,
    merged: bool = True,
) -> None:
    """Writes ``model`` (a transformers or PEFT model) into ``folder``, adapters merged unless ``merged`` is False."""
    folder = Path(folder)
    description = {"manyone_format": _FORMAT, "kind": _KIND, **info, SECTION: _MERGEABLE.section()}
    try:
        text = json.dumps(description, indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise ManyoneError(f"{folder / DESCRIPTION}: not written: {error}") from None
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        own = without_lora(model) if merged else model
        with without_bars():
            own.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        (folder / CARD).write_text(_card(info), encoding="utf-8")
        (folder / DESCRIPTION).write_text(text, encoding="utf-8")
        for path in folder.iterdir():
            if path.is_file():
                sync_file(path)
        sync_folder(folder)


def load(
    folder: str | os.PathLike[str], device: str | torch.device = "cpu", dtype: torch.dtype = torch.float32
) -> Saved:
    """The model in ``folder``: a run or its ``model`` folder, or any Hugging Face folder of a causal LM."""
    path = Path(folder)
    path = path / "model" if (path / "model").is_dir() else path
    if not path.is_dir():
        raise ManyoneError(f"{folder}: no such folder: give the model folder of a run, or a Hugging Face folder")
    info = read_description(path) if (path / DESCRIPTION).is_file() else {}
    model = open_model(str(path), dtype).to(device).eval()
    return Saved(LanguageModel(model), open_tokenizer(str(path)), info)


def is_sql_model(folder: str | os.PathLike[str]) -> bool:
    """Whether ``folder`` holds a model of this field."""
    path = Path(folder) / DESCRIPTION
    return path.is_file() and read_description(path.parent).get("kind") == _KIND


def read_description(folder: Path) -> dict[str, Any]:
    """``manyone.json`` of a model folder."""
    path = folder / DESCRIPTION
    try:
        if path.stat().st_size > _LARGEST:
            raise ValueError(f"{path.stat().st_size} bytes")
        found = loads_json(path.read_bytes())
        if not isinstance(found, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise ManyoneError(f"{path}: damaged ({' '.join(str(error).split())}): save the model again") from None
    number = found.get("manyone_format")
    if type(number) is not int or number > _FORMAT:
        raise ManyoneError(f"{path}: format {number!r:.40}; this version of manyone knows {_FORMAT}: use a newer one")
    return found


def _card(info: Mapping[str, Any]) -> str:
    lines = [
        "---", "library_name: transformers", "pipeline_tag: text-generation", "tags: [text-to-sql]", "---", "",
        f"# Text-to-SQL by {info.get('recipe', 'distillation')}", "",
        "A causal language model that continues a database schema and a question with SQL; trained by manyone.", "",
        "```python", "from manyone.sql import load", "", 'model = load("PATH/OF/THIS/FOLDER")',
        'found = model.ask("How many rows are there?", "FILE.sqlite")  # found.sql', "```", "",
    ]  # fmt: skip
    for name, value in info.items():
        if isinstance(value, (str, int, float, bool)):
            lines.append(f"- {name.replace('_', ' ')}: {value}")
    scores = info.get("scores")
    if isinstance(scores, Mapping):
        lines += ["", "| score | value |", "|---|---|", *(f"| {k} | {v:.4g} |" for k, v in scores.items())]
    lines += ["", "SQL of a model is not to be trusted: run it read-only, with limits of time and memory.", ""]
    return "\n".join(lines)
