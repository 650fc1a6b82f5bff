"""One run of a recipe: opened again from its folder, and carried out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from manyone.engine.fabric import is_writer
from manyone.engine.loggers import check_loggers
from manyone.engine.options import values_from_plain
from manyone.engine.run import CONFIG, RunFolder
from manyone.engine.signals import saying_how_to_go_on
from manyone.engine.trust import check_trusted
from manyone.errors import ManyoneError
from manyone.recipes.cards import finish_card
from manyone.recipes.options import CommonOptions, check_places, with_preset
from manyone.recipes.references import references_in
from manyone.recipes.running import print_references
from manyone.recipes.table import RECIPES, about, builder, options_class, runner


def reopen(path: Path, *, trust: bool = False) -> tuple[RunFolder, CommonOptions]:
    """The run at ``path`` and its options, rebuilt from ``config.yaml``.

    ``trust``: also a run of somebody else may name modules that are imported; else that is a ``ManyoneError``.
    """
    folder = RunFolder.open(path)
    check_trusted(path / CONFIG, folder.options, trust=trust)
    if folder.recipe not in RECIPES:
        raise ManyoneError(f"{path} is a run of '{folder.recipe}', a recipe that this version does not have")
    return folder, options_from(folder.recipe, folder.options, f"{path / CONFIG}: options")


def options_from(recipe: str, plain: Mapping[str, Any], where: str) -> CommonOptions:
    """The options of ``recipe`` from plain values, also those of an earlier version; ``where`` opens every message."""
    cls = options_class(recipe)
    return with_preset(cls, {**cls.EARLIER, **values_from_plain(cls, plain, where, True)})


def execute(options: CommonOptions, folder: RunFolder) -> bool:
    """Does the work, or the rest of it, in ``folder``; False when only a plan was printed."""
    check_loggers(options.logger)
    if options.dry_run:
        check_places(options)

    def advice() -> str | None:
        return f"what is done is kept; go on with: manyone resume {folder.path}" if folder.exists else None

    with saying_how_to_go_on(advice):
        runner(folder.recipe).run(options, builder(folder.recipe), folder)
    if options.dry_run and not folder.exists:
        return False
    if is_writer():
        tell_references(folder)
    finish_card(options, folder)
    folder.finish()
    folder.close()
    return True


def tell_references(folder: RunFolder, result: Mapping[str, Any] | None = None) -> None:
    """Prints where ``result``, by default the run's own, lies among the reference points that the run has kept."""
    lines = folder.metrics()
    final: Mapping[str, Any] = next((line for line in reversed(lines) if line.get("kind") == "final"), {})
    print_references(references_in(lines), final if result is None else result, about(folder.recipe))
