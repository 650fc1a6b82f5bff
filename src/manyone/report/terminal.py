"""The claims and the accuracies as tables for a terminal; 80 columns are enough."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from manyone.report.claims import Finding, Published
from manyone.report.numbers import difference, percent, plain, points, with_interval
from manyone.report.sections import MARKS, counts, entry_order, is_bound
from manyone.report.study import Study

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_STYLES = {"holds": "green", "within noise": "yellow", "does not hold": "bold red", "not tested": "dim"}


def claims_table(study: Study, found: Sequence[Finding]) -> Table:
    """Claim, published difference, measured difference with its 95 % interval, verdict."""
    from rich.table import Table
    from rich.text import Text

    table = Table(title=f"Claims, scale {study.scale}", title_justify="left", expand=False, pad_edge=False)
    table.add_column("Claim", ratio=5, overflow="fold", min_width=18)
    table.add_column("Published", ratio=2, overflow="fold", min_width=9)
    table.add_column("Measured here (95 %)", ratio=3, overflow="fold", min_width=14)
    table.add_column("Verdict", no_wrap=True)
    previous = ""
    for f in found:
        first = f.claim.id != previous
        previous = f.claim.id
        statement = f"{f.claim.statement} [{f.suite}]" if first else f"… [{f.suite}]"
        verdict = Text(f"{MARKS[f.verdict]} {f.verdict}", style=_STYLES[f.verdict])
        if first and table.row_count:
            table.rows[-1].end_section = True
        table.add_row(Text(statement), published_cell(f.claim.published) if first else "", measured_cell(f), verdict)
    return table


def published_cell(published: Sequence[Published]) -> str:
    """The first published pair as a difference; "in words" when no figure was published."""
    for p in published:
        if p.left is not None and p.right is not None:
            if p.unit != "%":
                return f"{p.left:g} / {p.right:g} {p.unit}"
            return f"{points((p.left - p.right) / 100)} ({p.left:.1f} / {p.right:.1f})"
    return "in words" if published else "–"


def measured_cell(f: Finding) -> str:
    """What the rule looked at, or why it could not."""
    if f.estimate is None:
        return f.reason
    if f.claim.comparison == "at_most_ratio":
        return f"ratio {plain('ratio', f.estimate.mean)}"
    return difference(f.claim.metric, f.estimate).replace(" points", "")


def accuracy_table(study: Study, suite: str, width: int = 80) -> Table:
    """Methods x tasks in %; tasks that do not fit the width are left to the page, the mean always stays."""
    from rich.table import Table
    from rich.text import Text

    entries = [e for e in entry_order(study, suite) if study.results.interval(suite, *e, "accuracy")]
    tasks = study.results.tasks(suite)
    names = [study.claims.name(*e) for e in entries]
    label = min(max((len(n) for n in names), default=6), 30)
    room = max((width - label - 15) // 7, 0)
    shown, hidden = tasks[:room], tasks[room:]
    title = f"{suite}: accuracy in %, {len(study.results.seeds(suite))} seed(s)"
    table = Table(title=title, title_justify="left", pad_edge=False, padding=(0, 1), box=None)
    table.add_column("Method", overflow="fold", max_width=label)
    table.add_column("mean ± 95 %", justify="right", no_wrap=True)
    for task in shown:
        table.add_column(task if len(task) <= 5 else task[:5] + "…", justify="right", no_wrap=True)
    if hidden:
        table.caption = f"{len(hidden)} more task(s) on the page: {', '.join(hidden)}"
    for entry, name in zip(entries, names):
        mean = study.results.interval(suite, *entry, "accuracy")
        cells = [study.results.interval(suite, *entry, f"accuracy.{t}") for t in shown]
        style = "italic dim" if is_bound(study, entry[0]) else ""
        row = ["" if c is None else percent(c.mean) for c in cells]
        table.add_row(Text(name, style=style), with_interval("accuracy", mean) if mean else "", *row)
    return table


def show(study: Study, console: Console | None = None) -> None:
    """Prints the accuracies of every suite, the claims and the tally."""
    from rich.console import Console

    console = console or Console()
    for suite in study.results.suites():
        console.print(accuracy_table(study, suite, console.width))
        console.print()
    found = study.findings()
    if found:
        console.print(claims_table(study, found))
        console.print(", ".join(f"{c['n']} {c['verdict']}" for c in counts(found)) + f" (of {len(found)} tests)")
