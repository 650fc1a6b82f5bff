"""Markdown tables of a study's claims and scores, and those that it draws itself, as they stand in docs/results.md.

python scripts/results_tables.py runs/reproduce-smoke/merging [...]
"""

from __future__ import annotations

import sys
from pathlib import Path

from manyone.claims.numbers import with_interval
from manyone.claims.study import Study
from manyone.report.sections import MARKS, counts, entry_order
from manyone.report.terminal import measured_cell, published_cell


def claims(study: Study) -> str:
    found = study.findings()
    tally = ", ".join(f"{c['n']} {c['verdict']}" for c in counts(found))
    lines = [f"{tally} (of {len(found)} tests).", ""]
    lines += ["| claim | suite | published | measured here (95 %) | verdict |", "|---|---|---|---|---|"]
    for f in found:
        cells = (f.claim.short, f.suite, published_cell(f.claim), measured_cell(study, f))
        lines.append(f"| {' | '.join(cells)} | {MARKS[f.verdict]} {f.verdict} |")
    return "\n".join(lines)


def scores(study: Study) -> str:
    suites = list(filter(study.results.scored, study.results.suites()))
    score, unit = study.claims.score, study.claims.unit
    entries = list(dict.fromkeys(e for s in suites for e in entry_order(study, s)))
    lines = [f"| mean {score}, {unit}, ± 95 % | {' | '.join(suites)} |", "|---|" + "---|" * len(suites)]
    for entry in entries:
        means = [study.results.interval(s, *entry, score) for s in suites]
        if any(means):
            cells = [with_interval(unit, m) if m else "" for m in means]
            lines.append(f"| {study.claims.name(*entry)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def tables(study: Study) -> str:
    """The tables that the study draws of all its rows, such as minimax's classes of problems."""
    found = []
    for figure in study.figures:
        if figure.kind == "table":
            columns, rows = figure.data["columns"], figure.data["rows"]
            lines = [f"| {' | '.join(map(str, row))} |" for row in (columns, ["---"] * len(columns), *rows)]
            found.append("\n".join([f"#### {figure.title}", "", figure.caption, "", *lines]))
    return "\n\n".join(found)


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        loaded = Study.load(Path(folder))
        print(f"### {loaded.title}\n\n{claims(loaded)}\n")
        if any(map(loaded.results.scored, loaded.results.suites())):
            print(f"{scores(loaded)}\n")
        if drawn := tables(loaded):
            print(f"{drawn}\n")
