"""``manyone run``, ``resume`` and ``eval``: the verbs that work on one run folder."""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Any

from manyone.cli.parser import Parser, at_least_one
from manyone.cli.show import show
from manyone.engine.fabric import is_writer
from manyone.engine.progress import say_beginning
from manyone.errors import ManyoneError
from manyone.recipes.options import option_of, single_options
from manyone.recipes.table import RECIPES, builder, options_class, runner

if TYPE_CHECKING:
    from manyone.engine.run import RunFolder
    from manyone.recipes.options import CommonOptions, Split
    from manyone.reproduce.seeds import SeedRuns

_EVAL_OPTIONS = (
    ("episodes", int, "policies: episodes a task (default: the run's --eval-episodes)"),
    ("seed", int, "policies: seed of the episodes' starts (default: 0, as in training)"),
    ("horizon", int, "policies: steps of an episode (default: as in training)"),
    ("target-return", float, "policies: returns to ask for, one row of a table each"),
    ("beams", int, "sql: answers of a beam search of which the first that runs counts (default: as in training)"),
)
"""What only some fields take: the ``EVAL_OPTIONS`` of their runners."""


def run(words: Sequence[str]) -> int:
    """``manyone run RECIPE [--options]``."""
    parser = Parser(
        "run",
        "Runs a recipe; everything that it writes is in one run folder.\n\n"
        f"recipes: {', '.join(RECIPES) or 'none'}\n\n"
        "`manyone run RECIPE --help` shows the recipe's options; --config FILE.yaml reads options from a file.\n"
        "--seeds N makes N runs, with the seed and those after it, side by side, and one table with intervals;\n"
        "with it --workers is the number of runs at a time, and --cluster dask|ray runs them on a cluster.\n"
        "--scale 0.1,0.2,0.3 makes a run for each value, of any option that is one number or word (of several lists\n"
        "for all combinations), and a table; --select val|test|METRIC marks the best of them.",
        f"manyone run {next(iter(RECIPES), 'RECIPE')} --seed 1 --out runs/first",
    )
    parser.add_argument("recipe", metavar="RECIPE", help="what to run (manyone ls recipes)")
    recipe = parser.parse(words[:1]).recipe
    # here, so that the help of the verb answers at once
    from manyone.cli.options import parse_options
    from manyone.engine.run import RunFolder

    words, several = _take_seeds(words[1:])
    words, lists, select = _take_lists(options_class(recipe), words)
    if lists:
        return _go_sweep(recipe, words, lists, select, several)
    options = parse_options(options_class(recipe), recipe, words)
    path = options.out or _default_folder(recipe)
    if several is None:
        return _go(options, RunFolder.create(path, recipe, options, options.overwrite))
    from manyone.reproduce.seeds import begin

    runs = begin(path, recipe, options, several.seeds)
    if options.dry_run:
        runs.plan()
        return 0
    return _go_seeds(runs, several)


def resume(words: Sequence[str]) -> int:
    """``manyone resume RUN``."""
    parser = Parser(
        "resume",
        "Goes on with an interrupted run from its newest intact checkpoint; the result is the same as without the\n"
        "interruption. The options are those in the run's config.yaml.",
        "manyone resume runs/first",
    )
    parser.add_argument("run", metavar="RUN", type=Path, help="the run folder, or that of `run --seeds`")
    _add_side_by_side(parser)
    _add_trust(parser)
    parsed = parser.parse(words)
    at_least_one(parsed, "workers")
    from manyone.recipes.execution import reopen

    if (parsed.run / "seeds.json").is_file():
        from manyone.reproduce.seeds import reopen_seeds

        return _go_seeds(reopen_seeds(parsed.run, trust=parsed.trust), parsed)
    if parsed.workers or parsed.cluster:
        raise ManyoneError(f"--workers and --cluster are for folders of several seeds, and {parsed.run} is none")
    folder, options = reopen(parsed.run, trust=parsed.trust)
    if folder.done:
        _say(f"{folder.path} is finished already; next: manyone report {quote(str(folder.path))}")
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
    parser.add_argument("run", metavar="RUN", type=Path, help="the run folder, or that of `run --seeds`")
    parser.add_argument(
        "--split", choices=("test", "val", "train"), default="test", help="the samples to use (default: test)"
    )
    for name, kind, text in _EVAL_OPTIONS:
        parser.add_argument(f"--{name}", metavar="N", type=kind, help=text, nargs="+" if kind is float else None)
    _add_trust(parser)
    parsed = parser.parse(words)
    at_least_one(parsed, "episodes", "horizon", "beams")
    if parsed.seed is not None and parsed.seed < 0:
        raise ManyoneError(f"--seed {parsed.seed}: must be at least 0")
    asked = {n.replace("-", "_"): getattr(parsed, n.replace("-", "_")) for n, _, _ in _EVAL_OPTIONS}
    asked = {name: value for name, value in asked.items() if value is not None}
    from manyone.recipes.execution import reopen, tell_references

    if (parsed.run / "seeds.json").is_file():
        from manyone.report.runs import over_seeds, seeds_table
        from manyone.reproduce.seeds import reopen_seeds

        runs = reopen_seeds(parsed.run)
        opened = {seed: reopen(runs.folder(seed), trust=parsed.trust) for seed in runs.seeds}
        each = {seed: _evaluate(*one, parsed.split, asked) for seed, one in opened.items()}
        numbers = {s: {k: v for k, v in m.items() if isinstance(v, float | int)} for s, m in each.items()}
        if is_writer():
            show(seeds_table(over_seeds(numbers)), f"{parsed.run} on {parsed.split}")
        return 0
    folder, options = reopen(parsed.run, trust=parsed.trust)
    metrics = _evaluate(folder, options, parsed.split, asked)
    if is_writer():
        show(metrics, f"{parsed.run} on {parsed.split}")
        if parsed.split == "test" and not asked and isinstance(metrics, Mapping):
            tell_references(folder, metrics)
    return 0


