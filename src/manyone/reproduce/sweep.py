"""``manyone run RECIPE --scale 0.1,0.2``: a run for every value, or for every combination of several lists' values.

Their folder holds a run folder each (with ``--seeds`` a folder of several seeds each), called by its values, and
``sweep.json``; with ``--select`` also ``best.json``: which of them is the best, by what, on which split.
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from manyone.engine.devices import device_of
from manyone.engine.fabric import processors
from manyone.engine.files import check_writable, write_atomic
from manyone.engine.options import check_round_trip
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.execution import check_needs, execute, reopen
from manyone.recipes.options import CommonOptions
from manyone.recipes.table import RECIPES, about, builder, runner
from manyone.report.record import read_run
from manyone.reproduce.processes import Task, cluster, task_runner
from manyone.reproduce.seeds import SeedRuns

SWEEP, BEST = "sweep.json", "best.json"
_SPLITS = ("val", "test")


@dataclass(frozen=True)
class Sweep:
    """Runs of ``recipe`` below ``path``: folder's name -> the values that it has of the listed options; ``options``
    are those of each, in the same order. ``seeds``: how many of each, None for a single run."""

    path: Path
    recipe: str
    points: Mapping[str, Mapping[str, str]]
    options: Sequence[CommonOptions]
    seeds: int | None = None

    def plan(self) -> None:
        """Prints what the first run would do, and how many there are."""
        first = self.options[0]
        execute(first, RunFolder.create(self.path / next(iter(self.points)), self.recipe, first, first.overwrite))
        count = f"{len(self.points)} combinations" + f", {self.seeds} seeds each" * bool(self.seeds)
        print(f"{count}, below {self.path}: {', '.join(self.points)}")

    def run(self, workers: int | None, on: str | None, select: str | None) -> list[dict[str, str]]:
        """Runs what is missing, ``workers`` at a time; a table of the metric that ``select`` names, the best marked.

        ``select`` is a split, or a metric of the runs' last line.
        """
        check_needs(self.recipe, self.options[0])
        check_writable(self.path)
        lists = {"recipe": self.recipe, "points": self.points, "seeds": self.seeds}
        self.path.mkdir(parents=True, exist_ok=True)
        write_atomic(self.path / SWEEP, (json.dumps(lists, indent=1) + "\n").encode())
        if self.seeds is None:
            self._run_single(workers, on)
        else:
            for runs in self._several():
                runs.run(workers, on)
        metric, found = self._measured(select)
        best = None
        if select is not None:
            less = about(self.recipe).label(metric).better == "less"
            best = (min if less else max)(found, key=lambda name: found[name])
            self._keep(best, metric, found[best], select)
        return [
            {"run": name, **values, metric: f"{found[name]:.6g}", "": "best" * (name == best)}
            for name, values in self.points.items()
        ]

    def _folders(self, name: str) -> list[Path]:
        if self.seeds is None:
            return [self.path / name]
        return [runs.folder(seed) for runs in self._several() if runs.path.name == name for seed in runs.seeds]

    def _several(self) -> list[SeedRuns]:
        places = [self.path / name for name in self.points]
        return [
            SeedRuns(place, self.recipe, check_round_trip(replace(one, out=place)), _seeds(one, self.seeds or 1))
            for place, one in zip(places, self.options)
        ]

    def _run_single(self, workers: int | None, on: str | None) -> None:
        if workers is None and on is None:
            workers = 1 if device_of(self.options[0].device).type != "cpu" else processors()
        again = "the same command goes on with what is missing"
        tasks = []
        for name, one in zip(self.points, self.options):
            folder = self.path / name
            plain = check_round_trip(replace(one, out=folder))
            if (folder / "config.yaml").is_file() and not one.overwrite:
                earlier = RunFolder.open(folder).options
                differing = [k for k, v in plain.items() if k not in _OWN and earlier.get(k, v) != v]
                if differing:
                    raise ManyoneError(f"{folder} holds a run with other options ({', '.join(differing)}): choose "
                                       "another folder with --out, or replace it with --overwrite")  # fmt: skip
            if one.overwrite or not RunFolder(folder, self.recipe, {}).done:
                arguments = (self.recipe, RECIPES[self.recipe], plain, folder.absolute(), False)
                log = self.path.absolute() / f"{name}.log"
                tasks.append(Task(name, log, "manyone.reproduce.seeds:run_one", arguments, again))
        with cluster(on), task_runner(self.path.absolute(), workers, ("manyone.reproduce.seeds",), again) as pool:
            done = len(self.points) - len(tasks)
            pool.run(
                tasks, "runs", len(self.points), lambda: done + sum((t.arguments[3] / "done").is_file() for t in tasks)
            )

    def _measured(self, select: str | None) -> tuple[str, dict[str, float]]:
        """(The metric's name, its value for every combination, the mean over seeds)."""
        each = {name: [self._metrics(folder, select) for folder in self._folders(name)] for name in self.points}
        known = list(next(iter(each.values()))[0])
        metric = select if select is not None and select not in _SPLITS else (known or [""])[0]
        lacking = next((name for name, runs in each.items() for one in runs if metric not in one), None)
        if lacking is not None:
            raise ManyoneError(f"--select {metric}: the run {lacking} has no such metric: use val, test or one of "
                               f"{', '.join(known[:8])}")  # fmt: skip
        return metric, {name: statistics.fmean(one[metric] for one in runs) for name, runs in each.items()}

    def _metrics(self, folder: Path, select: str | None) -> dict[str, float]:
        if select not in _SPLITS:
            return read_run(folder).final
        opened, options = reopen(folder)
        found = runner(self.recipe).evaluate(options, builder(self.recipe), opened, select)  # type: ignore[arg-type]
        return {k: float(v) for k, v in found.items() if isinstance(v, int | float) and not isinstance(v, bool)}

    def _keep(self, best: str, metric: str, value: float, select: str) -> None:
        split = select if select in _SPLITS else "as the runs' last line has it"
        content = {"run": best, "options": self.points[best], "metric": metric, "value": value, "split": split}
        write_atomic(self.path / BEST, (json.dumps(content, indent=1) + "\n").encode())


_OWN = {"out", "overwrite", "workers"}


def _seeds(options: CommonOptions, count: int) -> tuple[int, ...]:
    return tuple(range(options.seed, options.seed + count))


def combinations(lists: Mapping[str, Sequence[str]]) -> dict[str, dict[str, str]]:
    """Folder's name -> one value of each list: all combinations, the last list's values one after the other."""
    rows = (dict(zip(lists, values)) for values in itertools.product(*lists.values()))
    return {"_".join(f"{name}-{value}" for name, value in row.items()): row for row in rows}


def caution(select: str | None) -> str:
    """What must be said of a choice that was not made on the validation split; nothing for one that was."""
    if select in (None, "val"):
        return ""
    if select == "test":
        return "chosen on the test split: its figure is too good; --select val chooses on data that the test has not"
    return f"chosen by {select} of the last lines, which most recipes measure on the test split: --select val does not"
