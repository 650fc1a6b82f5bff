"""What a statement may use, and what becomes of it."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Literal, get_args

from manyone.errors import ManyoneError

Value = int | float | str | bytes | None
Kind = Literal["error", "denied", "statement", "limit", "time", "memory", "crash"]
"""Why a statement gave nothing: SQLite's own error; something other than reading; not one statement that gives rows;
too long, too deep or too big; out of time; out of memory; the end of the process that ran it."""
KINDS: tuple[str, ...] = get_args(Kind)

CELL, ROW = 48, 96
"""Bytes that a value and a row take in memory besides their text, about; they count towards ``Limits.size``."""


@dataclass(frozen=True)
class Limits:
    """What one statement may use.

    ``seconds`` of wall-clock time, after which SQLite is interrupted, and ``grace`` more, after which its process is
    killed; bytes of ``memory`` of that process; ``rows`` of the result and bytes of their ``size`` (their JSON text,
    and 48 for each value and 96 for each row); bytes of the longest ``text`` or blob; characters of ``sql``; ``depth``
    of expressions and ``operations`` of the compiled program.
    """

    seconds: float = 30.0
    grace: float = 0.5
    memory: int = 512 << 20
    rows: int = 200_000
    size: int = 32 << 20
    text: int = 5_000_000
    sql: int = 20_000
    depth: int = 100
    operations: int = 250_000

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not 0 < value < float("inf"):
                raise ManyoneError(f"Limits: {field.name} must be a number above 0, got {value!r}")


@dataclass(frozen=True)
class Outcome:
    """What a statement gave.

    ``rows`` are tuples of None, int, float, str (bytes that are no UTF-8 left out) and bytes under ``columns``. Where
    it failed, ``kind_of_error`` and the one line ``error`` say why and there are no rows. ``seconds`` is how long it
    took in its process, rows fetched. ``truncated``: there were more rows than the limits allow.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[tuple[Value, ...], ...] = ()
    error: str = ""
    kind_of_error: Kind | None = None
    seconds: float = 0.0
    truncated: bool = False

    @property
    def ok(self) -> bool:
        """Whether it ran to its end and all rows are here."""
        return self.kind_of_error is None and not self.truncated
