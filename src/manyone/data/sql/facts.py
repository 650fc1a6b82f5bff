"""What a database holds, as far as questions about it need to know: sampled rows, and the part every column can play.

Public: ``gather``, ``Facts``, ``TableFacts``, ``ColumnFacts``, ``Join``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from manyone.data.sql.files import QueryError, Reader, Row, quote
from manyone.data.sql.fuzz import Draws
from manyone.data.sql.names import natural_name, plural, singular
from manyone.data.sql.records import Column, ForeignKey, Schema, Table
from manyone.data.sql.sandbox import Value

SAMPLE = 400
"""Rows of a table that constants are drawn from."""
_LONG = 60  # characters; longer texts are neither asked for nor about
_SHOWN = 40  # characters of a constant in a question
_CATEGORY = 40  # distinct values that groups may have
_UNSUMMED = re.compile(r"\b(year|month|day|hour|minute|date|latitude|longitude|rank|ranking|zip|phone|offset|number)\b")
_DATE = re.compile(r"\d{4}-\d{2}-\d{2}([ T]\d{2}:\d{2}.*)?")
_FLAG_VALUES = frozenset(["0", "1", "t", "f", "true", "false", "y", "n", "yes", "no"])
_CONTACT = re.compile(r"\b(phone|fax|mobile|e ?mail|address|url|website|zip|postal|postcode|line [12])\b")
_IDENTIFIER = re.compile(r"\b(id|ids|key|uid|guid|uuid)$")

Role = Literal["key", "label", "category", "measure", "time", "flag", "text"]
"""What a column is good for: joining, naming a row, grouping, computing, comparing dates, yes or no, or showing."""


@dataclass(frozen=True)
class ColumnFacts:
    """A column, its part, and some of what it holds."""

    table: str
    column: Column
    role: Role
    natural: str
    distinct: int
    nulls: bool
    values: tuple[Value, ...]
    """Different values of the sampled rows, the most frequent first."""

    @property
    def name(self) -> str:
        """Its name as SQL writes it."""
        return quote(self.column.name)

    @property
    def full(self) -> str:
        """With its table."""
        return f"{quote(self.table)}.{self.name}"

    @property
    def summable(self) -> bool:
        """Whether a sum or an average of it means something."""
        return self.role == "measure" and not _UNSUMMED.search(self.natural)

    @property
    def place(self) -> tuple[str, str]:
        """Table and column."""
        return self.table, self.column.name


@dataclass(frozen=True)
class TableFacts:
    """A table, how many rows it has, and some of them."""

    table: Table
    one: str
    many: str
    count: int
    rows: tuple[Row, ...]
    columns: tuple[ColumnFacts, ...]

    @property
    def name(self) -> str:
        """Its name as SQL writes it."""
        return quote(self.table.name)

    def of(self, *roles: Role) -> list[ColumnFacts]:
        """Its columns of these roles."""
        return [c for c in self.columns if c.role in roles]

    @property
    def labels(self) -> list[ColumnFacts]:
        """What names a row to a person: its labels, else its categories, else its key."""
        return self.of("label") or self.of("category", "time") or self.of("key")[:1]

    def column(self, name: str) -> ColumnFacts:
        """The column of this name."""
        return next(c for c in self.columns if c.column.name == name)

    def value(self, row: Row, column: ColumnFacts) -> Value:
        """What ``row`` has in ``column``."""
        return row[self.columns.index(column)]


@dataclass(frozen=True)
class Join:
    """``child.column`` refers to a unique ``parent`` column. ``only`` is whether no other link joins the two tables."""

    child: TableFacts
    column: ColumnFacts
    parent: TableFacts
    key: ColumnFacts
    only: bool

    @property
    def sql(self) -> str:
        """The condition of the join."""
        return f"{self.column.full} = {self.key.full}"


@dataclass(frozen=True)
class Facts:
    """A database, ready to be asked about."""

    schema: Schema
    tables: tuple[TableFacts, ...]
    joins: tuple[Join, ...] = ()
    homes: dict[str, set[tuple[str, str]]] = field(default_factory=dict)
    """Texts in lower case -> the columns that hold them: a text of one column alone implies the column."""


def gather(reader: Reader, schema: Schema, *, seed: int = 0) -> Facts:
    """Samples every table of at least two rows; a table that cannot be read is left out."""
    tables = []
    for table in schema.tables:
        try:
            if (found := _table(reader, schema, table, seed)) is not None:
                tables.append(found)
        except QueryError:
            continue  # longer to count than the limits allow
    by_name = {t.table.name: t for t in tables}
    joins = []
    for link in schema.foreign_keys:
        child, parent = by_name.get(link.table), by_name.get(link.to_table)
        if child is None or parent is None or child is parent:
            continue
        column, key = child.column(link.column), parent.column(link.to_column)
        if key.distinct == parent.count:  # refers to one row, not to several
            joins.append(Join(child, column, parent, key, _is_only(link, schema)))
    homes: dict[str, set[tuple[str, str]]] = {}
    for known in tables:
        for facts in known.columns:
            for value in facts.values:
                if isinstance(value, str):
                    homes.setdefault(value.lower(), set()).add(facts.place)
    return Facts(schema, tuple(tables), tuple(joins), homes)


def _is_only(link: ForeignKey, schema: Schema) -> bool:
    ends = {link.table, link.to_table}
    return sum({f.table, f.to_table} == ends for f in schema.foreign_keys) == 1


def _table(reader: Reader, schema: Schema, table: Table, seed: int) -> TableFacts | None:
    name = quote(table.name)
    count = int(reader.rows(f"SELECT count(*) FROM {name}")[0][0])  # type: ignore[arg-type]
    if count < 2:
        return None
    rows = _sample(reader, table, count, Draws(seed, schema.db_id, table.name, "sample"))
    links = {f.column for f in schema.foreign_keys if f.table == table.name}
    one = singular(table.natural or natural_name(table.name))
    if one.split(" ")[0] in ("has", "have", "is", "belongs"):  # "has pet": what links two things has no noun of its own
        one += " record"
    columns = []
    for i, column in enumerate(table.columns):
        cells = [row[i] for row in rows]
        columns.append(_column(reader, table, column, cells, count, one, column.name in links))
    return TableFacts(table, one, plural(one), count, tuple(rows), tuple(columns))


def _sample(reader: Reader, table: Table, count: int, draws: Draws) -> list[Row]:
    name = quote(table.name)
    cells = ", ".join(quote(c.name) for c in table.columns)
    if count <= SAMPLE:
        return reader.rows(f"SELECT {cells} FROM {name} LIMIT {SAMPLE}")
    try:
        low, high = reader.rows(f"SELECT min(rowid), max(rowid) FROM {name}")[0]
    except QueryError:  # a table WITHOUT ROWID
        return reader.rows(f"SELECT {cells} FROM {name} LIMIT {SAMPLE}")
    assert isinstance(low, int)
    assert isinstance(high, int)
    found: dict[int, Row] = {}
    for _ in range(SAMPLE):
        first = low + draws.below(high - low + 1)
        row = reader.rows(f"SELECT rowid, {cells} FROM {name} WHERE rowid >= ? ORDER BY rowid LIMIT 1", [first])[0]
        found[int(row[0])] = row[1:]  # type: ignore[arg-type]
    return list(found.values())


def _column(
    reader: Reader, table: Table, column: Column, cells: list[Value], count: int, noun: str, linked: bool
) -> ColumnFacts:
    name = quote(column.name)
    there = [v for v in cells if v is not None and v != ""]
    different = list(dict.fromkeys(there))
    try:
        distinct, full = reader.rows(f"SELECT count(DISTINCT {name}), count({name}) FROM {quote(table.name)}")[0]
        assert isinstance(distinct, int)
        assert isinstance(full, int)
    except QueryError:
        distinct, full = len(different), len(there) if len(there) < len(cells) else count
    frequency = {v: there.count(v) for v in different[:SAMPLE]}
    values = tuple(sorted(different, key=lambda v: -frequency[v]))
    natural = _stripped(column.natural or natural_name(column.name), noun, table)
    role = _role(column, natural, different, distinct, count, linked)
    empty = full < count or len(there) < len(cells)
    return ColumnFacts(table.name, column, role, natural, distinct, empty, values)


def _stripped(natural: str, noun: str, table: Table) -> str:
    """The name without the table's: the "invoice date" of an invoice is its "date", unless it has another "date"."""
    rest = natural.removeprefix(noun + " ")
    others = [(c.natural or natural_name(c.name)) for c in table.columns]
    return rest if rest and rest not in others else natural


