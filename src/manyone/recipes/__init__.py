"""The table of recipes: name -> where its options are, its field, one line. Nothing is imported before it is asked for.

A recipe's module has a dataclass ``Options`` (or the one named after the colon) whose method ``run(run)`` does the
work in a ``RunFolder``; ``manyone.recipes.common`` holds the options that all recipes share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from manyone.engine.words import suggestion
from manyone.errors import ManyoneError

if TYPE_CHECKING:
    from manyone.recipes.common import CommonOptions


class Recipe(NamedTuple):
    """Where a recipe is: ``module`` ("package.module" or "package.module:OptionsClass"), ``field``, ``summary``."""

    module: str
    field: str
    summary: str


RECIPES: dict[str, Recipe] = {
    "experts": Recipe("manyone.recipes.experts", "merging", "train the base, heads and experts of a task suite"),
}


def options_class(name: str) -> type[CommonOptions]:
    """The options dataclass of recipe ``name``. Raises ``ManyoneError`` when there is no such recipe."""
    import importlib

    if name not in RECIPES:
        raise ManyoneError(f"unknown recipe '{name}'; {suggestion(name, RECIPES)} (manyone ls recipes)")
    module, _, attribute = RECIPES[name].module.partition(":")
    return getattr(importlib.import_module(module), attribute or "Options")
