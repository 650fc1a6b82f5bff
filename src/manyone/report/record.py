"""A run folder as the pages read it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from manyone.claims.figure import Figure, load_figures
from manyone.engine.files import stays_inside
from manyone.engine.mergeable import CARD
from manyone.engine.run import read_config, read_metrics
from manyone.errors import ManyoneError
from manyone.recipes.recipe import About
from manyone.recipes.references import Reference, references_in
from manyone.recipes.table import about

FIGURES = "figures.json"
"""The file of a run folder that holds its own figures."""


@dataclass(frozen=True)
class RunRecord:
    """One run folder as read from disk. ``lines`` are the lines of metrics.jsonl, ``figures`` its own figures."""

    name: str
    config: Mapping[str, Any]
    lines: Sequence[Mapping[str, Any]]
    figures: Sequence[Figure] = ()
    path: Path = field(default_factory=Path)

    @property
    def recipe(self) -> str:
        """What ran."""
        return str(self.config.get("recipe", ""))

    @property
    def options(self) -> Mapping[str, Any]:
        """Its options, as plain values."""
        found = self.config.get("options")
        return found if isinstance(found, Mapping) else {}

    @property
    def about(self) -> About:
        """What the field says of its recipe and metrics."""
        return about(self.recipe)

    @property
    def references(self) -> list[Reference]:
        """What its result is compared with."""
        return references_in(self.lines)

    @property
    def final(self) -> dict[str, float]:
        """Metrics of the last line of kind ``final``, or of the last ``eval`` line when the run has not finished."""
        for kind in ("final", "eval"):
            found = [line for line in self.lines if line.get("kind") == kind]
            if found:
                return numeric(found[-1])
        return {}

    @property
    def finished(self) -> bool:
        """Whether a final evaluation was recorded."""
        return any(line.get("kind") == "final" for line in self.lines)

    def metrics_of(self, *kinds: str) -> list[str]:
        """The metrics that lines of these kinds have, in the order in which they come."""
        return list(dict.fromkeys(m for line in self.lines if line.get("kind") in kinds for m in numeric(line)))

    def curve(self, metric: str, *kinds: str) -> list[tuple[float, float]]:
        """(step, value) pairs of one metric in the lines of these kinds; of a step the last."""
        found = [(line.get("step"), numeric(line).get(metric)) for line in self.lines if line.get("kind") in kinds]
        points = {float(s): v for s, v in found if isinstance(s, int | float) and v is not None and math.isfinite(v)}
        return list(points.items())


def numeric(line: Mapping[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers of a line by their names, those of nested mappings as ``outer/inner``."""
    result: dict[str, float] = {}
    for key, value in line.items():
        if not prefix and key in ("step", "kind", "time"):
            continue
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            result |= numeric(value, f"{name}/")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            result[name] = float(value)
    return result


def read_run(folder: Path) -> RunRecord:
    """Reads config.yaml and metrics.jsonl of a run folder; a cut last line of metrics is left out."""
    for path in (folder / name for name in ("config.yaml", "metrics.jsonl", FIGURES, f"model/{CARD}")):
        if not stays_inside(path, folder):
            raise ManyoneError(f"{path}: a link out of the run folder, which would end up on the page: copy the file")
    config, lines = read_config(folder), [record for record, _ in read_metrics(folder)]
    figures = load_figures(folder / FIGURES) if (folder / FIGURES).is_file() else []
    return RunRecord(folder.resolve().name, config, lines, figures, folder)
