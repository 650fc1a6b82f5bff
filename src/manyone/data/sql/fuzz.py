"""Fuzz databases: rows for a schema that has none, so that its pairs can be executed and told from near misses.

A schema gets several instances: the first is for execution accuracy, all together are its test suite. In each of them

- a table has 12 to 24 rows, more where the golds compare a column with many constants, and five times as many in every
  third instance after the first, so that groups of more than ten are there;
- primary keys are unique; foreign keys, and columns that golds join, take their values from the column they refer to,
  so that some rows are referred to often and some never;
- texts and numbers come from small domains, so that there are ties and groups;
- a cell of a column that golds compare with constants holds one of these with probability one half, and numbers also
  their neighbours, so that > and >= differ.

Every draw is a function of (seed, database, instance, table, column, row) by CRC-32; the files' bytes are the same on
every machine. :func:`discrimination` says how many wrong queries the instances tell from the golds.
Public: ``fuzz_databases``, ``fuzz_rows``, ``Hints``, ``Draws``, ``discrimination``, ``Discrimination``,
``same_result``.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from manyone.data.sql.files import QueryError, Reader, Row, write_database
from manyone.data.sql.queries import KINDS, Literal, Place, counted, joined, literals, mutants
from manyone.data.sql.records import Column, Pair, Schema, Table
from manyone.data.sql.sandbox import Value
from manyone.data.sql.words import domain
from manyone.engine.extras import need
from manyone.errors import ManyoneError

INSTANCES = 4
"""Instances of a schema: one for execution accuracy and three more for its test suite."""
ROWS = (12, 24)
_MOST_LITERALS = 200  # of one column; a schema whose golds name more is not made by hand
_NULL_SHARE = 0.04  # of the cells outside of keys, in every instance but the first
_LITERAL_SHARE = 0.5
_CROWDED = 5  # times as many rows in every third instance after the first: groups of more than ten


class Draws:
    """Numbers in [0, 1) that are a function of what they are for: CRC-32 of the names, then Weyl steps, mixed."""

    def __init__(self, *names: object) -> None:
        self._state = zlib.crc32("/".join(map(str, names)).encode())

    def uniform(self) -> float:
        """The next number."""
        self._state = (self._state + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        z = self._state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        return ((z ^ (z >> 31)) >> 11) / (1 << 53)

    def below(self, bound: int) -> int:
        """A whole number from 0 to ``bound`` - 1."""
        return int(self.uniform() * bound)

    def shuffled(self, values: Iterable[Value]) -> list[Value]:
        """The values in a random order (Fisher and Yates)."""
        found = list(values)
        for i in range(len(found) - 1, 0, -1):
            j = self.below(i + 1)
            found[i], found[j] = found[j], found[i]
        return found


@dataclass
class Hints:
    """What golds say about a schema's rows: constants by column, columns that are joined, columns of numbers."""

    literals: dict[Place, set[Literal]] = field(default_factory=dict)
    links: dict[Place, Place] = field(default_factory=dict)
    numbers: set[Place] = field(default_factory=set)

    @classmethod
    def from_golds(cls, schema: Schema, golds: Iterable[str]) -> Hints:
        """The hints of all ``golds``; those that cannot be parsed give none. Needs sqlglot (extra ``sql``)."""
        need("sqlglot", "making rows for a schema", "sql")
        hints = cls()
        keys = {(t.name, c.name) for t in schema.tables for c in t.columns if c.primary_key}
        declared = {(f.table, f.column) for f in schema.foreign_keys}
        for sql in dict.fromkeys(golds):
            try:
                found, pairs, numbers = literals(sql, schema), joined(sql, schema), counted(sql, schema)
            except ManyoneError:
                continue
            hints.numbers |= numbers
            for place, values in found.items():
                hints.literals.setdefault(place, set()).update(values)
            for one, two in pairs:
                source, target = (two, one) if one in keys and two not in keys else (one, two)
                if source not in declared and (target not in declared or target in keys) and source[0] != target[0]:
                    hints.links.setdefault(source, target)
        return hints


