"""What text-to-SQL data are made of: schemas and pairs of a question and the SQL that answers it.

Plain values that every loader gives and everything else reads: ``Column``, ``Table``, ``ForeignKey``, ``Schema``,
``Pair`` and ``PairSet`` (the pairs of some databases by split, with the databases' files).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

from manyone.errors import ManyoneError

ColumnType = Literal["text", "number", "time", "boolean", "others"]
"""Spider's five kinds of columns."""


@dataclass(frozen=True)
class Column:
    """A column of a table, by its name in SQL and the name that people say."""

    name: str
    type: ColumnType = "text"
    natural: str = ""
    primary_key: bool = False
    comment: str = ""
    values: tuple[str, ...] = ()
    """A few of its distinct values, as the prompt shows them."""


@dataclass(frozen=True)
class Table:
    """A table, by its name in SQL and the name that people say."""

    name: str
    columns: tuple[Column, ...]
    natural: str = ""

    def column(self, name: str) -> Column | None:
        """The column of this name in any case, or None."""
        return next((c for c in self.columns if c.name.lower() == name.lower()), None)


@dataclass(frozen=True)
class ForeignKey:
    """``table.column`` refers to ``to_table.to_column``."""

    table: str
    column: str
    to_table: str
    to_column: str


@dataclass(frozen=True)
class Schema:
    """The tables of a database and how they refer to each other."""

    db_id: str
    tables: tuple[Table, ...]
    foreign_keys: tuple[ForeignKey, ...] = ()

    @cached_property
    def by_name(self) -> Mapping[str, Table]:
        """The tables by their names in lower case."""
        return {table.name.lower(): table for table in self.tables}

    def table(self, name: str) -> Table | None:
        """The table of this name in any case, or None."""
        return self.by_name.get(name.lower())


@dataclass(frozen=True)
class Pair:
    """A question about a database and the SQL that answers it (``gold``)."""

    db_id: str
    question: str
    sql: str
    evidence: str = ""
    """What a reader must know besides the schema (BIRD's external knowledge)."""
    source: str = ""
    """Where it comes from: "spider-dev", "generated", ..."""


Split = Literal["train", "val", "test"]


@dataclass(frozen=True)
class PairSet:
    """The pairs of some databases by split, the databases' schemas and their files.

    ``databases[db_id]`` lists the SQLite files of one schema: the first is the database itself (execution accuracy),
    all of them are its test suite.
    """

    name: str
    splits: Mapping[Split, Sequence[Pair]]
    schemas: Mapping[str, Schema]
    databases: Mapping[str, tuple[Path, ...]] = field(default_factory=dict)
    licence: str = ""
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for split, pairs in self.splits.items():
            if missing := {p.db_id for p in pairs} - set(self.schemas):
                raise ManyoneError(f"{self.name}: pairs of split {split} ask about {sorted(missing)[0]!r}, a database "
                                   "without a schema; add it to tables.json or its file to database/")  # fmt: skip
