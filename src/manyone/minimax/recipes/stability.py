"""``manyone run stability``: how stable Distributed-SGDA is, swept over K, m, n, step size and topology in one program.

    manyone run stability                                   # linear AUC (convex-concave) on spambase
    manyone run stability --problem auc-mlp                  # nonconvex-strongly-concave
    manyone run stability --problem gan --local-steps 1 5    # nonconvex-nonconcave

The run folder gets ``model/points.json`` (every replica of every grid point), ``stability.html`` (plots and trends) and
``topologies.png``.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manyone.errors import ManyoneError
from manyone.minimax.study.settings import Entry, Setting
from manyone.recipes.options import CommonOptions, check

if TYPE_CHECKING:
    from manyone.engine.run import RunFolder
    from manyone.minimax.stability.laboratory import Laboratory, PointResult

_DEFAULTS = {
    "auc-linear": {"data": "spambase", "clients": 16, "samples": 50, "rounds": 100, "eta": 0.1, "batch": 1,
                   "test": 1000, "scale": "standard-rows", "sweep_steps": (1, 2, 5, 10, 20),
                   "sweep_clients": (2, 4, 8, 16, 32),
                   "sweep_samples": (12, 25, 50, 100), "sweep_eta": (0.01, 0.03, 0.1, 0.3)},
    "auc-mlp": {"data": "digits:8", "clients": 16, "samples": 70, "rounds": 60, "eta": 0.3, "batch": 2, "test": 500,
                "scale": "rows", "sweep_steps": (1, 5, 20), "sweep_clients": (4, 8, 16), "sweep_samples": (35, 70),
                "sweep_eta": (0.1, 0.3)},
    "gan": {"data": "digits", "clients": 8, "samples": 100, "rounds": 100, "eta": 0.05, "batch": 16, "test": 500,
            "scale": "none", "sweep_steps": (1, 5), "sweep_clients": (4, 8), "sweep_samples": (50, 100),
            "sweep_eta": (0.02, 0.05)},
}  # fmt: skip
_STEPS = 100


@dataclass(kw_only=True)
class Options(CommonOptions):
    """Stability laboratory: twins that differ in one sample, every replica and grid point in one stacked program."""

    problem: Literal["auc-linear", "auc-mlp", "gan"] = "auc-linear"
    """AUC with a linear score (convex-concave), with an MLP score (nonconvex-strongly-concave), or a GAN."""
    data: str | None = None
    """A real data set by name or file; default: spambase, digits:8 and digits for the three problems."""
    label: str | None = None
    """Column of your file that holds the label."""
    replicas: int = 8
    """Replicas R: splits, replaced samples and draws of their own; 2 or more."""
    neighbour: Literal["one", "per_client", "none"] = "one"
    """What a neighbouring data set is: one sample of one client replaced, one of every client, or none (the control,
    whose distances are exactly 0)."""
    sweep_steps: tuple[int, ...] | None = None
    """Local steps K to compare; a default for each problem, nothing to leave it out."""
    sweep_clients: tuple[int, ...] | None = None
    """Numbers of clients m to compare."""
    sweep_samples: tuple[int, ...] | None = None
    """Samples n of each client to compare."""
    sweep_eta: tuple[float, ...] | None = None
    """Step sizes (of both blocks) to compare."""
    sweep_topology: tuple[str, ...] = ("complete", "exponential", "ring", "star", "isolated")
    """Topologies to compare, on alike and on label-sorted clients."""
    clients: int | None = None
    """m where it is not varied."""
    samples: int | None = None
    """n where it is not varied."""
    steps: int = 5
    """K where it is not varied; 1 or more."""
    rounds: int | None = None
    """Communication rounds T."""
    eta: float | None = None
    """Step size where it is not varied."""
    batch: int | None = None
    """Samples a local step."""
    test: int | None = None
    """Unseen rows of every replica, for risks and gaps."""
    checkpoint_every: int = 20
    """Hundredths of the run between checkpoints; 0: only at the end."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check("replicas", self.replicas, self.replicas >= 2, "2 or more")
        check("checkpoint-every", self.checkpoint_every, self.checkpoint_every >= 0, "0 or more")
        for name in ("clients", "samples", "steps", "rounds", "batch", "test", "eta"):
            value = getattr(self, name)
            check(name, value, value is None or value > 0, "above 0")
        for name in ("sweep_steps", "sweep_clients", "sweep_samples", "sweep_eta"):
            values = getattr(self, name)
            check(name, values, values is None or all(v > 0 for v in values), "numbers above 0")

    def run(self, run: RunFolder) -> None:
        """Runs the sweep, then writes results, plots and trends."""
        from manyone.engine.loop import train
        from manyone.minimax.study.laboratory import laboratory

        setting, entries = self.setting(), self.entries()
        lab, where = laboratory(setting, entries, self.seed, neighbour=self.neighbour)
        if self.dry_run:
            distinct = len(lab.settings)
            print(f"{self.problem} on {setting.data}: {distinct} grid points x {self.replicas} replicas x 2 twins")
            print(f"{lab.members} models in one program, {lab.client_steps:,} local steps\nnothing was written")
            return
        learner = LaboratoryLearner(lab, where, entries)
        train(learner, run, steps=_STEPS, checkpoint_every=self.checkpoint_every, loggers=self.logger)
        results = learner.results()
        self._page(run, setting, entries, results)
        for line in trends(entries, results):
            print(line)

    def setting(self) -> Setting:
        """The problem and its data."""
        d = {**_DEFAULTS[self.problem], **{k: v for k, v in vars(self).items() if v is not None}}
        base = {"clients": d["clients"], "samples": d["samples"], "steps": self.steps, "rounds": d["rounds"],
                "eta": d["eta"], "topology": "server"}  # fmt: skip
        hidden = {"auc-linear": (), "auc-mlp": (16,), "gan": (32,)}[self.problem]
        kind = "gan" if self.problem == "gan" else "auc"
        return Setting(kind, d["data"], self.replicas, base, batch=d["batch"], test=d["test"], scale=d["scale"],
                       hidden=hidden, label=self.label)  # fmt: skip

    def entries(self) -> list[Entry]:
        """The grid points, by sweep."""
        d = {**_DEFAULTS[self.problem], **{k: v for k, v in vars(self).items() if v is not None}}
        found = [Entry("local-steps", f"k{k}", "clean", {"steps": k}) for k in d["sweep_steps"]]
        found += [Entry("clients", f"m{m}", "clean", {"clients": m}) for m in d["sweep_clients"]]
        found += [Entry("samples", f"n{n}", "clean", {"samples": n}) for n in d["sweep_samples"]]
        found += [Entry("step-size", f"eta{eta}", "clean", {"eta": eta}) for eta in d["sweep_eta"]]
        for kind in ("iid", "by-class"):
            condition = "clean" if kind == "iid" else kind
            found += [Entry("topology", name, condition, {"topology": name, "partition": kind})
                      for name in self.sweep_topology]  # fmt: skip
        if not found:
            raise ManyoneError(
                "nothing to sweep: give at least one of --sweep-steps, --sweep-clients, --sweep-topology"
            )
        return found

    def _page(self, run: RunFolder, setting: Setting, entries: Sequence[Entry], results: Sequence[PointResult]) -> None:
        from manyone.claims.figure import Figure
        from manyone.claims.study import Report, Study
        from manyone.engine.fabric import is_writer
        from manyone.minimax.study.laboratory import figures_of, rows_of
        from manyone.report.html import write

        if not is_writer():
            return
        figures = figures_of(self.problem, entries, results)
        for figure in figures:
            if figure.kind == "image":
                (run.path / "topologies.png").write_bytes(base64.b64decode(figure.data["data"]))
        table = [line.split("  ", 1) for line in trends(entries, results)]
        figures.insert(
            0, Figure("table", "Trends", {"columns": ["sweep", "measured"], "rows": table}, section="Trends")
        )
        rows = rows_of(self.problem, self.seed, entries, results)
        title = f"Stability of Distributed-SGDA: {self.problem} on {setting.data}"
        study = Study(title, "smoke", rows, figures=figures, field="minimax")
        write(run.path / "stability.html", Report(title, (study,)))