def fuzz_databases(
    schema: Schema,
    golds: Iterable[str],
    folder: Path,
    *,
    instances: int = INSTANCES,
    seed: int = 0,
    values: Mapping[Place, Sequence[Value]] | None = None,
    rows: tuple[int, int] = ROWS,
    first: int = 0,
) -> tuple[Path, ...]:
    """Writes databases of ``schema``, instances ``first`` to ``instances - 1``, into ``folder``; returns their paths.

    ``golds`` are the queries whose constants are sown; ``values`` are a column's own values where real ones are known,
    in the place of invented ones. Instance 0 is ``DB.sqlite``, the others ``DB_1.sqlite`` and so on.
    """
    hints = Hints.from_golds(schema, golds)
    paths = []
    for instance in range(first, instances):
        path = folder / (f"{schema.db_id}.sqlite" if instance == 0 else f"{schema.db_id}_{instance}.sqlite")
        content = fuzz_rows(schema, hints, instance=instance, seed=seed, values=values, rows=rows)
        keys = {t.name: _own_key(schema, t) for t in schema.tables}
        write_database(path, schema, content, keys=keys)
        paths.append(path)
    return tuple(paths)


def fuzz_rows(
    schema: Schema,
    hints: Hints,
    *,
    instance: int = 0,
    seed: int = 0,
    values: Mapping[Place, Sequence[Value]] | None = None,
    rows: tuple[int, int] = ROWS,
) -> dict[str, list[Row]]:
    """The rows of one instance by table. See the head of this file for what holds of them."""
    return _Filling(schema, hints, instance, seed, values or {}, rows).fill()


