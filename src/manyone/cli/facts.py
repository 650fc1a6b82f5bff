"""A table of facts about one thing, as ``manyone data info`` prints them."""

from __future__ import annotations

from collections.abc import Mapping

from rich.table import Table


def facts(title: str, rows: Mapping[str, str]) -> Table:
    """One fact a row."""
    table = Table(show_header=False, title=title, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for key, value in rows.items():
        table.add_row(key, value)
    return table
