"""Prints what a verb returns: rows as a table, a mapping as two columns, anything else as text."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def show(result: Any, title: str | None = None) -> None:
    """Prints ``result`` on stdout; None prints nothing."""
    if result is None:
        return
    if isinstance(result, Mapping):
        rows = [{"name": str(k), "value": v} for k, v in result.items()]
        _table(rows, title, header=False)
    elif isinstance(result, Sequence) and not isinstance(result, str):
        if all(isinstance(row, Mapping) for row in result):
            _table(result, title)
        else:
            for line in result:
                print(line)
    else:
        print(result)


def _table(rows: Sequence[Mapping[str, Any]], title: str | None, header: bool = True) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        print(f"{title or 'nothing'}: none")
        return
    columns = list(dict.fromkeys(name for row in rows for name in row))
    table = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, show_header=header)
    for position, name in enumerate(columns):
        table.add_column(name, style="bold" if position == 0 else "", no_wrap=position == 0)
    for row in rows:
        table.add_row(*(Text(_text(row.get(name, ""))) for name in columns))
    # a pipe has no width: leave the lines whole
    width = None if sys.stdout.isatty() else max(shutil.get_terminal_size().columns, 200)
    Console(width=width).print(table)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
