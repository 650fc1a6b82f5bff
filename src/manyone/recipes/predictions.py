"""What a model makes of what it is given, as ``manyone predict`` shows and writes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Predictions:
    """One row for each thing that was asked."""

    rows: Sequence[Mapping[str, Any]]
    form: Literal["csv", "jsonl"] = "csv"
    """What ``--out`` writes where the file's ending does not say it: a table, or one JSON object a line."""
    shown: Sequence[Any] | None = None
    """What is printed without ``--out``: texts and tables (lists of rows) in turn. Default: the first rows."""
    failed: str = ""
    """Why what was asked for could not be had, though the model answered: printed last, and the exit code is 1."""
    written: str = ""
    """The file that the predictor has written itself where ``--out`` is no table (a map)."""
