"""The fields' tables of recipes, joined."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from manyone.engine.words import suggestion
from manyone.errors import ManyoneError
from manyone.fields import FIELDS

if TYPE_CHECKING:
    from manyone.recipes.options import CommonOptions
    from manyone.recipes.recipe import Recipe


def _join() -> dict[str, Recipe]:
    tables = ((field, importlib.import_module(f"manyone.{field}.recipes").RECIPES) for field in FIELDS)
    return {name: recipe._replace(field=field) for field, table in tables for name, recipe in table.items()}


RECIPES: dict[str, Recipe] = _join()
"""Every recipe by name; a name stands in one field only."""


def options_class(name: str) -> type[CommonOptions]:
    """The options dataclass of recipe ``name``. Raises ``ManyoneError`` when there is no such recipe."""
    if name not in RECIPES:
        raise ManyoneError(f"unknown recipe '{name}'; {suggestion(name, RECIPES)} (manyone ls recipes)")
    recipe = RECIPES[name]
    module, _, attribute = recipe.options.partition(":")
    home = f"manyone.{recipe.field}.recipes." if recipe.field else ""
    return getattr(importlib.import_module(home + module), attribute)
