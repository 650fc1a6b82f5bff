"""``manyone run RECIPE --seeds N``: N runs that differ in their seed alone, and their final metrics with intervals.

Their folder holds ``seed-K/``, an ordinary run folder, with ``seed-K.log`` for each, and ``seeds.json``: recipe,
options and seeds from the beginning, and the metrics when all have finished.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from manyone.engine.devices import device_of
from manyone.engine.documents import loads_json
from manyone.engine.fabric import processors
from manyone.engine.files import check_writable, write_atomic, writing
from manyone.engine.options import check_round_trip
from manyone.engine.run import RunFolder
from manyone.engine.trust import check_trusted, named_modules, remember
from manyone.errors import ManyoneError
from manyone.recipes.execution import check_needs, execute, options_from, reopen
from manyone.recipes.options import CommonOptions
from manyone.recipes.recipe import Recipe
from manyone.recipes.table import RECIPES
from manyone.report.record import read_run
from manyone.report.runs import SEEDS, over_seeds, seeds_table
from manyone.reproduce.processes import Task, cluster, task_runner

_OWN = {"out", "overwrite", "workers"}
"""Options that may differ between a command and the one that goes on with its runs: no number depends on them."""


@dataclass(frozen=True)
class SeedRuns:
    """Runs of ``recipe`` below ``path``, one for each of ``seeds``; ``options`` as plain values, those of the first.

    ``trust``: the runs may import the modules that they name, whoever made them.
    """

    path: Path
    recipe: str
    options: Mapping[str, Any]
    seeds: tuple[int, ...]
    trust: bool = False

    def folder(self, seed: int) -> Path:
        """The run folder of ``seed``."""
        return self.path / f"seed-{seed}"

    def options_of(self, seed: int, at_a_time: int = 1) -> dict[str, Any]:
        """The run's options; a recipe with processes of its own shares the processors with the other runs."""
        own: dict[str, Any] = {"seed": seed, "out": str(self.folder(seed))}
        if "workers" in self.options:
            own["workers"] = max(1, processors() // at_a_time)
        return {**self.options, **own}

    def plan(self) -> None:
        """Prints what the first run would do, and how many there are."""
        options = options_from(self.recipe, self.options_of(self.seeds[0]), "options")
        execute(options, RunFolder.create(self.folder(self.seeds[0]), self.recipe, options, options.overwrite))
        print(
            f"as many runs as seeds, {len(self.seeds)}: {self.folder(self.seeds[0])} to {self.folder(self.seeds[-1])}"
        )

    def run(self, workers: int | None = None, on: str | None = None) -> list[dict[str, str]]:
        """Runs what is missing, ``workers`` at a time, and goes on with what was stopped; the metrics in words.

        By default as many run at a time as there are processors, on a GPU one. ``on`` names a cluster.
        """
        if workers is None and on is None:
            workers = 1 if device_of(self.options["device"]).type != "cpu" else processors()
        check_needs(self.recipe, options_from(self.recipe, self.options_of(self.seeds[0]), "options"))
        again = f"manyone resume {self.path} goes on"
        at_a_time = min(workers or processors(), len(self.seeds))
        tasks = [
            Task(
                f"seed {seed}",
                self.path.absolute() / f"seed-{seed}.log",
                f"{__name__}:run_one",
                (
                    self.recipe,
                    RECIPES[self.recipe],
                    self.options_of(seed, at_a_time),
                    self.folder(seed).absolute(),
                    self.trust,
                ),
                again,
            )
            for seed in self.seeds
            if self.options["overwrite"] or not RunFolder(self.folder(seed), self.recipe, {}).done
        ]
        self._write({})
        with cluster(on), task_runner(self.path.absolute(), workers, (__name__,), again) as runner:
            waiting = {task.arguments[3] for task in tasks}

            def done() -> int:
                return len(self.seeds) - len(waiting) + sum((folder / "done").is_file() for folder in waiting)

            runner.run(tasks, "runs", len(self.seeds), done)
        metrics = over_seeds({seed: read_run(self.folder(seed)).final for seed in self.seeds})
        self._write({"metrics": metrics})
        return seeds_table(metrics)

    def _write(self, more: Mapping[str, Any]) -> None:
        content = {"recipe": self.recipe, "options": self.options, "seeds": self.seeds, **more}
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        data = (json.dumps(content, indent=1) + "\n").encode()
        if named_modules(self.options):
            remember(data)
        write_atomic(self.path / SEEDS, data)


def begin(path: Path, recipe: str, options: CommonOptions, count: int) -> SeedRuns:
    """Runs below ``path``, new or begun earlier with the same options; seeds count from that of ``options``.

    Raises ``ManyoneError`` when ``path`` cannot be written or holds something else.
    """
    check_writable(path)
    seeds = tuple(range(options.seed, options.seed + count))
    runs = SeedRuns(path, recipe, check_round_trip(replace(options, out=path)), seeds)
    if (path / SEEDS).is_file():
        earlier = reopen_seeds(path)
        differing = sorted(k for k, v in runs.options.items() if k not in _OWN and earlier.options.get(k, v) != v)
        if not options.overwrite and (earlier.recipe != recipe or differing):
            what = f"other options ({', '.join(differing)})" if earlier.recipe == recipe else f"'{earlier.recipe}'"
            raise ManyoneError(
                f"{path} holds runs with {what}: choose another folder with --out, or replace them with --overwrite"
            )
    elif path.is_dir() and any(path.iterdir()):
        raise ManyoneError(f"{path} exists and holds no {SEEDS}: choose another folder with --out")
    return runs


def reopen_seeds(path: Path, *, trust: bool = False) -> SeedRuns:
    """The runs below ``path``, to go on with them; ``trust`` as for :func:`manyone.recipes.execution.reopen`."""
    try:
        data = loads_json((path / SEEDS).read_bytes())
        options = {**data["options"], "overwrite": False}
        runs = SeedRuns(path, data["recipe"], options, tuple(map(int, data["seeds"])), trust)
    except (OSError, ValueError, KeyError, TypeError, OverflowError) as error:
        raise ManyoneError(f"{path / SEEDS} cannot be read: {error}") from error
    check_trusted(path / SEEDS, options, trust=trust)
    return runs


def run_one(recipe: str, row: Recipe, options: Mapping[str, Any], path: Path, trust: bool = False) -> None:
    """One of the runs, begun or gone on with; called in a process of its own."""
    RECIPES.setdefault(recipe, row)  # a program may have added it to the table
    if (path / "config.yaml").is_file() and not options["overwrite"]:
        folder, chosen = reopen(path, trust=trust)
        folder.lock()
    else:
        chosen = options_from(recipe, options, "options")
        folder = RunFolder.create(path, recipe, chosen, chosen.overwrite)
    execute(chosen, folder)
