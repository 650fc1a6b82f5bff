"""The process that runs statements on one DuckDB file: a line of JSON in, a line of JSON out, again and again.

The file is opened read-only, without access to other files, extensions or the network, under a configuration that no
statement can change; only what gives rows and changes nothing is run. It stands alone: it imports nothing of ours.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from decimal import Decimal
from typing import Any

import duckdb

_TEXT = 5_000_000  # characters of one value


def connect(path: str, memory: int) -> Any:
    """The database in the file ``path``, with ``memory`` bytes to work in."""
    return duckdb.connect(path, read_only=True, config={
        "enable_external_access": "false", "autoload_known_extensions": "false", "threads": "1",
        "autoinstall_known_extensions": "false", "memory_limit": f"{memory >> 20}MiB",
        "max_temp_directory_size": "0B", "lock_configuration": "true"})  # fmt: skip


def answer(db: Any, request: dict[str, Any]) -> dict[str, Any]:
    """What the statement of ``request`` gives: columns, rows, error, kind, seconds, truncated."""
    found: dict[str, Any] = {"columns": [], "rows": [], "error": "", "kind": None, "truncated": False}
    began = time.monotonic()
    timer = threading.Timer(request["seconds"], db.interrupt)
    try:
        statements = db.extract_statements(request["sql"])
        if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
            raise _Refused
        timer.start()
        cursor = db.execute(statements[0])
        found["columns"] = [d[0] for d in cursor.description]
        _fetch(cursor, request, found)
    except _Refused:
        found["error"], found["kind"] = "not one statement that only reads", "statement"
    except duckdb.InterruptException:
        found["error"], found["kind"] = f"ran longer than {request['seconds']:g} s", "time"
    except (duckdb.Error, RuntimeError, ValueError) as problem:
        found["error"] = (str(problem).splitlines() or [type(problem).__name__])[0]
        found["kind"] = next((k for kind, k in _KINDS.items() if isinstance(problem, kind)), "error")
    finally:
        if timer.ident:
            timer.cancel()
            timer.join()
    if found["kind"]:
        found["rows"], found["columns"] = [], []
    return {**found, "seconds": time.monotonic() - began}


class _Refused(Exception):
    """A statement that is not run."""


_KINDS = {duckdb.PermissionException: "denied", duckdb.OutOfMemoryException: "memory"}


def _fetch(cursor: Any, request: dict[str, Any], found: dict[str, Any]) -> None:
    """Fills in the rows, as many as the limits allow."""
    size = 0
    while rows := cursor.fetchmany(1_000):
        for row in rows:
            cells = [_cell(value) for value in row]
            size += 96 + sum(48 + len(c) if isinstance(c, str) else 48 for c in cells)
            if len(found["rows"]) >= request["rows"] or size > request["size"]:
                found["truncated"] = True
                return
            found["rows"].append(cells)


def _cell(value: Any) -> int | float | str | None:
    """A value as JSON and the other databases have it: dates and what is nested as their text."""
    if value is None or (isinstance(value, int | float) and not isinstance(value, bool)):
        return value
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, Decimal):
        return float(value)
    if isinstance(value, bytes):
        return value[:_TEXT].hex()
    return str(value)[:_TEXT]


def main() -> None:
    """Opens the file of the first line and answers the others."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        limit = 4 << 30  # DuckDB reserves more than it uses
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    first = json.loads(sys.stdin.readline())
    try:
        db = connect(first["path"], first["memory"])
    except (duckdb.Error, RuntimeError) as problem:
        print(json.dumps({"error": (str(problem).splitlines() or ["?"])[0]}), flush=True)
    else:
        print(json.dumps({"error": ""}), flush=True)
        for line in sys.stdin:
            print(json.dumps(answer(db, json.loads(line))), flush=True)
    os._exit(0)  # threads of DuckDB's that are cut off as Python ends abort the process


if __name__ == "__main__":
    main()
