"""The program of a worker process: SQL statements in, rows out, nothing else. Standard library only; run by its path.

Frames over the standard streams: four bytes of length (big-endian), then JSON. The first frame in is the limits, the
first out tells that the worker is there. Every later frame in asks for one statement and has one frame as its answer.

What keeps a statement harmless, each by itself:

1. the database is opened read-only and immutable: SQLite neither writes, locks nor looks for a journal;
2. an authoriser lets through SELECT, reading, functions and recursion; DDL, DML, ATTACH, PRAGMA, transactions and
   functions that reach files or build large values from small ones are refused while the statement is compiled (SQLite
   does not ask it about columns that the schema computes: what these do ends at the deadline);
3. SQLite's own limits on lengths, depths and heap; temporary tables in memory, never in files;
4. a progress handler that ends it at its deadline; the parent process kills this one soon after, since one single
   operation (a LIKE over a long text) never calls the handler;
5. the system's limits on memory, processor time, open files, and on writing: no file of this process may grow.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import struct
import sys
import time
from collections import OrderedDict
from typing import Any, BinaryIO

try:
    import resource
except ImportError:  # there is none on Windows: the parent's deadline and SQLite's limits remain
    resource = None  # type: ignore[assignment]

DENIED_FUNCTIONS = frozenset(
    ("load_extension", "readfile", "writefile", "edit", "zeroblob", "randomblob", "fts3_tokenizer", "printf", "format",
     "sqlite_log", "sqlite_rename_table", "sqlite_rename_column", "sqlite_rename_quotefix", "sqlite_rename_test",
     "sqlite_drop_column")
)  # fmt: skip
"""Functions that reach files or code, that make megabytes from a number in one operation, or that are SQLite's own."""
DENIED_TABLES = ("pragma_", "dbstat", "sqlite_dbpage", "sqlite_stmt", "fsdir", "bytecode", "tables_used")
"""Virtual tables (beginnings of their names) that show more than the database."""
ACTIONS = {
    getattr(sqlite3, f"SQLITE_{name}"): name.replace("_", " ")
    for name in (
        "ALTER_TABLE", "ANALYZE", "ATTACH", "CREATE_INDEX", "CREATE_TABLE", "CREATE_TEMP_INDEX", "CREATE_TEMP_TABLE",
        "CREATE_TEMP_TRIGGER", "CREATE_TEMP_VIEW", "CREATE_TRIGGER", "CREATE_VIEW", "CREATE_VTABLE", "DELETE", "DETACH",
        "DROP_INDEX", "DROP_TABLE", "DROP_TEMP_INDEX", "DROP_TEMP_TABLE", "DROP_TEMP_TRIGGER", "DROP_TEMP_VIEW",
        "DROP_TRIGGER", "DROP_VIEW", "DROP_VTABLE", "INSERT", "PRAGMA", "REINDEX", "SAVEPOINT", "TRANSACTION", "UPDATE",
    )
}  # fmt: skip

EVERY = 10_000
"""Operations of SQLite's machine between two calls of the progress handler."""
_PREPARED = ("json_each", "json_tree")
"""Virtual tables that only read their argument. SQLite declares one at its first use as if it made a table, which the
authoriser would refuse; so that is done before."""
_OPEN = 16  # connections kept
_PATTERN = 200  # bytes of a LIKE or GLOB pattern
_MESSAGE = 300  # characters of an error
_CHUNK = 1 << 16  # bytes of rows that are fetched at a time, about
_LARGE = ("too big", "too large", "too many", "too deep", "too complex", "too long", "maximum depth", "stack overflow")


class Guard:
    """What stops a statement: the time at which it must end, and what it tried that is refused."""

    def __init__(self) -> None:
        self.deadline = 0.0
        self.late = False
        self.denied = ""

    def start(self, seconds: float) -> None:
        """For the next statement."""
        self.deadline, self.late, self.denied = time.monotonic() + seconds, False, ""

    def progress(self) -> int:
        """SQLite's progress handler: not 0 interrupts."""
        self.late = self.late or time.monotonic() > self.deadline
        return self.late

    def authorise(self, action: int, first: str | None, second: str | None, *_: str | None) -> int:
        """SQLite's authoriser."""
        if action == sqlite3.SQLITE_SELECT or action == sqlite3.SQLITE_RECURSIVE:
            return sqlite3.SQLITE_OK
        if action == sqlite3.SQLITE_READ:
            if not (first or "").lower().startswith(DENIED_TABLES):
                return sqlite3.SQLITE_OK
            what = f"reading {first}"
        elif action == sqlite3.SQLITE_FUNCTION:
            if (second or "").lower() not in DENIED_FUNCTIONS:
                return sqlite3.SQLITE_OK
            what = f"the function {second}"
        else:
            what = " ".join(filter(None, (ACTIONS.get(action, f"action {action}"), first)))
            if first in ("sqlite_master", "sqlite_temp_master", "sqlite_schema"):
                what = "changing the schema"
        self.denied = self.denied or what
        return sqlite3.SQLITE_DENY


