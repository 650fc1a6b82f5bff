"""SQLite files: opened read-only and guarded, written with the same bytes on every machine, told apart by content.

A database of somebody else is only ever read: by URI with ``mode=ro&immutable=1``, through an authorizer that allows
SELECT alone, with limits on time, rows and sizes. :class:`Reader` is the guard for one's own queries; queries that a
model wrote go through the sandbox, which adds a process of its own.
Public: ``Reader``, ``QueryError``, ``quote``, ``write_database``, ``fingerprint``, ``is_sqlite``.
"""

from __future__ import annotations

import hashlib
import sqlite3
import struct
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from manyone.data.sql.records import ColumnType, Schema
from manyone.errors import ManyoneError

Value = int | float | str | bytes | None
Row = tuple[Value, ...]

_MAGIC = b"SQLite format 3\0"
_ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION, 33}  # 33: SQLITE_RECURSIVE
_REFUSED = frozenset([
    "load_extension", "readfile", "writefile", "edit", "fts3_tokenizer",  # files and code
    "zeroblob", "randomblob", "printf", "format",  # gigabytes by one call
    "random",  # not the same twice
])  # fmt: skip
_LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: 5_000_000,
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 20_000,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 250_000,
}
_OPERATIONS = 10_000  # of SQLite's machine between two looks at the clock
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


class Reader:
    """One database, for reading. A context manager.

    ``seconds`` bounds each query, ``operations`` the steps of SQLite's machine in it (0: not), which unlike seconds are
    the same on every machine, and ``most`` its rows. :class:`ManyoneError` for what is no SQLite file.
    """

    def __init__(self, path: Path, *, seconds: float = 5.0, operations: int = 0, most: int = 10_000) -> None:
        self.path, self.seconds, self.operations, self.most = path, seconds, operations, most
        check_file(path)
        self._db = sqlite3.connect(path.resolve().as_uri() + "?mode=ro&immutable=1", uri=True, isolation_level=None)
        self._db.text_factory = lambda raw: raw.decode("utf-8", "ignore")
        for limit, value in _LIMITS.items():
            self._db.setlimit(limit, value)
        self._db.set_progress_handler(self._late, _OPERATIONS)
        self._deadline, self._steps = float("inf"), 0

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the file back."""
        self._db.close()

    def rows(self, sql: str, parameters: Sequence[Value] = ()) -> list[Row]:
        """All rows of one SELECT; :class:`QueryError` where it fails, lasts too long or has more than ``most`` rows."""
        self._db.set_authorizer(_authorize)
        return self._run(sql, parameters)

    def pragma(self, name: str, argument: str) -> list[Row]:
        """The rows of ``PRAGMA name(argument)``, for the pragmas that describe a table."""
        assert name in ("table_xinfo", "foreign_key_list", "table_list")
        self._db.set_authorizer(None)
        return self._run(f"PRAGMA {name}({_quoted(argument)})", ())

    def _run(self, sql: str, parameters: Sequence[Value]) -> list[Row]:
        self._deadline, self._steps = time.monotonic() + self.seconds, 0
        try:
            with closing(self._db.cursor()) as cursor:
                found = cursor.execute(sql, parameters).fetchmany(self.most + 1)
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as problem:
            reason = str(problem)
            if "interrupted" in reason:
                reason = f"longer than {self.seconds:g} s"
                if 0 < self.operations < self._steps:
                    reason = f"longer than {self.operations:,} steps"
            raise QueryError(f"{self.path.name}: {reason}: {sql[:200]}") from None
        if len(found) > self.most:
            raise QueryError(f"{self.path.name}: more than {self.most} rows: {sql[:200]}")
        return found

    def _late(self) -> int:
        self._steps += _OPERATIONS
        return 0 < self.operations < self._steps or time.monotonic() > self._deadline


def check_file(path: Path) -> None:
    """:class:`ManyoneError` where ``path`` is no whole SQLite file that can be read as it lies."""
    if not path.is_file():
        raise ManyoneError(f"{path}: no such database; give the path of a SQLite file")
    if path.stat().st_size == 0:
        raise ManyoneError(f"{path}: the file is empty; a SQLite database is expected")
    if not is_sqlite(path):
        raise ManyoneError(f"{path}: not a SQLite database (its first bytes say so); give a .sqlite file")
    for ending, way in (("-wal", "PRAGMA wal_checkpoint(TRUNCATE)"), ("-journal", "PRAGMA schema_version")):
        log = path.with_name(path.name + ending)
        if log.is_file() and log.stat().st_size:
            raise ManyoneError(f"{path}: rows are still in {log.name}; close what writes the database, or run "
                               f"`{way}` on it")  # fmt: skip
    try:
        with closing(sqlite3.connect(path.resolve().as_uri() + "?mode=ro&immutable=1", uri=True)) as db:
            db.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.Error as problem:
        raise ManyoneError(f"{path}: SQLite cannot read it ({problem}); restore it from a copy") from None


def _authorize(action: int, first: str | None, second: str | None, *_: object) -> int:
    if action == sqlite3.SQLITE_FUNCTION and (second or "").lower() in _REFUSED:
        return sqlite3.SQLITE_DENY
    return sqlite3.SQLITE_OK if action in _ALLOWED else sqlite3.SQLITE_DENY


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


def fingerprint(path: Path) -> str:
    """SHA-256, in hexadecimal, of what a database holds: its tables' SQL and their rows in their order.

    It does not depend on how the file lies on the disk; two databases of one fingerprint answer every query alike.
    """
    found = hashlib.sha256()
    check_file(path)
    with closing(sqlite3.connect(path.resolve().as_uri() + "?mode=ro&immutable=1", uri=True)) as db:
        db.text_factory = bytes
        for name, sql in db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table' ORDER BY name"):
            found.update(b"table %d\n" % len(sql) + sql)
            for row in _stored(db, name):
                found.update(repr(row).encode())
    return found.hexdigest()


def _stored(db: sqlite3.Connection, name: bytes) -> Iterator[Any]:
    yield from db.execute(b"SELECT * FROM ".decode() + _quoted(name.decode("utf-8", "surrogateescape")))


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