def _role(column: Column, natural: str, different: Sequence[Value], distinct: int, count: int, linked: bool) -> Role:
    texts = [str(v) for v in different]
    if column.primary_key or linked or _IDENTIFIER.search(natural):
        # a key that is a name is what a person calls the row
        words = column.type == "text" and not linked and any(" " in t for t in texts)
        return "label" if words else "key"
    if not different or any(isinstance(v, bytes) for v in different):
        return "text"
    if distinct <= 2 and {t.lower() for t in texts} <= _FLAG_VALUES:
        return "flag"
    if column.type == "time" or all(_DATE.fullmatch(t) for t in texts[:50]):
        return "time"
    if all(isinstance(v, (int, float)) for v in different):
        return "measure" if distinct > 3 else "category" if distinct > 1 else "text"
    if sum(map(len, texts)) > _LONG * len(texts) or _CONTACT.search(natural):
        return "text"
    if 2 <= distinct <= _CATEGORY and distinct * 2 <= count:
        return "category"
    return "label"


def shown(value: Value) -> str | None:
    """A constant as a question shows it, or None for one that no question should."""
    if isinstance(value, bool) or value is None or isinstance(value, bytes):
        return None
    if isinstance(value, float):
        return f"{value:.15g}"
    text = str(value)
    plain = 1 <= len(text) <= _SHOWN and text == " ".join(text.split()) and '"' not in text
    return text if plain else None


def literal(value: Value) -> str:
    """A constant as SQL writes it."""
    if isinstance(value, (int, float)):
        return f"{value:.15g}" if isinstance(value, float) else str(value)
    return "'" + str(value).replace("'", "''") + "'"