def connect(uri: str, limits: dict[str, Any], guard: Guard, *, heap: bool = True) -> sqlite3.Connection:
    """A guarded connection to the database ``uri``. ``heap``: bound what SQLite allocates in this whole process."""
    connection = sqlite3.connect(uri, uri=True, isolation_level=None, timeout=0, cached_statements=0)
    connection.text_factory = lambda data: data.decode(errors="ignore")
    pragmas = ["temp_store=MEMORY", "query_only=ON", "trusted_schema=OFF", "cell_size_check=ON", "mmap_size=0"]
    for pragma in pragmas + [f"hard_heap_limit={limits['memory']}"] * heap:
        connection.execute(f"PRAGMA {pragma}").close()
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, limits["text"])
    connection.setlimit(sqlite3.SQLITE_LIMIT_SQL_LENGTH, 4 * limits["sql"])  # bytes
    connection.setlimit(sqlite3.SQLITE_LIMIT_ATTACHED, 0)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, _PATTERN)
    connection.setlimit(sqlite3.SQLITE_LIMIT_EXPR_DEPTH, limits["depth"])
    connection.setlimit(sqlite3.SQLITE_LIMIT_VDBE_OP, limits["operations"])
    connection.setlimit(sqlite3.SQLITE_LIMIT_WORKER_THREADS, 0)
    if hasattr(connection, "setconfig"):  # since Python 3.12
        connection.setconfig(getattr(sqlite3, "SQLITE_DBCONFIG_DEFENSIVE"), True)  # noqa: B009
    for table in _PREPARED:
        with contextlib.suppress(sqlite3.Error):  # a SQLite without JSON
            connection.execute(f"SELECT 1 FROM {table}('[]')").close()
    connection.set_progress_handler(guard.progress, EVERY)
    connection.set_authorizer(guard.authorise)
    return connection


