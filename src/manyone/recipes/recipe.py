"""What a row of a field's table of recipes holds."""

from __future__ import annotations

from typing import NamedTuple


class Recipe(NamedTuple):
    """A recipe by its parts, which are imported when they are asked for (:mod:`manyone.recipes.table`).

    Modules are named within the field's ``recipes`` package.
    """

    options: str
    """``"module:Class"``, the options as data."""
    build: str
    """``"module:function"``: makes what the options describe; empty where the runner needs no builder."""
    summary: str
    """One line for ``manyone ls``."""
    runner: str = "run"
    """Module with ``run(options, build, folder)``, ``plan`` of the same and ``evaluate(options, build, folder, split)``
    (:class:`manyone.recipes.table.Runner`)."""
    field: str = ""
    """Set by the joined table."""


class Predict(NamedTuple):
    """How ``manyone predict`` asks the models of a field: two modules within its ``recipes`` package."""

    arguments: str
    """Whose models these are and which words the command takes for them (:class:`manyone.recipes.table.Arguments`);
    imports nothing heavy."""
    module: str
    """Answers (:class:`manyone.recipes.table.Predictor`)."""
