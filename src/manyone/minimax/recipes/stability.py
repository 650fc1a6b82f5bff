"""``manyone run stability``: how stable Distributed-SGDA is, swept over K, m, n, step size and topology in one program.

    manyone run stability                                   # linear AUC (convex-concave) on spambase
    manyone run stability --problem auc-mlp                  # nonconvex-strongly-concave
    manyone run stability --problem gan --sweep-steps 1 5    # nonconvex-nonconcave
    manyone run stability --ridge 0.3 --eta 0.03 --sweep-rounds 25 100 400   # strongly convex-concave

The run folder gets ``model/points.json`` (every replica of every grid point), ``stability.html`` (plots and trends) and
``topologies.png``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from manyone.claims.figure import Figure
from manyone.claims.study import Report, Study
from manyone.engine.checkpoint import load_newest
from manyone.engine.fabric import is_writer
from manyone.engine.inputs import check_inputs
from manyone.engine.loop import train
from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.minimax.recipes.build import entries
from manyone.minimax.recipes.needs import needs
from manyone.minimax.recipes.options import StabilityOptions
from manyone.minimax.stability.figures import figures_of
from manyone.minimax.stability.laboratory import PointResult
from manyone.minimax.stability.results import rows_of, trends
from manyone.minimax.stability.sweep import Sweep, distinct_points
from manyone.recipes.needs import UNKNOWN
from manyone.recipes.options import Split
from manyone.report.html import write

_STEPS = 100
Build = Callable[[StabilityOptions], Sweep]


def run(options: StabilityOptions, build: Build, folder: RunFolder) -> None:
    """Runs the sweep, then writes results, plots and trends."""
    sweep = build(_as_begun(options, folder))
    check_inputs(folder, sweep.inputs)
    learner = LaboratoryLearner(sweep)
    train(learner, folder, steps=_STEPS, checkpoint_every=options.checkpoint_every, loggers=options.logger)
    results = learner.results()
    lines = trends(sweep.entries, results)
    if is_writer():
        _page(options, folder, sweep, results, lines)
    print("\n".join(lines))


def plan(options: StabilityOptions, build: Build, folder: RunFolder) -> list[str]:
    """The grid; how much it computes where the table is here already."""
    lab = build(options).lab if needs(options).there else None
    points = len(distinct_points(entries(options))[0]) if lab is None else len(lab.settings)
    size = f"rows, features and local steps are {UNKNOWN}"
    if lab is not None:
        size = f"{lab.members} models in one program, {lab.client_steps:,} local steps"
    return [f"{options.problem} on {options.data}: {points} grid points x {options.replicas} replicas x 2 twins", size]


def _as_begun(options: StabilityOptions, folder: RunFolder) -> StabilityOptions:
    """``options`` in the precision of the run's checkpoint: runs used to compute in double and to say 32-true."""
    found = load_newest(folder.checkpoints)
    if found is None:
        return options
    double = found[1]["learner"]["laboratory"]["simulated"]["z"].dtype == torch.float64
    return replace(options, precision="64-true" if double else "32-true")


def evaluate(options: StabilityOptions, build: Build, folder: RunFolder, split: Split) -> Mapping[str, float]:
    """There is no model to evaluate."""
    raise ManyoneError(f"recipe '{folder.recipe}' has nothing to evaluate")


def _page(
    options: StabilityOptions, folder: RunFolder, sweep: Sweep, results: list[PointResult], lines: list[str]
) -> None:
    figures = figures_of(options.problem, sweep.entries, results)
    for figure in figures:
        if figure.kind == "image":
            (folder.path / "topologies.png").write_bytes(base64.b64decode(figure.data["data"]))
    table = [line.split("  ", 1) for line in lines]
    figures.insert(0, Figure("table", "Trends", {"columns": ["sweep", "measured"], "rows": table}, section="Trends"))
    rows = rows_of(options.problem, options.seed, sweep.entries, results)
    title = f"Stability of Distributed-SGDA: {options.problem} on {options.data}"
    write(
        folder.path / "stability.html", Report(title, (Study(title, "smoke", rows, figures=figures, field="minimax"),))
    )


class LaboratoryLearner:
    """A laboratory as the training loop sees it: one step is a hundredth of the run."""

    def __init__(self, sweep: Sweep) -> None:
        self.sweep, self.lab, self.entries, self.steps = sweep, sweep.lab, sweep.entries, 0
        self._results: list[PointResult] | None = None

    def step(self) -> Mapping[str, float]:
        """``loss``: the largest delta_avg of any grid point."""
        self.steps += 1
        self.lab.advance(-(-self.lab.total_steps * self.steps // _STEPS))
        return {"loss": self.lab.largest_distance()}

    def results(self) -> list[PointResult]:
        """One result an entry, once everything has run."""
        if self._results is None:
            self._results = self.sweep.results()
        return self._results

    def evaluate(self) -> Mapping[str, float]:
        """Means over replicas of every entry, by SWEEP/VARIANT/CONDITION/name."""
        return {f"{e.method}/{e.variant}/{e.condition}/{name}": float(values.mean())
                for e, r in zip(self.entries, self.results()) for name, values in r.final.items()
                if bool(values.isfinite().all())}  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """Where the run is, and the laboratory."""
        return {"steps": self.steps, "laboratory": self.lab.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])
        self.lab.load_state_dict(state["laboratory"])

    def export(self, folder: Path) -> None:
        """``points.json``: settings, curves and final measures of every grid point, all replicas, and what exists of
        all together (weak gaps, bounds)."""
        points = [
            {"sweep": e.method, "variant": e.variant, "condition": e.condition,
             "settings": {k: v for k, v in r.settings.items() if isinstance(v, int | float | str)},
             "rounds": list(r.rounds), "curves": {k: v.tolist() for k, v in r.curves.items()},
             "final": {k: v.tolist() for k, v in r.final.items()}, "together": dict(r.together)}
            for e, r in zip(self.entries, self.results())
        ]  # fmt: skip
        (folder / "points.json").write_text(json.dumps({"format": 1, "points": points}) + "\n", encoding="utf-8")
