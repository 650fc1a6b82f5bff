"""The claims and the accuracies as tables for a terminal; 80 columns are enough."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from manyone.claims.claims import Claim, Finding
from manyone.claims.numbers import after, difference, plain, points, with_interval
from manyone.claims.study import Study
from manyone.report.sections import MARKS, counts, counts_in_words, entry_order, is_bound

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

_COLUMNS = 100
_STYLES = {
    "holds": "green",
    "within noise": "yellow",
    "does not hold": "bold red",
    "not in its regime": "dim",
    "not tested": "dim",
}


def claims_table(study: Study, found: Sequence[Finding], width: int = 80) -> Table:
    """Claim, suite, published difference, measured difference with its 95 % interval, verdict."""
    from rich.table import Table
    from rich.text import Text

    title = f"Claims{' of ' + study.field if study.field else ''}, scale {study.scale}"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 1, 0, 0))
    suite = max((len(f.suite) for f in found), default=5)
    rest = max(width - suite - 6 - 15 - 4, 24)
    table.add_column("Claim", overflow="fold", max_width=max(rest - 24, 12))
    table.add_column("Suite", min_width=suite, no_wrap=True)
    table.add_column("Publ.", justify="right", min_width=6, no_wrap=True)
    table.add_column("Here (95 % interval)", overflow="fold", max_width=24)
    table.add_column("Verdict", no_wrap=True, min_width=15)
    for f in found:
        words = f.verdict.replace("not in its", "not in")  # the column is as wide as "within noise" needs
        verdict = Text(f"{MARKS[f.verdict]} {words}", style=_STYLES[f.verdict])
        table.add_row(Text(f.claim.short), f.suite, published_cell(f.claim), measured_cell(study, f), verdict)
    return table


def published_cell(claim: Claim) -> str:
    """The first verified published difference (or ratio, where the claim is about one); a dash without any."""
    for p in filter(lambda p: p.verified, claim.published):
        if p.left is not None and p.right is not None:
            if claim.comparison == "at_most_ratio":
                return plain("", p.left / p.right)
            gap = p.left - p.right
            return points(gap / 100) if p.unit == "%" else ("+" if gap > 0 else "") + plain("", gap)
    return "–"


def measured_cell(study: Study, f: Finding) -> str:
    """What the rule looked at, or why it could not."""
    if f.estimate is None:
        return f.reason
    if f.claim.comparison == "at_most_ratio":
        return plain("", f.estimate.value)
    text = difference(study.claims.unit_of(f.claim.metric), f.estimate).replace(" points", "")
    return (
        text.replace(" (one seed: no interval)", " (one seed)")
        .replace("(", "[")
        .replace(" to ", ", ")
        .replace(")", "]")
    )


def score_table(study: Study, suite: str, width: int = 80) -> Table:
    """Methods x tasks; tasks that do not fit the width are left to the page, the mean always stays."""
    from rich.table import Table
    from rich.text import Text

    score, unit = study.claims.score, study.claims.unit
    entries = [e for e in entry_order(study, suite) if study.results.interval(suite, *e, score)]
    tasks = study.results.tasks(suite)
    names = [study.claims.name(*e) for e in entries]
    label = min(max((len(n) for n in names), default=6), 30)
    room = max((width - label - 15) // 7, 0)
    shown, hidden = tasks[:room], tasks[room:]
    seeds = len(study.results.seeds(suite))
    words = f"{score} in {unit}" if after(unit) else score
    title = f"{suite}: {words}, {seeds} seed{'' if seeds == 1 else 's'}"
    table = Table(title=title, title_justify="left", pad_edge=False, padding=(0, 1), box=None)
    table.add_column("Method", overflow="fold", max_width=label)
    table.add_column("mean ± 95 %", justify="right", no_wrap=True)
    for task in shown:
        table.add_column(task if len(task) <= 5 else task[:5] + "…", justify="right", no_wrap=True)
    if hidden:
        table.caption = f"on the page: {', '.join(hidden)}"
    for entry, name in zip(entries, names):
        mean = study.results.interval(suite, *entry, score)
        cells = [study.results.interval(suite, *entry, f"{score}.{t}") for t in shown]
        style = "italic dim" if is_bound(study, entry[0]) else ""
        row = ["" if c is None else plain(unit, c.value) for c in cells]
        table.add_row(Text(name, style=style), with_interval(unit, mean) if mean else "", *row)
    return table


def verdicts(study: Study, suite: str, seconds: float) -> str:
    """What came out on ``suite`` in plain words: how many tests got which verdict, then each claim as a sentence."""
    found = [f for f in study.findings() if f.suite == suite]
    head = f"{study.short} on {suite}, after {seconds:.0f} s: {counts_in_words(found) or 'no claim is tested'}"
    lines = [f"{head} (of {len(found)} tests)" if found else head]
    for f in found:
        here = measured_cell(study, f)
        lines += textwrap.wrap(
            f"{MARKS[f.verdict]} {f.verdict}: {f.claim.statement} Here {here}."
            if f.estimate is not None
            else f"{MARKS[f.verdict]} {f.verdict}: {f.claim.statement} ({here})",
            _COLUMNS, initial_indent="  ", subsequent_indent="    ", break_on_hyphens=False,
        )  # fmt: skip
    return "\n".join(lines)


def show(study: Study, console: Console | None = None) -> None:
    """Prints the scores of every suite, the claims and the tally."""
    from rich.console import Console

    console = console or Console()
    for suite in filter(study.results.scored, study.results.suites()):
        console.print(score_table(study, suite, console.width))
        console.print()
    found = study.findings()
    if found:
        console.print(claims_table(study, found, console.width))
        console.print("\nPubl. and Here: differences, of shares in points (sizes: their ratio).")
        console.print(", ".join(f"{c['n']} {c['verdict']}" for c in counts(found)) + f" (of {len(found)} tests)")
