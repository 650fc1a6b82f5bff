"""The fields' tables of recipes joined into one, and what a recipe's row names."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from manyone.engine.words import suggestion
from manyone.errors import ManyoneError
from manyone.fields import FIELDS

if TYPE_CHECKING:
    from manyone.engine.run import RunFolder
    from manyone.recipes.options import CommonOptions, Split
    from manyone.recipes.recipe import Recipe

Builder = Callable[..., Any]


class Runner(Protocol):
    """What carries a recipe out; a module usually. ``build`` is None for a recipe without a builder."""

    def run(self, options: Any, build: Any, folder: RunFolder) -> None:
        """Does the work and writes it into ``folder``. After an interruption it is called again with the same."""

    def evaluate(self, options: Any, build: Any, folder: RunFolder, split: Split) -> Mapping[str, float]:
        """The metrics on ``split`` of what ``folder`` holds, finished or not."""


class Predictor(Protocol):
    """What scores rows with the models of a field; a module, which the field's table of recipes calls PREDICT."""

    def recognises(self, config: Mapping[str, Any]) -> bool:
        """Whether a model folder with the configuration ``config`` is the field's."""

    def predict(self, folder: Path, file: Path, *, delimiter: str | None, unknown: Any) -> Mapping[str, Sequence[Any]]:
        """Column -> one value a row of ``file``: ``predicted`` and what belongs to it."""


def _join() -> dict[str, Recipe]:
    tables = ((field, importlib.import_module(f"manyone.{field}.recipes").RECIPES) for field in FIELDS)
    return {name: recipe._replace(field=field) for field, table in tables for name, recipe in table.items()}


RECIPES: dict[str, Recipe] = _join()
"""Every recipe by name; a name stands in one field only."""


def options_class(name: str) -> type[CommonOptions]:
    """The options dataclass of recipe ``name``. Raises ``ManyoneError`` when there is no such recipe."""
    return _part(name, _recipe(name).options)


def builder(name: str) -> Builder | None:
    """What makes the model (learner, team, ...) that recipe ``name`` trains; None where its runner needs none."""
    build = _recipe(name).build
    return _part(name, build) if build else None


def runner(name: str) -> Runner:
    """What runs and evaluates recipe ``name``."""
    return _module(name, _recipe(name).runner)


def predictors() -> Iterator[Predictor]:
    """Of the fields that have one."""
    for field in FIELDS:
        name = getattr(importlib.import_module(f"manyone.{field}.recipes"), "PREDICT", None)
        if name is not None:
            yield importlib.import_module(f"manyone.{field}.recipes.{name}")


def _recipe(name: str) -> Recipe:
    if name not in RECIPES:
        raise ManyoneError(f"unknown recipe '{name}'; {suggestion(name, RECIPES)} (manyone ls recipes)")
    return RECIPES[name]


def _part(name: str, place: str) -> Any:
    module, _, attribute = place.partition(":")
    return getattr(_module(name, module), attribute)


def _module(name: str, module: str) -> Any:
    field = RECIPES[name].field
    return importlib.import_module(f"manyone.{field}.recipes.{module}" if field else module)