class LaboratoryLearner:
    """A laboratory as the training loop sees it: one step is a hundredth of the run."""

    def __init__(self, lab: Laboratory, where: Sequence[int], entries: Sequence[Entry]) -> None:
        self.lab, self.where, self.entries, self.steps = lab, where, entries, 0
        self._results: list[PointResult] | None = None

    def step(self) -> Mapping[str, float]:
        """``loss``: the largest delta_avg of any grid point."""
        self.steps += 1
        self.lab.advance(-(-self.lab.total_steps * self.steps // _STEPS))
        return {"loss": self.lab.largest_distance()}

    def results(self) -> list[PointResult]:
        """One result an entry, once everything has run."""
        if self._results is None:
            found = self.lab.results()
            self._results = [found[i] for i in self.where]
        return self._results

    def evaluate(self) -> Mapping[str, float]:
        """Means over replicas of every entry, by SWEEP/VARIANT/CONDITION/name."""
        return {f"{e.method}/{e.variant}/{e.condition}/{name}": float(values.mean())
                for e, r in zip(self.entries, self.results()) for name, values in r.final.items()}  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        return {"steps": self.steps, "laboratory": self.lab.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.steps = int(state["steps"])
        self.lab.load_state_dict(state["laboratory"])

    def export(self, folder: Path) -> None:
        """``points.json``: settings, curves and final measures of every grid point, all replicas."""
        points = [
            {"sweep": e.method, "variant": e.variant, "condition": e.condition,
             "settings": {k: v for k, v in r.settings.items() if isinstance(v, int | float | str)},
             "rounds": list(r.rounds), "curves": {k: v.tolist() for k, v in r.curves.items()},
             "final": {k: v.tolist() for k, v in r.final.items()}}
            for e, r in zip(self.entries, self.results())
        ]  # fmt: skip
        (folder / "points.json").write_text(json.dumps({"format": 1, "points": points}) + "\n", encoding="utf-8")


def trends(entries: Sequence[Entry], results: Sequence[PointResult]) -> list[str]:
    """One line a sweep, "NAME  what was measured" with 95 % intervals over replicas."""
    import torch

    from manyone.evaluation.intervals import paired_difference
    from manyone.minimax.stability.laboratory import log_slope, summarise

    names = {"local-steps": "k", "clients": "m", "samples": "n", "step-size": "eta"}
    lines = []
    for method, letter in names.items():
        own = [(float(e.variant.removeprefix(letter)), r) for e, r in zip(entries, results) if e.method == method]
        own.sort(key=lambda pair: pair[0])
        if len(own) < 2:
            continue
        first, last = own[0][1].final, own[-1][1].final
        change = paired_difference(last["delta_mean"].tolist(), first["delta_mean"].tolist())
        text = f"delta_mean at {letter} = {own[-1][0]:g} minus {letter} = {own[0][0]:g}: {change.value:+.2e} "
        text += f"[{change.low:+.2e}, {change.high:+.2e}]"
        if all(float(r.final["delta_mean"].mean()) > 0 for _, r in own):
            slope = log_slope([x for x, _ in own], torch.stack([r.final["delta_mean"] for _, r in own]))
            text += f"; slope of its logarithm {slope.value:+.2f} [{slope.low:+.2f}, {slope.high:+.2f}]"
        if "gap" in first:
            gap = paired_difference(last["gap"].tolist(), first["gap"].tolist())
            text += f"; primal gap {gap.value:+.2e} [{gap.low:+.2e}, {gap.high:+.2e}]"
        lines.append(f"{method}  {text}")
    for entry, result in zip(entries, results):
        if entry.method == "topology":
            parts = [f"{name} {summarise(result.final[name]).mean:.2e}" for name in ("delta_mean", "delta_own")]
            kind = "iid" if entry.condition == "clean" else entry.condition
            lines.append(f"{entry.variant}, {kind}  {', '.join(parts)}")
    return lines