class Worker:
    """The state of the process: limits, guard and open connections."""

    def __init__(self, limits: dict[str, Any]) -> None:
        self.limits, self.guard = limits, Guard()
        self.connections: OrderedDict[str, sqlite3.Connection] = OrderedDict()

    def connection(self, uri: str, key: str) -> sqlite3.Connection:
        """The connection to the file that is in the state ``key``; one that has changed since is opened anew."""
        name = f"{uri} {key}"
        if name not in self.connections:
            for other in [n for n in self.connections if n.startswith(f"{uri} ")]:
                self.connections.pop(other).close()
            self.connections[name] = connect(uri, self.limits, self.guard)
            if len(self.connections) > _OPEN:
                self.connections.popitem(last=False)[1].close()
        self.connections.move_to_end(name)
        return self.connections[name]

    def answer(self, request: dict[str, Any]) -> bytes:
        """The answer to a request, whatever it is."""
        began = time.perf_counter()
        self.guard.start(request["seconds"])
        try:
            if "race" in request:
                return self.race(request)
            return self.rows(self.connection(request["uri"], request["key"]), request["sql"], began)
        except MemoryError:
            kind, words = "memory", f"needs more than {self.limits['memory'] >> 20} MiB of memory"
        except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
            kind, words = self.kind_of(error)
        return _encoded({"kind": kind, "error": words, "seconds": time.perf_counter() - began})

    def kind_of(self, error: Exception) -> tuple[str, str]:
        """What an error is, and one line about it."""
        words = " ".join(str(error).split())[:_MESSAGE]
        if self.guard.late:
            return "time", "took too long"
        if self.guard.denied:
            return "denied", f"may only read: {self.guard.denied} is refused"[:_MESSAGE]
        if isinstance(error, UnicodeError):
            return "statement", "holds half a character (a lone surrogate)"
        if "null character" in words:
            return "statement", "holds a NUL character"
        if "one statement" in words:
            return "statement", "holds more than one statement"
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_TOOBIG or any(w in words.lower() for w in _LARGE):
            return "limit", words
        return "error", words

    def rows(self, connection: sqlite3.Connection, sql: str, began: float) -> bytes:
        """Runs ``sql`` and fetches what the limits allow."""
        cursor = connection.cursor()
        try:
            cursor.execute(sql)
            if cursor.description is None:
                return _encoded({"kind": "statement", "error": "holds no statement that gives rows",
                                 "seconds": time.perf_counter() - began})  # fmt: skip
            columns = [column[0] for column in cursor.description]
            blobs: list[bool] = []

            def blob(data: bytes) -> dict[str, str]:
                blobs.append(True)
                return {"b": data.hex()}

            encode = json.JSONEncoder(separators=(",", ":"), default=blob).encode
            parts: list[str] = []
            count = size = 0
            most, chunk, truncated = self.limits["rows"], 4, False
            heavy = len(columns) * self.limits["cell"] + self.limits["row"]
            while batch := cursor.fetchmany(min(chunk, most - count + 1)):
                if time.monotonic() > self.guard.deadline:
                    self.guard.late = True
                    raise sqlite3.OperationalError("interrupted")
                text = encode(batch)
                size += len(text) + len(batch) * heavy
                if size > self.limits["size"] or count + len(batch) > most:
                    truncated = True
                    break
                count += len(batch)
                parts.append(text[1:-1])
                chunk = max(1, min(1024, _CHUNK * len(batch) // len(text)))
            head = {"columns": columns, "seconds": time.perf_counter() - began, "truncated": truncated,
                    "blobs": bool(blobs)}  # fmt: skip
            return (json.dumps(head)[:-1] + ', "rows": [' + ",".join(parts) + "]}").encode()
        finally:
            cursor.close()

    def race(self, request: dict[str, Any]) -> bytes:
        """Seconds to the first row of both statements in turn, each time on a fresh connection."""
        found = []
        for _ in range(request["race"]):
            pair = []
            for sql in request["sql"]:
                with contextlib.closing(connect(request["uri"], self.limits, self.guard)) as connection:
                    began = time.perf_counter()
                    connection.execute(sql)
                    pair.append(time.perf_counter() - began)
            found.append(pair)
        return _encoded({"race": found})


def _encoded(reply: dict[str, Any]) -> bytes:
    return json.dumps(reply).encode()


def confine(memory: int) -> None:
    """Takes from this process what it does not need: memory, files to write, core dumps, children."""
    if resource is None:
        return
    for name, most in (("RLIMIT_AS", memory), ("RLIMIT_FSIZE", 0), ("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", 128),
                       ("RLIMIT_NPROC", 0)):  # fmt: skip
        if hasattr(resource, name):
            with contextlib.suppress(ValueError, OSError):  # a system that has the limit may still not let it be set
                hard = resource.getrlimit(getattr(resource, name))[1]
                most = most if hard == resource.RLIM_INFINITY else min(most, hard)
                resource.setrlimit(getattr(resource, name), (most, most))


def allow(seconds: float) -> None:
    """Processor time for the next statement, after which the system ends this process: also without a parent."""
    if resource is not None:
        used = resource.getrusage(resource.RUSAGE_SELF)
        most = int(used.ru_utime + used.ru_stime + seconds) + 2
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_CPU, (most, resource.getrlimit(resource.RLIMIT_CPU)[1]))


def receive(stream: BinaryIO) -> dict[str, Any] | None:
    """The next frame, or None at the end."""
    head = stream.read(4)
    if len(head) < 4:
        return None
    return json.loads(stream.read(struct.unpack(">I", head)[0]))


def send(stream: BinaryIO, data: bytes) -> None:
    """Writes a frame."""
    stream.write(struct.pack(">I", len(data)))
    stream.write(data)
    stream.flush()


def main() -> None:
    """Serves until the parent closes the pipe."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    limits = receive(source)
    if limits is None:
        return
    confine(limits["memory"] + limits["base"])
    worker = Worker(limits)
    send(target, _encoded({"sqlite": sqlite3.sqlite_version, "pid": os.getpid()}))
    while (request := receive(source)) is not None:
        allow(request["seconds"] + limits["grace"])
        send(target, worker.answer(request))


if __name__ == "__main__":
    main()
