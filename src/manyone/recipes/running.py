"""What the runners of all fields share: taking up a run's newest checkpoint, and tables of scores for people."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from manyone.engine.run import RunFolder
from manyone.errors import ManyoneError
from manyone.recipes.recipe import About, Label
from manyone.recipes.references import Reference, Standing, standings


class Restorable(Protocol):
    """What has a state."""

    def load_state_dict(self, state: dict[str, Any]) -> Any:
        """Takes the state over."""


def restore(learner: Restorable, folder: RunFolder) -> None:
    """Puts ``learner`` to the newest checkpoint of the run. Raises ``ManyoneError`` when it has none."""
    learner.load_state_dict(newest_state(folder))


def newest_state(folder: RunFolder) -> dict[str, Any]:
    """The learner's state in the newest checkpoint of the run. Raises ``ManyoneError`` when it has none."""
    from manyone.engine.checkpoint import load_newest  # with PyTorch, which a table of scores needs not

    found = load_newest(folder.checkpoints)
    if found is None:
        raise ManyoneError(f"{folder.path} has no checkpoint yet: manyone resume {folder.path}")
    return found[1]["learner"]


def percent(value: float | None, digits: int = 1) -> str:
    """A share in percent; a dash for None."""
    return "–" if value is None else f"{100 * value:.{digits}f}"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]], last: Sequence[str] = ()) -> None:
    """A table of scores on stdout; ``last`` is the bold line below it."""
    table = Table(*columns, box=None)
    for row in rows:
        table.add_row(*row)
    if last:
        table.add_row(*last, style="bold")
    Console().print(table)


def by_task(metrics: Mapping[str, float], name: str) -> dict[str, float]:
    """Task -> the metric ``name/task``."""
    return {k.removeprefix(f"{name}/"): v for k, v in metrics.items() if k.startswith(f"{name}/")}


def print_references(references: Sequence[Reference], result: Mapping[str, Any], about: About) -> None:
    """A table for each metric of ``result`` that reference points have, and a line for each point not measured."""
    for one in standings(references, result):
        label = about.label(one.metric)
        print(_heading(label))
        table = Table(box=None, show_header=False)
        table.add_column(no_wrap=True)
        table.add_column(justify="right")
        for row in _rows(one, label):
            table.add_row(*row)
        Console().print(table)
    for point in references:
        if point.how:
            print(f"{point.name}: {point.how}")


def _rows(one: Standing, label: Label) -> list[tuple[str, str, str]]:
    """The points and this run by their values, the worst first."""
    rows = [(point.metrics[one.metric], False, escape(point.name), "") for point in one.points]
    rows.append((one.value, True, "[bold]this run[/]", escape(one.words)))
    rows.sort(key=lambda row: row[:2], reverse=label.better == "less")
    return [(name, _value(label, value), words) for value, _, name, words in rows]


def _heading(label: Label) -> str:
    return label.text if label.unit in ("", "count") else f"{label.text}, {label.unit}"


def _value(label: Label, value: float) -> str:
    return percent(value) if label.unit == "%" else f"{value:.4g}"
