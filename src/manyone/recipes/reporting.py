"""``manyone report``: one page about ordinary runs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def report(runs: Sequence[Path], out: Path | None = None) -> str:
    """Writes the page of ``runs`` (default: ``report.html`` in the first run's folder) and says where it is."""
    from manyone.report.html import run_report

    return f"report: {run_report(runs, out or runs[0] / 'report.html')}"
