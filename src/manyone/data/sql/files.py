"""SQLite files: read under the sandbox's guard, written with the same bytes on every machine.

A database of somebody else is only ever read. :class:`Reader` runs our own queries in this process, through the very
connection that the sandbox makes (read-only, immutable, authorised, limited); queries that a model wrote go through the
sandbox, which adds a process of its own.
Public: ``Reader``, ``QueryError``, ``TooManyRows``, ``quote``, ``write_database``, ``is_sqlite``, ``check_file``.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from types import TracebackType

from manyone.data.sql.records import ColumnType, Schema
from manyone.data.sql.sandbox import Limits, Value
from manyone.data.sql.sandbox.files import check_unchanged, state
from manyone.data.sql.sandbox.worker import EVERY, Guard, connect
from manyone.errors import ManyoneError

Row = tuple[Value, ...]

_MAGIC = b"SQLite format 3\0"
_DECLARED: dict[ColumnType, str] = {
    "text": "TEXT",
    "number": "NUMERIC",
    "time": "TEXT",
    "boolean": "NUMERIC",
    "others": "TEXT",
}
_WORDS = """
ABORT ACTION ADD AFTER ALL ALTER ALWAYS ANALYZE AND AS ASC ATTACH AUTOINCREMENT BEFORE BEGIN BETWEEN BY CASCADE
CASE CAST CHECK COLLATE COLUMN COMMIT CONFLICT CONSTRAINT CREATE CROSS CURRENT CURRENT_DATE CURRENT_TIME
CURRENT_TIMESTAMP DATABASE DEFAULT DEFERRABLE DEFERRED DELETE DESC DETACH DISTINCT DO DROP EACH ELSE END ESCAPE
EXCEPT EXCLUDE EXCLUSIVE EXISTS EXPLAIN FAIL FILTER FIRST FOLLOWING FOR FOREIGN FROM FULL GENERATED GLOB GROUP
GROUPS HAVING IF IGNORE IMMEDIATE IN INDEX INDEXED INITIALLY INNER INSERT INSTEAD INTERSECT INTO IS ISNULL JOIN KEY
LAST LEFT LIKE LIMIT MATCH MATERIALIZED NATURAL NO NOT NOTHING NOTNULL NULL NULLS OF OFFSET ON OR ORDER OTHERS
OUTER OVER PARTITION PLAN PRAGMA PRECEDING PRIMARY QUERY RAISE RANGE RECURSIVE REFERENCES REGEXP REINDEX RELEASE
RENAME REPLACE RESTRICT RETURNING RIGHT ROLLBACK ROW ROWS SAVEPOINT SELECT SET TABLE TEMP TEMPORARY THEN TIES TO
TRANSACTION TRIGGER UNBOUNDED UNION UNIQUE UPDATE USING VACUUM VALUES VIEW VIRTUAL WHEN WHERE WINDOW WITH WITHOUT"""
_KEYWORDS = frozenset(_WORDS.split())
_STAMP = 3_040_000  # the SQLite version that files of ours name, whichever wrote them


class QueryError(ManyoneError):
    """A query that SQLite refused, that took too long, or that gave more than was asked for."""


class TooManyRows(QueryError):
    """A query that gave more rows than were asked for."""


def is_sqlite(path: Path) -> bool:
    """Whether the file begins as SQLite's files do."""
    try:
        with path.open("rb") as file:
            return file.read(len(_MAGIC)) == _MAGIC
    except OSError:
        return False


def quote(name: str) -> str:
    """``name`` as SQL writes it: as it is where that is a plain word and no keyword, else in double quotes."""
    plain = name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()
    return name if plain and name.upper() not in _KEYWORDS else '"' + name.replace('"', '""') + '"'


