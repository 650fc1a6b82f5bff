"""Reference points: what a reader compares a result with, and how far between them the result lies.

A recipe's runner hands them over (:func:`keep_references`) and ``metrics.jsonl`` keeps each as a line of kind
"reference". The table at the end of a run and the page of the run read them there; neither knows any field.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from manyone.engine.run import RunFolder

KIND = "reference"
"""Of a line of ``metrics.jsonl``."""


@dataclass(frozen=True)
class Reference:
    """One point by ``name``: its ``metrics`` are called as those of the result, the one that counts first.

    ``end``: whether the way that a result goes is measured from here, or to here. A point that would cost as much as
    the run itself has no metrics, and ``how`` says in a line how to get it.
    """

    name: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    end: Literal["", "from", "to"] = ""
    how: str = ""


@dataclass(frozen=True)
class Standing:
    """A result among the points that have its ``metric``."""

    metric: str
    value: float
    points: tuple[Reference, ...]

    @property
    def share(self) -> float | None:
        """The part of the way between the points that are its ends; None where they are not known or the same."""
        first, last = self.at("from"), self.at("to")
        if first is None or last is None or first.metrics[self.metric] == last.metrics[self.metric]:
            return None
        start = first.metrics[self.metric]
        return (self.value - start) / (last.metrics[self.metric] - start)

    @property
    def words(self) -> str:
        """``79 % of the way from base to experts``; nothing where the ends are not known."""
        share, first, last = self.share, self.at("from"), self.at("to")
        if share is None or first is None or last is None:
            return ""
        return f"{100 * share:.0f} % of the way from {first.name} to {last.name}"

    def at(self, end: str) -> Reference | None:
        """The point that is this end of the way."""
        return next((one for one in self.points if one.end == end), None)


def keep_references(folder: RunFolder, references: Iterable[Reference]) -> None:
    """Writes them among the metrics of the run; those that it has already are not written twice."""
    for one in references:
        folder.log(0, KIND, asdict(one))


def has_references(folder: RunFolder) -> bool:
    """Whether the run has kept some, so that a run that is taken up need not measure them again."""
    return folder.exists and any(line.get("kind") == KIND for line in folder.metrics())


def references_in(lines: Iterable[Mapping[str, Any]]) -> list[Reference]:
    """The points among the lines of ``metrics.jsonl``; of one name and metrics the newest."""
    found: dict[tuple[str, ...], Reference] = {}
    for line in lines:
        if line.get("kind") == KIND and isinstance(metrics := line.get("metrics"), Mapping):
            known = {str(k): float(v) for k, v in metrics.items() if isinstance(v, int | float) and math.isfinite(v)}
            end: Any = line.get("end") if line.get("end") in ("from", "to") else ""
            name = str(line.get("name", ""))
            found[name, *known] = Reference(name, known, end, str(line.get("how", "")))
    return list(found.values())


def standings(references: Sequence[Reference], result: Mapping[str, Any]) -> list[Standing]:
    """``result`` among ``references``: by every metric that counts for one of them, and that the result has."""
    counts = (next((name for name in one.metrics if _is_number(result.get(name))), None) for one in references)
    metrics = dict.fromkeys(name for name in counts if name is not None)
    return [
        Standing(name, float(result[name]), tuple(one for one in references if name in one.metrics)) for name in metrics
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
