"""The command that gives a run again, from the options in its ``config.yaml``."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from manyone.engine.options import to_plain, values_from_plain
from manyone.errors import ManyoneError
from manyone.recipes.options import from_earlier, with_preset
from manyone.recipes.table import RECIPES, options_class
from manyone.recipes.words import words_of

_OF_THE_RUN = ("out", "overwrite", "dry_run")
"""Options that no number depends on, and that a repetition has of its own."""


def command_of(recipe: str, plain: Mapping[str, Any]) -> str | None:
    """The shortest command whose options are ``plain``; None for options that this version does not take."""
    if recipe not in RECIPES:
        return None
    cls = options_class(recipe)
    try:
        given = values_from_plain(cls, from_earlier(cls, plain), "options", True)
        given = {name: value for name, value in given.items() if name not in _OF_THE_RUN}
        wanted = with_preset(cls, given)
        for name in list(given):
            fewer = {k: v for k, v in given.items() if k != name}
            if _gives(cls, fewer, wanted):
                given = fewer
        words = words_of({name: to_plain(value) for name, value in given.items()}, cls, "options")
    except ManyoneError:
        return None
    return shlex.join(["manyone", "run", recipe, *(part for word in words for part in _apart(word))])


def _apart(word: str) -> tuple[str, ...]:
    """``--lr=0.1`` as two words, which read better; a value that begins like an option stays where it is."""
    name, equals, value = word.partition("=")
    return (name, value) if word.startswith("--") and equals and value and not value.startswith("-") else (word,)


def _gives(cls: type[Any], given: Mapping[str, Any], wanted: Any) -> bool:
    """Whether ``given`` makes the options ``wanted``."""
    try:
        return bool(with_preset(cls, given) == wanted)
    except (ManyoneError, TypeError):  # something is missing
        return False