class _Steps(Guard):
    """Stops a statement by the steps that SQLite's machine makes, too; 0: any number."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.steps = most, 0

    def start(self, seconds: float) -> None:
        super().start(seconds)
        self.steps = 0

    @property
    def exhausted(self) -> bool:
        """Whether the statement made more steps than it may."""
        return 0 < self.most < self.steps

    def progress(self) -> int:
        self.steps += EVERY
        return self.exhausted or super().progress()


class Reader:
    """One database, for reading. A context manager.

    ``seconds`` bounds each query, ``operations`` the steps of SQLite's machine in it (0: not), which unlike seconds are
    the same on every machine, and ``most`` its rows. :class:`ManyoneError` for what is no SQLite file, for one whose
    rows are still in a log beside it, and at the end for one that was written to meanwhile.
    """

    def __init__(self, path: Path, *, seconds: float = 5.0, operations: int = 0, most: int = 10_000) -> None:
        self.path, self.seconds, self.operations, self.most = path, seconds, operations, most
        self._state = state(path)
        self._guard = _Steps(operations)
        uri = path.resolve().as_uri() + "?mode=ro&immutable=1"
        with ExitStack() as stack:
            try:
                # the limit on the heap holds for a whole process, and this one is not the database's alone
                self._db = connect(uri, dataclasses.asdict(Limits()), self._guard, heap=False)
                stack.callback(self._db.close)
                self._guard.start(seconds)
                self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()
            except sqlite3.Error as problem:
                raise ManyoneError(f"{path}: SQLite cannot read it ({problem}); restore it from a copy") from None
            stack.pop_all()  # it stays open

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        if error is None:
            check_unchanged(self.path, self._state)

    def close(self) -> None:
        """Gives the file back."""
        self._db.close()

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """All rows of one SELECT; :class:`QueryError` where it fails, lasts too long or has more than ``most`` rows."""
        return self._run(sql, parameters)

    def pragma(self, name: str, argument: str) -> list[Row]:
        """The rows of ``PRAGMA name(argument)``, for the pragmas that describe a table."""
        assert name in ("table_xinfo", "foreign_key_list", "table_list")
        self._db.set_authorizer(None)
        try:
            return self._run(f"PRAGMA {name}({_quoted(argument)})", ())
        finally:
            self._db.set_authorizer(self._guard.authorise)

    def _run(self, sql: str, parameters: Sequence[Value]) -> list[Row]:
        self._guard.start(self.seconds)
        try:
            with closing(self._db.cursor()) as cursor:
                found = cursor.execute(sql, parameters).fetchmany(self.most + 1)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as problem:
            reason = str(problem)
            if self._guard.exhausted:
                reason = f"longer than {self.operations:,} steps"
            elif self._guard.late:
                reason = f"longer than {self.seconds:g} s"
            raise QueryError(f"{self.path.name}: {reason}: {sql[:200]}") from None
        if len(found) > self.most:
            raise TooManyRows(f"{self.path.name}: more than {self.most} rows: {sql[:200]}")
        return found


def check_file(path: Path) -> None:
    """:class:`ManyoneError` where ``path`` is no whole SQLite file that can be read as it lies."""
    with Reader(path):
        pass


def write_database(
    path: Path,
    schema: Schema,
    rows: Mapping[str, Iterable[Sequence[Value]]],
    *,
    types: Mapping[tuple[str, str], str] | None = None,
    keys: Mapping[str, Sequence[str]] | None = None,
    indexed: bool = False,
) -> None:
    """Writes a new SQLite file: every table of ``schema`` with its ``rows`` in their order.

    ``types`` overrides the declared type of (table, column), ``keys`` the primary key of a table; ``indexed`` adds an
    index on every column of a foreign key. The bytes depend on the content alone: of what SQLite notes in the header,
    its own version is overwritten by a constant. A file that is there already is left as it is.
    """
    if path.exists():
        raise ManyoneError(f"{path}: there is a file already; choose another name")
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            for pragma in ("page_size=4096", "encoding='UTF-8'", "journal_mode=OFF", "synchronous=OFF"):
                db.execute(f"PRAGMA {pragma}")
            db.execute("BEGIN")
            for table in schema.tables:
                db.execute(_create(schema, table.name, types or {}, keys or {}))
                places = ", ".join("?" * len(table.columns))
                db.executemany(f"INSERT INTO {_quoted(table.name)} VALUES ({places})", rows.get(table.name, ()))
            if indexed:
                for number, (name, column) in enumerate(sorted({(f.table, f.column) for f in schema.foreign_keys})):
                    db.execute(f'CREATE INDEX "link {number}" ON {_quoted(name)} ({_quoted(column)})')
            db.execute("COMMIT")
    except sqlite3.Error as problem:
        path.unlink(missing_ok=True)
        raise ManyoneError(f"{path}: cannot write the database {schema.db_id} ({problem})") from None
    with path.open("rb+") as file:
        file.seek(24)
        changes = file.read(4)
        file.seek(92)
        file.write(changes + struct.pack(">I", _STAMP))


def _create(schema: Schema, name: str, types: Mapping[tuple[str, str], str], keys: Mapping[str, Sequence[str]]) -> str:
    table = schema.table(name)
    assert table is not None
    lines = [f"  {_quoted(c.name)} {types.get((name, c.name), _DECLARED[c.type])}" for c in table.columns]
    if key := keys.get(name, [c.name for c in table.columns if c.primary_key]):
        lines.append(f"  PRIMARY KEY ({', '.join(map(_quoted, key))})")
    for link in schema.foreign_keys:
        if link.table == name:
            target = f"{_quoted(link.to_table)} ({_quoted(link.to_column)})"
            lines.append(f"  FOREIGN KEY ({_quoted(link.column)}) REFERENCES {target}")
    return f"CREATE TABLE {_quoted(name)} (\n" + ",\n".join(lines) + "\n)"


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
