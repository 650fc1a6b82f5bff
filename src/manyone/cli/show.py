"""Prints what a verb returns: rows as a table, a mapping as two columns, anything else as text."""

from __future__ import annotations

import json
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


def show_lists(lists: Sequence[tuple[str, Sequence[Mapping[str, Any]]]], *, as_json: bool = False) -> None:
    """Prints named lists of rows: tables for a person, JSON if asked for, else (in a pipe) TSV with a line of names.

    Of several lists in a pipe each begins with ``# its name``. In JSON one list is an array, several are an object.
    """
    if as_json:
        content: Any = lists[0][1] if len(lists) == 1 else dict(lists)
        print(json.dumps(content, ensure_ascii=False, indent=1))
        return
    for title, rows in lists:
        if sys.stdout.isatty():
            _table(rows, title)
            continue
        if not rows:
            continue
        columns = list(dict.fromkeys(name for row in rows for name in row))
        lines = [f"# {title}"] * (len(lists) > 1)
        lines += ["\t".join(columns), *("\t".join(_cell(row.get(name)) for name in columns) for row in rows)]
        print("\n".join(lines))


def _cell(value: Any) -> str:
    return " ".join(_text(value).split())


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
        # a name is what is typed next: it is never cut, whatever the width
        longest = max((len(_text(row.get(name, ""))) for row in rows), default=0)
        table.add_column(name, style="bold" if position == 0 else "", no_wrap=position == 0,
                         min_width=longest if position == 0 else None)  # fmt: skip
    for row in rows:
        table.add_row(*(Text(_text(row.get(name, ""))) for name in columns))
    # a pipe has no width: leave the lines whole
    width = None if sys.stdout.isatty() else max(shutil.get_terminal_size().columns, 200)
    Console(width=width).print(table)


def _text(value: Any) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)
