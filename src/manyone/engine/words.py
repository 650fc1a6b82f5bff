"""Words that users type: suggestions for mistyped ones, and settings after a name."""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from manyone.errors import ManyoneError


def suggestion(word: str, choices: Iterable[str]) -> str:
    """``"did you mean 'x'?"`` for the nearest of ``choices``, or the list of them when none is near."""
    known = sorted(choices)
    near = difflib.get_close_matches(word.lower(), known, n=1, cutoff=0.6)
    if near:
        return f"did you mean '{near[0]}'?"
    return f"known: {', '.join(known)}" if known else "there is none"


def parse_settings(text: str, name: str, given: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The settings in ``text``, what follows the colon of ``NAME:key=value,key=value``, and those ``given`` beside it.

    ======================================  ===========================================================
    ``key``                                 a Python name; blanks around it and its value are left out
    ``10``, ``0.5``, ``1e-3``               a number
    ``true``, ``True``, ``false``, ``None``  what they say
    ``'10'``, ``[]``                        what Python reads, but a comma always ends a setting
    ``mixed``                               anything else is text
    ======================================  ===========================================================

    ``ManyoneError`` that begins with ``name`` for what is no setting and for one that is set twice.
    """
    settings: dict[str, Any] = {}
    for part in filter(str.strip, text.split(",")):
        key, _, value = (piece.strip() for piece in part.partition("="))
        if not key.isidentifier() or not value:
            raise ManyoneError(f"{name}: {part.strip()!r} is not a setting: write NAME:key=value,key=value")
        if key in settings:
            raise ManyoneError(f"{name}: {key} is set twice: give it once")
        settings[key] = _value(value)
    for key, value in (given or {}).items():
        if key in settings:
            raise ManyoneError(f"{name}: {key} is set in the name and as an option ({value}): give it once")
        settings[key] = value
    return settings


def write_settings(settings: Mapping[str, Any]) -> str:
    """``settings`` by name, as :func:`parse_settings` reads them."""
    return ",".join(f"{key}={value}" for key, value in sorted(settings.items()))


def _value(text: str) -> Any:
    try:
        return ast.literal_eval({"true": "True", "false": "False"}.get(text, text))
    except (ValueError, SyntaxError):
        return text