class _Filling:
    """One instance while it is filled: tables in the order of their references, columns one by one."""

    def __init__(
        self, schema: Schema, hints: Hints, instance: int, seed: int, values: Mapping[Place, Sequence[Value]],
        rows: tuple[int, int],
    ) -> None:  # fmt: skip
        self.schema, self.instance, self.seed, self.values, self.sizes = schema, instance, seed, values, rows
        self.links: dict[Place, Place] = dict(hints.links)
        for link in schema.foreign_keys:
            self.links[link.table, link.column] = (link.to_table, link.to_column)
        self.numbers = hints.numbers
        self.literals = {place: set(found) for place, found in hints.literals.items()}
        for source, target in self.links.items():  # a constant of a foreign key has to be there to be referred to
            self.literals.setdefault(target, set()).update(self.literals.get(source, ()))
        self.cells: dict[Place, list[Value]] = {}
        self.crowded = instance > 0 and instance % 3 == 0

    def fill(self) -> dict[str, list[Row]]:
        found = {}
        for table in _in_order(self.schema, self.links):
            found[table.name] = self._table(table)
        return {table.name: found[table.name] for table in self.schema.tables}

    def _draws(self, *names: object) -> Draws:
        return Draws(self.seed, self.schema.db_id, self.instance, *names)

    def _table(self, table: Table) -> list[Row]:
        low, high = self.sizes
        draws = self._draws(table.name, "rows")
        count = (low + draws.below(high - low + 1)) * (_CROWDED if self.crowded else 1)
        linked = [c for c in table.columns if (table.name, c.name) in self.links]
        if len(linked) > 1:
            count += count // 2  # a table that links others: its groups need members
        most = max((len(self.literals.get((table.name, c.name), ())) for c in table.columns), default=0)
        count = max(count, min(3 * most // 2, _MOST_LITERALS))
        key = _own_key(self.schema, table)
        lone = table.column(key[0]) if len(key) == 1 else None
        columns = [self._column(table, c, count, unique=lone is not None and c == lone) for c in table.columns]
        count = min(count, *(len(c) for c in columns))
        rows = [tuple(column[i] for column in columns) for i in range(count)]
        if key:
            places = [i for i, c in enumerate(table.columns) if c.name in key]
            rows = list({tuple(_folded(row[i]) for i in places): row for row in rows}.values())
        for i, column in enumerate(table.columns):
            self.cells[table.name, column.name] = [row[i] for row in rows]
        return rows

    def _column(self, table: Table, column: Column, count: int, *, unique: bool) -> list[Value]:
        place = (table.name, column.name)
        draws = self._draws(*place)
        target = self.links.get(place)
        if target is not None and self.cells.get(target):
            return self._references(self.cells[target], self.literals.get(place, set()), count, draws, unique)
        # what a cell may hold is the same in every instance, so that a constant that one has is known to all
        known = self.values.get(place)
        sown = [_typed(v, column) for v in sorted(self.literals.get(place, ()), key=repr)][:_MOST_LITERALS]
        near = [_typed(n + d, column) for v in sown if (n := _number(v)) is not None for d in (-1, 1)]
        if known:
            base = list(known)
        else:
            # golds take some columns of texts for numbers (Spider's MPG): their texts are numbers then
            shown = replace(column, type="number") if place in self.numbers and column.type == "text" else column
            base = [_typed(v, column) for v in domain(table, shown, Draws(self.seed, self.schema.db_id, *place))]
        if unique:
            return _unique(sown, base, count, column, draws)
        if not base and not sown:
            return [None] * count
        if _flag(base) and sown:
            base = [v for v in base if v in sown] + sown
        cells: list[Value] = []
        first = draws.shuffled(sown)
        for row in range(count):
            if sown and draws.uniform() < _LITERAL_SHARE:
                # each of them once before any comes again
                cells.append(first[row] if row < len(first) else sown[draws.below(len(sown))])
            elif near and draws.uniform() < _LITERAL_SHARE:
                cells.append(near[draws.below(len(near))])
            else:
                cells.append(base[draws.below(len(base))] if base else sown[draws.below(len(sown))])
        if self.instance and not column.primary_key:
            cells = [None if draws.uniform() < _NULL_SHARE else cell for cell in cells]
        return draws.shuffled(cells)

    def _references(
        self, cells: Sequence[Value], sown: set[Literal], count: int, draws: Draws, unique: bool
    ) -> list[Value]:
        """Values of the other column: a quarter of them never, the others the more often the earlier they come."""
        known = list(dict.fromkeys(v for v in cells if v is not None))
        wanted = [v for v in known if v in sown or str(v) in {str(s) for s in sown}]
        order = draws.shuffled(known)
        if unique:
            return order[: max(1, len(order) - len(order) // 4)][:count]
        kept = [*wanted, *(v for v in order if v not in wanted)]
        kept = kept[: max(len(wanted), 2, len(kept) - len(kept) // 4)]
        found: list[Value] = []
        for _ in range(count):
            if wanted and draws.uniform() < _LITERAL_SHARE:
                found.append(wanted[draws.below(len(wanted))])
            else:
                found.append(kept[int(draws.uniform() ** 2 * len(kept))])
        return found


def _in_order(schema: Schema, links: Mapping[Place, Place]) -> list[Table]:
    """The tables, those that are referred to first; a circle is entered at its first table."""
    left, done = list(schema.tables), []
    while left:
        names = {t.name for t in left}
        free = [t for t in left if not any(links.get((t.name, c.name), ("", ""))[0] in names - {t.name}
                                           for c in t.columns)]  # fmt: skip
        done.append((free or left)[0])
        left.remove(done[-1])
    return done


def _own_key(schema: Schema, table: Table) -> list[str]:
    """The columns that tell the rows apart.

    Spider's tables.json names one column of a key of several. Where that column refers to another table and the table
    has more references, the key is all of them: else a concert would have one singer.
    """
    key = [c.name for c in table.columns if c.primary_key]
    links = list(dict.fromkeys(f.column for f in schema.foreign_keys if f.table == table.name))
    if len(key) == 1 and key[0] in links and len(links) > 1:
        return links
    return key


def _typed(value: Value, column: Column) -> Value:
    """A value as the column stores it: text in a column of texts, a number where the column has numbers."""
    if value is None:
        return None
    if column.type in ("text", "time", "others"):
        return str(value)
    if isinstance(value, str):
        try:
            return int(value)
        except ValueError:
            return value
    return value


def _number(value: Value) -> int | float | None:
    if isinstance(value, str):
        return int(value) if value.isdecimal() and (value == "0" or value[0] != "0") else None
    return value if isinstance(value, (int, float)) else None


def _folded(value: Value) -> Value:
    """What a unique key compares: 3 and '3' are one in a column of numbers."""
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return float(value) if isinstance(value, int) else value


def _flag(base: Sequence[Value]) -> bool:
    return 0 < len(base) <= 2


def _unique(sown: Sequence[Value], base: Sequence[Value], count: int, column: Column, draws: Draws) -> list[Value]:
    """Different values for a key: the constants, then whole numbers or the domain's texts, with a number at need."""
    found = {_folded(v): v for v in sown}
    number = 0
    if column.type in ("number", "boolean"):
        while len(found) < count:
            number += 1
            found.setdefault(float(number), number)
    else:
        texts = [str(v) for v in draws.shuffled(base)] or ["key"]
        while len(found) < count:
            text = texts[number % len(texts)] + (f" {number // len(texts) + 1}" if number >= len(texts) else "")
            found.setdefault(_folded(text), text)
            number += 1
    return draws.shuffled(list(found.values()))


# --- how much the instances tell apart --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Discrimination:
    """How well a suite of databases tells wrong queries from golds.

    ``failed``: golds that do not run on some instance. ``empty``: golds without a row on the first. ``rejected`` of
    ``made`` mutants give another result than their gold on some instance, by kind; ``missed`` are the others.
    """

    golds: int
    failed: tuple[str, ...]
    empty: int
    made: Mapping[str, int]
    rejected: Mapping[str, int]
    missed: tuple[tuple[str, str, str], ...]

    @property
    def share(self) -> float:
        """Rejected mutants of all, from 0 to 1."""
        return sum(self.rejected.values()) / max(1, sum(self.made.values()))

    @property
    def filled(self) -> float:
        """Golds with a row on the first instance, of all, from 0 to 1."""
        return 1 - self.empty / max(1, self.golds)


def discrimination(
    pairs: Iterable[Pair],
    schemas: Mapping[str, Schema],
    databases: Mapping[str, Sequence[Path]],
    *,
    seed: int = 0,
    seconds: float = 2.0,
) -> Discrimination:
    """Executes every gold and its mutants (``queries.mutants``) on all instances of its database and compares.

    Rows are compared as Spider's evaluation does: in their order where the gold orders, as a bag otherwise.
    """
    golds: dict[str, list[str]] = {}
    for pair in pairs:
        golds.setdefault(pair.db_id, []).append(pair.sql)
    failed, missed, empty, total = [], [], 0, 0
    made: Counter[str] = Counter()
    rejected: Counter[str] = Counter()
    for db_id, queries in golds.items():
        readers = [Reader(path, seconds=seconds) for path in databases[db_id]]
        try:
            for sql in dict.fromkeys(queries):
                total += 1
                right = [_rows(reader, sql) for reader in readers]
                if any(rows is None for rows in right):
                    failed.append(sql)
                    continue
                empty += not right[0]
                for mutant in mutants(sql, schemas[db_id], seed=seed):
                    made[mutant.kind] += 1
                    if _differs(readers, right, sql, mutant.sql):
                        rejected[mutant.kind] += 1
                    else:
                        missed.append((mutant.kind, sql, mutant.sql))
        finally:
            for reader in readers:
                reader.close()
    order = [k for k in KINDS if made[k]]
    return Discrimination(
        total, tuple(failed), empty, {k: made[k] for k in order}, {k: rejected[k] for k in order}, tuple(missed)
    )


def _rows(reader: Reader, sql: str) -> list[Row] | None:
    try:
        return reader.rows(sql)
    except QueryError:
        return None


def _differs(readers: Sequence[Reader], right: Sequence[list[Row] | None], gold: str, wrong: str) -> bool:
    ordered = "order by" in " ".join(gold.lower().split())
    for reader, rows in zip(readers, right, strict=True):
        other = _rows(reader, wrong)
        if other is None or rows is None or not same_result(rows, other, ordered=ordered):
            return True
    return False


def same_result(rows: Sequence[Row], other: Sequence[Row], *, ordered: bool) -> bool:
    """Whether two results hold the same rows, in the same order if ``ordered``, else as bags; 1 and 1.0 are one."""
    if len(rows) != len(other):
        return False
    return list(rows) == list(other) if ordered else Counter(rows) == Counter(other)
