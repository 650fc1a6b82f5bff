"""A user's database, for asking: its schema, its texts, and what a query gives. SQLite and DuckDB files, read only.

    with open_database("chinook.sqlite") as database:
        database.execute("SELECT count(*) FROM track").rows

Whoever wrote the file or the query, neither can write, reach another file or last longer than it may.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

from manyone.data.sql.files import QueryError, Reader, check_file, quote
from manyone.data.sql.names import natural_name
from manyone.data.sql.records import Column, ForeignKey, Schema, Table
from manyone.data.sql.sandbox import Limits, Outcome, Sandbox, fingerprint
from manyone.data.sql.schema import column_type, read_schema
from manyone.engine.extras import need
from manyone.engine.files import sha256
from manyone.engine.modules import python
from manyone.errors import ManyoneError

_DUCK = (8, b"DUCK")  # where a DuckDB file says that it is one


class Database(ABC):
    """A database that questions are asked about. A context manager."""

    dialect: ClassVar[str]
    """Of the SQL that it runs, as sqlglot calls it."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path, self.limits = path, limits

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    @abstractmethod
    def fingerprint(self) -> str:
        """SHA-256 of the file, in hexadecimal."""

    @abstractmethod
    def schema(self) -> Schema:
        """Its tables; ``ManyoneError`` where there is none."""

    @abstractmethod
    def texts(self, table: str, column: str, *, longest: int, most: int, seconds: float) -> tuple[list[str], bool]:
        """The distinct texts of 1 to ``longest`` characters in a column, at most ``most`` of them, and whether these
        are all; where that takes longer than about ``seconds``, those of the first rows."""

    @abstractmethod
    def execute(self, sql: str) -> Outcome:
        """What the statement ``sql`` gives."""

    @abstractmethod
    def close(self) -> None:
        """Ends the processes that run statements."""


def open_database(path: Path | str, limits: Limits | None = None) -> Database:
    """The database in the file ``path``, told apart by the file's first bytes.

    ``limits`` is what one statement may use. ``ManyoneError`` for what is no database.
    """
    path, limits = Path(path), limits or Limits()
    at, mark = _DUCK
    if path.is_file():
        with path.open("rb") as file:
            if file.read(at + len(mark))[at:] == mark:
                return DuckDatabase(path, limits)
    return SQLiteDatabase(path, limits)


class SQLiteDatabase(Database):
    """A SQLite file; statements run in the sandbox."""

    dialect = "sqlite"

    def __init__(self, path: Path, limits: Limits) -> None:
        check_file(path)
        super().__init__(path, limits)
        self._sandbox: Sandbox | None = None

    @property
    def fingerprint(self) -> str:
        return fingerprint(self.path)

    def schema(self) -> Schema:
        return read_schema(self.path)

    def texts(self, table: str, column: str, *, longest: int, most: int, seconds: float) -> tuple[list[str], bool]:
        name, rows = quote(column), quote(table)
        holds = f"typeof({name}) = 'text' AND length({name}) BETWEEN 1 AND {int(longest)}"
        with Reader(self.path, seconds=seconds, most=most + 1) as reader:
            try:
                found = reader.rows(f"SELECT DISTINCT {name} FROM {rows} WHERE {holds} LIMIT {most + 1}")
                return [str(v) for (v,) in found[:most]], len(found) <= most
            except QueryError:  # so long a table: what its first rows have
                pass
            try:
                some = f"SELECT {name} FROM {rows} LIMIT {10 * most}"
                found = reader.rows(f"SELECT DISTINCT {name} FROM ({some}) WHERE {holds} LIMIT {most}")
                return [str(v) for (v,) in found], False
            except QueryError:
                return [], False

    def execute(self, sql: str) -> Outcome:
        if self._sandbox is None:
            self._sandbox = Sandbox(workers=1, limits=self.limits)
        return self._sandbox.execute(self.path, sql)

    def close(self) -> None:
        if self._sandbox is not None:
            self._sandbox.close()
            self._sandbox = None


