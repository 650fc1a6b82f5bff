"""The model card of a folder, ``README.md``: its YAML head, as the hubs read it, and its text."""

from __future__ import annotations

import re
from pathlib import Path

from manyone.engine.documents import read_text
from manyone.engine.mergeable import CARD
from manyone.errors import ManyoneError

_LARGEST = 256 << 10  # bytes
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


def loading_lines(folder: Path) -> list[str]:
    """The lines that load the model, as its card has them first, with the folder's own path; none without a card."""
    found = _FENCED.search(split_card(read_card(folder))[1])
    lines = [] if found is None else found[1].rstrip().splitlines()
    place = str(folder).replace("\\", "/").replace('"', "")
    named = (_THIS.sub(lambda match: f'"{place}"{match["rest"]}', line) for line in lines)
    return [_HERE.sub(lambda match: place, line) for line in named]
