"""One run of a recipe: opened again from its folder, planned, and carried out."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from manyone.engine.extras import check_extras
from manyone.engine.fabric import is_writer
from manyone.engine.loggers import check_loggers
from manyone.engine.options import to_plain, values_from_plain
from manyone.engine.progress import say_beginning
from manyone.engine.run import CONFIG, RunFolder
from manyone.engine.signals import saying_how_to_go_on
from manyone.engine.trust import check_trusted
from manyone.errors import ManyoneError
from manyone.recipes.cards import finish_card
from manyone.recipes.needs import Needs
from manyone.recipes.options import CommonOptions, check_places, from_earlier, with_preset
from manyone.recipes.references import references_in
from manyone.recipes.running import print_references
from manyone.recipes.table import RECIPES, about, builder, needs, options_class, runner

_UNTOLD = ("out", "overwrite", "dry_run")  # said otherwise


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
    plain = from_earlier(cls, plain) if isinstance(plain, Mapping) else plain
    return with_preset(cls, values_from_plain(cls, plain, where, True))


def execute(options: CommonOptions, folder: RunFolder) -> bool:
    """Does the work, or the rest of it, in ``folder``; False when only a plan was printed."""
    check_loggers(options.logger)
    if options.dry_run:
        say_beginning(f"{folder.recipe}: a dry run")
        lines = "\n".join(plan(options, folder))
        if is_writer():
            print(lines)
        return False
    check_needs(folder.recipe, options)
    say_beginning(f"{folder.recipe}: {'goes on' if folder.exists else 'begins'}, in {folder.path}")

    def advice() -> str | None:
        return f"what is done is kept; go on with: manyone resume {folder.path}" if folder.exists else None

    with saying_how_to_go_on(advice):
        runner(folder.recipe).run(options, builder(folder.recipe), folder)
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


def needs_of(recipe: str, options: CommonOptions) -> Needs:
    """What a run of ``recipe`` asks for before it computes anything."""
    told = needs(recipe)
    return Needs() if told is None else told(options)


def check_needs(recipe: str, options: CommonOptions) -> None:
    """Raises ``ManyoneError`` where an optional library is missing: before anything is fetched or trained."""
    check_extras(needs_of(recipe, options).extras)


def plan(options: CommonOptions, folder: RunFolder) -> Iterator[str]:
    """What a dry run prints: what would be done, fetched and written, and what the options are. Nothing is fetched."""
    check_places(options)
    needed = needs_of(folder.recipe, options)
    try:
        yield from runner(folder.recipe).plan(options, builder(folder.recipe), folder)
    except ManyoneError:
        if not any(extra.missing for extra in needed.extras):
            raise
        yield f"{folder.recipe}: what it would do is known once what is missing is here"
    yield from needed.lines()
    yield from _told(options)
    yield f"to be written to: {folder.path}"
    yield "nothing was written"


def _told(options: CommonOptions) -> list[str]:
    """Every option that has a value, as presets, aliases and defaults resolve it."""
    words = [f"{name.replace('_', '-')} {_short(value)}" for name, value in _values(to_plain(options))]
    return textwrap.wrap(f"options: {', '.join(words)}", 79, subsequent_indent="  ", break_on_hyphens=False)


def _values(plain: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in plain.items():
        if isinstance(value, Mapping):
            yield from _values(value, f"{prefix}{name}.")
        elif name not in _UNTOLD and value is not None and value is not False and value not in ("", []):
            yield f"{prefix}{name}", value


def _short(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(map(_short, value))
    return "yes" if value is True else f"{value:g}" if isinstance(value, float) else str(value)
