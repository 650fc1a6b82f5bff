"""``manyone run``, ``resume`` and ``eval``: the verbs that work on one run folder."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from manyone.cli.parser import Parser
from manyone.cli.show import show
from manyone.engine.fabric import is_writer
from manyone.errors import ManyoneError
from manyone.recipes.table import RECIPES, builder, options_class, runner

if TYPE_CHECKING:
    from manyone.engine.run import RunFolder
    from manyone.recipes.options import CommonOptions


def run(words: Sequence[str]) -> int:
    """``manyone run RECIPE [--options]``."""
    parser = Parser(
        "run",
        "Runs a recipe; everything that it writes is in one run folder.\n\n"
        f"recipes: {', '.join(RECIPES) or 'none'}\n\n"
        "`manyone run RECIPE --help` shows the recipe's options; --config FILE.yaml reads options from a file.",
        f"manyone run {next(iter(RECIPES), 'RECIPE')} --seed 1 --out runs/first",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="what to run (manyone ls recipes)")
    recipe = parser.parse(words[:1]).recipe
    # here, so that the help of the verb answers at once
    from manyone.cli.options import parse_options
    from manyone.engine.run import RunFolder

    options = parse_options(options_class(recipe), recipe, words[1:])
    folder = RunFolder.create(options.out or _default_folder(recipe), recipe, options, options.overwrite)
    return _go(options, folder)


def resume(words: Sequence[str]) -> int:
    """``manyone resume RUN``."""
    parser = Parser(
        "resume",
        "Goes on with an interrupted run from its newest intact checkpoint; the result is the same as without the\n"
        "interruption. The options are those in the run's config.yaml.",
        "manyone resume runs/first",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the run folder")
    folder, options = _reopen(parser.parse(words).run)
    if folder.done:
        _say(f"{folder.path} is finished already; next: manyone report {folder.path}")
        return 0
    folder.lock()
    return _go(options, folder)


def evaluate(words: Sequence[str]) -> int:
    """``manyone eval RUN [--split test|val|train]``."""
    parser = Parser(
        "eval",
        "Evaluates what a run holds, finished or not, and prints the metrics.",
        "manyone eval runs/first --split val",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the run folder")
    parser.add_argument(
        "--split", choices=("test", "val", "train"), default="test", help="the samples to use (default: test)"
    )
    parsed = parser.parse(words)
    folder, options = _reopen(parsed.run)
    metrics = runner(folder.recipe).evaluate(options, builder(folder.recipe), folder, parsed.split)
    if is_writer():
        show(metrics, f"{folder.path} on {parsed.split}")
    return 0


def _reopen(path: Path) -> tuple[RunFolder, CommonOptions]:
    """The run at ``path`` and its options, rebuilt from ``config.yaml``."""
    from manyone.engine.options import values_from_plain
    from manyone.engine.run import RunFolder
    from manyone.recipes.options import with_preset

    folder = RunFolder.open(path)
    if folder.recipe not in RECIPES:
        raise ManyoneError(f"{path} is a run of '{folder.recipe}', a recipe that this version does not have")
    cls = options_class(folder.recipe)
    return folder, with_preset(cls, values_from_plain(cls, folder.options, f"{path / 'config.yaml'}: options", True))


def _go(options: CommonOptions, folder: RunFolder) -> int:
    from manyone.engine.loggers import check_loggers

    check_loggers(options.logger)
    runner(folder.recipe).run(options, builder(folder.recipe), folder)
    if options.dry_run and not folder.exists:
        return 0
    folder.finish()
    folder.close()
    _say(f"run: {folder.path}\nnext: manyone report {folder.path}")
    return 0


def _say(text: str) -> None:
    if is_writer():
        print(text)


def _default_folder(recipe: str) -> Path:
    """``runs/RECIPE-TIME``, with a number when two runs begin in the same second."""
    first = Path("runs") / f"{recipe}-{time.strftime('%Y%m%d-%H%M%S')}"
    folder, number = first, 2
    while folder.exists():
        folder, number = first.with_name(f"{first.name}-{number}"), number + 1
    return folder
