"""The model card of a folder, ``README.md``: its YAML head, as the hubs read it, and its text."""

from __future__ import annotations

from pathlib import Path

from manyone.engine.documents import read_text
from manyone.engine.mergeable import CARD
from manyone.errors import ManyoneError

_LARGEST = 256 << 10  # bytes


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