def _evaluate(folder: RunFolder, options: CommonOptions, split: Split, asked: Mapping[str, Any]) -> Any:
    """The metrics of one run folder; ``asked``: the field's own options of the evaluation."""
    from manyone.recipes.execution import check_needs

    check_needs(folder.recipe, options)
    say_beginning(f"{folder.recipe}: evaluates {folder.path}")
    known = getattr(runner(folder.recipe), "EVAL_OPTIONS", ())
    for name in asked.keys() - set(known):
        takes = ", ".join(f"--{one.replace('_', '-')}" for one in ("split", *known))
        raise ManyoneError(f"--{name.replace('_', '-')}: runs of {folder.recipe} are evaluated with {takes} alone")
    return runner(folder.recipe).evaluate(options, builder(folder.recipe), folder, split, **asked)


def _add_side_by_side(parser: Parser) -> None:
    parser.add_argument(
        "--workers", metavar="N", type=int, help="with several seeds: runs at a time (default: by the CPUs; GPU: 1)"
    )
    parser.add_argument("--cluster", choices=("dask", "ray"), help="with several seeds: where to run them")


def _add_trust(parser: Parser) -> None:
    parser.add_argument(
        "--trust",
        action="store_true",
        help="import the modules that the run names, and follow links out of its folder, whoever made it",
    )


def _take_seeds(words: Sequence[str]) -> tuple[list[str], argparse.Namespace | None]:
    """``words`` without ``--seeds N`` and what belongs to it, and the latter; None where there is no ``--seeds``."""
    if not any(word.split("=")[0] == "--seeds" for word in words) or {"-h", "--help", "--help-all"} & set(words):
        return list(words), None
    parser = Parser("run RECIPE", "Several runs.", "", add_help=False)
    parser.add_argument("--seeds", type=int)
    _add_side_by_side(parser)
    several, rest = parser.parse_known_args(words)
    at_least_one(several, "seeds", "workers")
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ManyoneError("--seeds starts processes of its own: leave torchrun out")
    return rest, several


def _take_lists(cls: type[CommonOptions], words: Sequence[str]) -> tuple[list[str], dict[str, list[str]], str | None]:
    """``words`` without ``--select`` and without options that are one number or word and are given several, with
    commas; those by name, and what is selected by."""
    if {"-h", "--help", "--help-all"} & set(words):
        return list(words), {}, None
    names = single_options(cls)
    rest: list[str] = []
    lists: dict[str, list[str]] = {}
    select = None
    remaining = iter(words)
    for word in remaining:
        name, equals, value = word.partition("=")
        option = name.removeprefix("--").replace("-", "_")
        option = (option_of(option, cls) or option) if name.startswith("--") else ""
        if option != "select" and option not in names:
            rest.append(word)
            continue
        given = value if equals else next(remaining, None)
        value = given or ""
        if option == "select":
            select = value
        elif "," in value and value.strip(","):  # a comma alone is a value: --decimal ,
            lists[option.replace("_", "-")] = _values(name, value)
        else:
            rest += [word] if equals or given is None else [word, given]
    if select is not None and (not lists or not select):
        raise ManyoneError(
            "--select val|test|METRIC chooses among several runs: give an option a list, --scale 0.1,0.3"
        )
    return rest, lists, select


def _values(name: str, text: str) -> list[str]:
    values = [value.strip() for value in text.split(",")]
    if "" in values or len(set(values)) < len(values) or any("/" in value for value in values):
        raise ManyoneError(f"{name} {text}: a list has different values with one comma between two")
    return values


def _go_sweep(
    recipe: str, words: Sequence[str], lists: Mapping[str, list[str]], select: str | None, several: Any
) -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ManyoneError("lists of values start processes of their own: leave torchrun out")
    from manyone.cli.options import parse_options
    from manyone.reproduce.sweep import BEST, Sweep, caution, combinations

    points = combinations(lists)
    cls = options_class(recipe)
    options = [
        parse_options(cls, recipe, [*words, *(f"--{name}={value}" for name, value in point.items())])
        for point in points.values()
    ]
    path = options[0].out or _default_folder(recipe)
    sweep = Sweep(path, recipe, points, options, None if several is None else several.seeds)
    if options[0].dry_run:
        sweep.plan()
        return 0
    workers, cluster = (None, None) if several is None else (several.workers, several.cluster)
    show(sweep.run(workers, cluster, select), f"{recipe}, {len(points)} combinations" + f" by {select}" * bool(select))
    if warning := caution(select):
        print(f"note: {warning}")
    if select is not None:
        print(f"best: {path / json.loads((path / BEST).read_text())['run']} (in {path / BEST})")
    print(f"runs: {path}")
    return 0


def _go(options: CommonOptions, folder: RunFolder) -> int:
    from manyone.recipes.execution import execute

    if execute(options, folder):
        _say(f"run: {folder.path}\nnext: manyone report {quote(str(folder.path))}")
    return 0


def _go_seeds(runs: SeedRuns, several: argparse.Namespace) -> int:
    table = runs.run(several.workers, several.cluster)
    show(table, f"{runs.recipe}, {len(runs.seeds)} seeds")
    print(f"runs: {runs.path}\nnext: manyone report {quote(str(runs.path))}")
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
