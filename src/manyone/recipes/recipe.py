"""What a row of a field's table of recipes holds."""

from __future__ import annotations

from typing import NamedTuple


class Recipe(NamedTuple):
    """``options``: "module:Class" in the field's ``recipes`` package; ``summary``: one line; ``field`` is set by the
    joined table (:mod:`manyone.recipes.table`)."""

    options: str
    summary: str
    field: str = ""
