"""An arm of a study: one recipe with the options that are measured, made as the command line makes it."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from manyone.engine.options import to_plain
from manyone.recipes.execution import needs_of
from manyone.recipes.needs import Needs
from manyone.recipes.options import with_preset
from manyone.recipes.table import builder, options_class
from manyone.recipes.words import words_of


def taken_by(recipe: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options ``given``, which a study shares among its arms, that ``recipe`` has."""
    known = {f.name for f in dataclasses.fields(options_class(recipe))}
    return {name: value for name, value in given.items() if name in known}


@dataclass(frozen=True)
class Arm:
    """``method`` and ``variant`` name it in rows and claims; ``given`` is what a user would type for it."""

    method: str
    recipe: str
    given: Mapping[str, Any] = field(default_factory=dict)
    variant: str = ""

    def options(self, **more: Any) -> Any:
        """The recipe's options; ``more`` is given too, and wins."""
        return with_preset(options_class(self.recipe), {**self.given, **more})

    def build(self, options: Any, *arguments: Any, **more: Any) -> Any:
        """What the recipe's builder makes of ``options``."""
        build = builder(self.recipe)
        assert build is not None, f"recipe {self.recipe} has no builder"
        return build(options, *arguments, **more)

    def needs(self) -> Needs:
        """What a run of it asks for before it computes anything."""
        return needs_of(self.recipe, self.options())

    def words(self, **more: Any) -> list[str]:
        """What stands behind ``manyone`` to get the same."""
        given = {name: to_plain(value) for name, value in {**self.given, **more}.items()}
        return ["run", self.recipe, *words_of(given, options_class(self.recipe), f"arm {self.method} {self.variant}")]

    def command(self, **more: Any) -> str:
        """The command that runs the recipe with the options of this arm."""
        return shlex.join(["manyone", *self.words(**more)])

    def with_(self, **more: Any) -> Arm:
        """The arm with ``more`` options given."""
        return dataclasses.replace(self, given={**self.given, **more})
