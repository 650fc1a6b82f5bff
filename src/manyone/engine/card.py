"""The model card of a folder, ``README.md``: its YAML head, as the hubs read it, its text, and how it is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from manyone.engine.documents import parse_yaml, read_json, read_text
from manyone.engine.mergeable import CARD, WEIGHTS
from manyone.errors import ManyoneError

_LARGEST = 256 << 10  # bytes
_KEPT = ("license", "license_name", "license_link", "language", "pipeline_tag", "base_model")
_FENCED = re.compile(r"^```[a-z]*\n(.*?)^```", re.M | re.S)
_HERE = re.compile(r"PATH/OF/THIS/FOLDER|PATH OF THIS FOLDER|THIS_FOLDER")
_THIS = re.compile(r'"\."(?P<rest>.*?)\s*# this folder')


def read_card(folder: Path) -> str:
    """The card of the model in ``folder``; empty where there is none that can be read."""
    path = folder / CARD
    try:
        return read_text(path, "the model card", largest=_LARGEST) if path.is_file() else ""
    except ManyoneError:
        return ""


def split_card(text: str) -> tuple[str, str]:
    """(The lines of the head, empty where there is none; the rest)."""
    if not text.startswith("---\n") or "\n---\n" not in text[3:]:
        return "", text
    head, _, rest = text[4:].partition("\n---\n")
    return head, rest.lstrip("\n")


def metadata_of(head: str) -> dict[str, Any]:
    """What the lines of a card's head say; nothing where they are no mapping that can be read."""
    try:
        found = parse_yaml(head, "the card's metadata")
    except ManyoneError:
        return {}
    return dict(found) if isinstance(found, Mapping) else {}


def with_head(head: Mapping[str, Any], body: str) -> str:
    """A whole card."""
    return f"---\n{yaml.safe_dump(dict(head), sort_keys=False, allow_unicode=True)}---\n\n{body}"


def inherited(base: Path) -> dict[str, Any]:
    """What the card of ``base`` says that holds for every model made of it: terms, languages, what it was made of."""
    head = metadata_of(split_card(read_card(base))[0])
    return {name: head[name] for name in _KEPT if name in head}


def loader_of(home: Path) -> tuple[str, str]:
    """(Whose loader opens the folder, the lines that do so, fenced), of a model that has no card of its own."""
    if (home / "adapter_config.json").is_file():
        return "peft", _fenced("from peft import PeftModel", 'model = PeftModel.from_pretrained(base, "{}")')
    config = read_json(home / "config.json") if (home / "config.json").is_file() else {}
    if isinstance(config, Mapping) and "architectures" in config and "manyone_format" not in config:
        names = config["architectures"]
        name = str(names[0]) if isinstance(names, list) and names else "AutoModel"
        name = name if name.isidentifier() else "AutoModel"
        return "transformers", _fenced(f"from transformers import {name}", f'model = {name}.from_pretrained("{{}}")')
    if isinstance(config, Mapping) and "manyone_format" in config:
        return "manyone", ""
    if (home / WEIGHTS).is_file():
        return "manyone", _fenced("from safetensors.torch import load_file", f'weights = load_file("{{}}/{WEIGHTS}")')
    lines = ("from manyone.weights.open import open_checkpoint", 'weights = dict(open_checkpoint("{}"))')
    return "manyone", _fenced(*lines) if (home / f"{WEIGHTS}.index.json").is_file() else ""


def _fenced(first: str, second: str) -> str:
    return f"\n```\n{first}\n{second.format('PATH/OF/THIS/FOLDER')}\n```\n"


def loading_lines(folder: Path) -> list[str]:
    """The lines that load the model, as its card has them first, with the folder's own path; none without a card."""
    found = _FENCED.search(split_card(read_card(folder))[1])
    lines = [] if found is None else found[1].rstrip().splitlines()
    place = str(folder).replace("\\", "/").replace('"', "")
    named = (_THIS.sub(lambda match: f'"{place}"{match["rest"]}', line) for line in lines)
    return [_HERE.sub(lambda match: place, line) for line in named]