class DuckDatabase(Database):
    """A DuckDB file (needs the extra ``duckdb``), in a process that may read this file and nothing else."""

    dialect = "duckdb"

    def __init__(self, path: Path, limits: Limits) -> None:
        need("duckdb", f"{path}: a DuckDB database", "duckdb")
        super().__init__(path, limits)
        self._process: subprocess.Popen[str] | None = None
        self._digest = ""

    @property
    def fingerprint(self) -> str:
        self._digest = self._digest or sha256(self.path)
        return self._digest

    def schema(self) -> Schema:
        columns = self._rows("SELECT table_name, column_name, data_type FROM duckdb_columns() WHERE NOT internal "
                             "AND schema_name = 'main' ORDER BY table_oid, column_index")  # fmt: skip
        links = self._rows(
            "SELECT table_name, constraint_type, to_json(constraint_column_names), referenced_table, "
            "to_json(referenced_column_names) FROM duckdb_constraints() WHERE schema_name = 'main'"
        )
        keys = {(t, c) for t, kind, names, *_ in links if kind == "PRIMARY KEY" for c in json.loads(names)}
        tables: dict[str, list[Column]] = {}
        for table, column, declared in columns:
            tables.setdefault(table, []).append(
                Column(column, column_type(declared), natural_name(column), (table, column) in keys, "",
                       self._values(table, column))
            )  # fmt: skip
        if not tables:
            raise ManyoneError(f"{self.path}: the database has no table; give one that holds data")
        foreign = [ForeignKey(t, c, other, d) for t, kind, names, other, theirs in links if kind == "FOREIGN KEY"
                   for c, d in zip(json.loads(names), json.loads(theirs), strict=True)]  # fmt: skip
        made = tuple(Table(name, tuple(some), natural_name(name)) for name, some in tables.items())
        return Schema(self.path.stem, made, tuple(foreign))

    def _values(self, table: str, column: str) -> tuple[str, ...]:
        name = quote(column)
        sql = f"SELECT DISTINCT CAST({name} AS VARCHAR) FROM {quote(table)} WHERE {name} IS NOT NULL LIMIT 2"
        found = (str(v) for (v,) in self._run(sql, 1.0, 2).rows)
        return tuple(v for v in found if 1 <= len(v) <= 25)

    def texts(self, table: str, column: str, *, longest: int, most: int, seconds: float) -> tuple[list[str], bool]:
        name, rows = quote(column), quote(table)
        holds = f"typeof({name}) = 'VARCHAR' AND length(CAST({name} AS VARCHAR)) BETWEEN 1 AND {int(longest)}"
        sql = f"SELECT DISTINCT {name} FROM {{}} WHERE {holds} ORDER BY 1 LIMIT {most + 1}"
        found = self._run(sql.format(rows), seconds, most + 1)
        whole = found.ok and len(found.rows) <= most
        if not found.ok:  # so long a table: what its first rows have
            found = self._run(sql.format(f"(FROM {rows} LIMIT {10 * most})"), seconds, most + 1)
        return [str(v) for (v,) in found.rows[:most]], whole

    def execute(self, sql: str) -> Outcome:
        return self._run(sql, self.limits.seconds, self.limits.rows)

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        found = self._run(sql, 30.0, 1_000_000)
        if not found.ok:
            raise ManyoneError(f"{self.path}: DuckDB cannot read it ({found.error}); restore it from a copy, or write "
                               "it with this version of duckdb")  # fmt: skip
        return list(found.rows)

    def _run(self, sql: str, seconds: float, most: int) -> Outcome:
        request = {"sql": sql, "seconds": seconds, "rows": most, "size": self.limits.size}
        began = time.monotonic()
        try:
            answer = self._ask(request, seconds + self.limits.grace)
        except EOFError:
            late = time.monotonic() - began >= seconds
            why = f"ran longer than {seconds:g} s" if late else "its process came to an end"
            return Outcome(error=why, kind_of_error="time" if late else "crash", seconds=time.monotonic() - began)
        return Outcome(
            columns=tuple(answer["columns"]),
            rows=tuple(tuple(row) for row in answer["rows"]),
            error=answer["error"],
            kind_of_error=answer["kind"],
            seconds=answer["seconds"],
            truncated=answer["truncated"],
        )

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """The process's answer; it is killed after ``seconds``, as DuckDB looks at its clock between steps only."""
        if self._process is None:
            self._process = subprocess.Popen(
                python(str(_PROGRAM)), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL, text=True, encoding="utf-8", cwd=Path(os.sep).resolve(),
            )  # fmt: skip
            opened = self._ask({"path": str(self.path.resolve()), "memory": self.limits.memory}, _START)
            if opened["error"]:
                self.close()
                raise ManyoneError(f"{self.path}: DuckDB cannot open it ({opened['error']}): close what writes it, or "
                                   "restore it from a copy")  # fmt: skip
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Timer(seconds, process.kill)
        late.daemon = True
        late.start()
        try:
            with contextlib.suppress(BrokenPipeError):
                process.stdin.write(json.dumps(request) + "\n")
                process.stdin.flush()
            line = process.stdout.readline()
        except BaseException:
            self.close()  # an answer that nobody reads would be taken for the next
            raise
        finally:
            late.cancel()
        if not line.endswith("\n"):
            self.close()
            raise EOFError
        return json.loads(line)

    def close(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()


_PROGRAM = Path(__file__).with_name("duckdb_worker.py")
_START = 60.0  # seconds that a process may take to begin
