"""The fields' tables of recipes joined into one, and what a recipe's row names."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from manyone.engine.words import suggestion
from manyone.errors import ManyoneError
from manyone.fields import FIELDS
from manyone.recipes.recipe import About

if TYPE_CHECKING:
    import argparse

    from manyone.engine.run import RunFolder
    from manyone.recipes.needs import Needs
    from manyone.recipes.options import CommonOptions, Split
    from manyone.recipes.predictions import Predictions
    from manyone.recipes.recipe import Predict, Recipe

Builder = Callable[..., Any]


class Runner(Protocol):
    """What carries a recipe out; a module usually. ``build`` is None for a recipe without a builder."""

    def run(self, options: Any, build: Any, folder: RunFolder) -> None:
        """Does the work and writes it into ``folder``. After an interruption it is called again with the same."""

    def plan(self, options: Any, build: Any, folder: RunFolder) -> Iterable[str]:
        """What ``run`` would do, in lines: a dry run calls this alone. It fetches, trains and writes nothing; what only
        the data tell is ``manyone.recipes.needs.UNKNOWN``."""

    def evaluate(self, options: Any, build: Any, folder: RunFolder, split: Split) -> Mapping[str, float]:
        """The metrics on ``split`` of what ``folder`` holds, finished or not."""


class Arguments(Protocol):
    """What ``manyone predict`` takes for the models of a field; a light module."""

    SUMMARY: str
    """What the models do, in a sentence or two."""
    USAGE: str
    """The words after ``manyone predict``, as help shows them."""
    EXAMPLE: str
    """A whole command line."""

    def recognises(self, folder: Path, config: Mapping[str, Any]) -> bool:
        """Whether a model folder, whose ``config.json`` holds ``config``, is the field's."""

    def declare(self, parser: Any) -> None:
        """Adds the field's own words to an ``argparse`` parser; MODEL, --out and --overwrite are there."""


class Predictor(Protocol):
    """What answers with the models of a field; a module."""

    def predict(self, folder: Path, parsed: argparse.Namespace) -> Predictions:
        """What the model in ``folder`` makes of what ``parsed`` gives. ``ManyoneError`` where nothing can be had."""


class Predicting(NamedTuple):
    """A field whose models answer."""

    field: str
    arguments: Arguments
    module: str
    """The predictor's, for :func:`predictor`."""


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


def about(name: str) -> About:
    """What the field of recipe ``name`` says of its papers and metrics; nothing where it has no module ``about``."""
    place = f"manyone.{RECIPES[name].field}.recipes.about" if name in RECIPES and RECIPES[name].field else ""
    if not place or importlib.util.find_spec(place) is None:
        return About()
    return importlib.import_module(place).ABOUT


def needs(name: str) -> Callable[[Any], Needs] | None:
    """What tells from the options of recipe ``name`` what a run asks for: the function that its field's table of
    recipes names in ``NEEDS`` ("module:function"); None where there is none."""
    field = _recipe(name).field
    place = getattr(importlib.import_module(f"manyone.{field}.recipes"), "NEEDS", "") if field else ""
    return _part(name, place) if place else None


def predicting() -> list[Predicting]:
    """The fields whose table of recipes has a ``PREDICT``."""
    found = []
    for field in FIELDS:
        predict: Predict | None = getattr(importlib.import_module(f"manyone.{field}.recipes"), "PREDICT", None)
        if predict is not None:
            place = f"manyone.{field}.recipes."
            arguments: Any = importlib.import_module(place + predict.arguments)
            found.append(Predicting(field, arguments, place + predict.module))
    return found


def predictor(one: Predicting) -> Predictor:
    """What answers for the field."""
    found: Any = importlib.import_module(one.module)
    return found


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
