"""Statements a second of the SQL sandbox: warm workers, a process for each statement, and what official scripts do.

    python benchmarks/sql_evaluator.py [--statements 400] [--rounds 5] [--workers N] [--json rows.jsonl]

The same database, statements and results throughout, in one run; the rows take turns, and medians over the rounds are
shown. ``warm workers`` is the sandbox as an evaluation uses it. ``a process a statement`` has the same guards, but a
sandbox that is made and closed for each statement. ``a guarded connection a statement`` has them without a process of
its own: a statement that SQLite cannot interrupt would hold it up. ``a connection in a thread`` is what official
scripts do: opened for writing, no guard, and a time limit that never interrupts a statement. Processor time counts
workers too, with their start.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import resource
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from manyone.data.sql.sandbox import Limits, Sandbox
from manyone.data.sql.sandbox.worker import Guard, connect
from manyone.engine.fabric import processors

ROWS = 2000
STATEMENTS = (
    "SELECT count(*) FROM track",
    "SELECT name FROM artist ORDER BY name LIMIT 10",
    "SELECT name, count(*) FROM artist JOIN track ON artist.id = artist_id GROUP BY artist.id ORDER BY 2 DESC LIMIT 5",
    "SELECT title FROM track WHERE seconds > (SELECT avg(seconds) FROM track) LIMIT 20",
    "SELECT country, avg(born) FROM artist GROUP BY country HAVING count(*) > 3",
    "SELECT name FROM artist WHERE id NOT IN (SELECT artist_id FROM track)",
    "SELECT title FROM track WHERE title LIKE '%7%' AND seconds BETWEEN 100 AND 200",
    "SELECT country FROM artist WHERE born < 1960 INTERSECT SELECT country FROM artist WHERE born > 1980",
)
LIMITS = Limits(seconds=30)
Rows = list[tuple[Any, ...]]


def make_database(path: Path) -> None:
    """200 artists and ``ROWS`` tracks."""
    draw = random.Random(0)
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "CREATE TABLE artist (id INTEGER PRIMARY KEY, name TEXT, country TEXT, born INTEGER);"
            "CREATE TABLE track (id INTEGER PRIMARY KEY, title TEXT, artist_id INTEGER, seconds INTEGER);"
        )
        artists = [(k, f"artist {k}", draw.choice("ABCDEFGH"), draw.randrange(1940, 2000)) for k in range(200)]
        tracks = [(k, f"track {k}", draw.randrange(190), draw.randrange(60, 600)) for k in range(ROWS)]
        connection.executemany("INSERT INTO artist VALUES (?, ?, ?, ?)", artists)
        connection.executemany("INSERT INTO track VALUES (?, ?, ?, ?)", tracks)
        connection.commit()


def warm(db: Path, statements: Sequence[str], workers: int) -> tuple[float, list[Rows]]:
    """Wall seconds of all statements in a sandbox whose workers run, and what they gave."""
    with Sandbox(workers, LIMITS) as sandbox:
        sandbox.map([(db, STATEMENTS[0])] * 2 * workers)
        began = time.perf_counter()
        outcomes = sandbox.map([(db, sql) for sql in statements])
        return time.perf_counter() - began, [list(outcome.rows) for outcome in outcomes]


def process_each(db: Path, statements: Sequence[str]) -> tuple[float, list[Rows]]:
    """The same with a sandbox for each statement."""
    began, found = time.perf_counter(), []
    for sql in statements:
        with Sandbox(1, LIMITS) as sandbox:
            found.append(list(sandbox.execute(db, sql).rows))
    return time.perf_counter() - began, found


def guarded_each(db: Path, statements: Sequence[str]) -> tuple[float, list[Rows]]:
    """The same with a guarded connection for each statement, in this process."""
    limits = {"memory": LIMITS.memory, "text": LIMITS.text, "sql": LIMITS.sql, "depth": LIMITS.depth,
              "operations": LIMITS.operations}  # fmt: skip
    guard = Guard()
    began, found = time.perf_counter(), []
    for sql in statements:
        guard.start(LIMITS.seconds)
        with contextlib.closing(connect(f"{db.as_uri()}?mode=ro&immutable=1", limits, guard)) as connection:
            found.append(connection.execute(sql).fetchall())
    return time.perf_counter() - began, found


def thread_each(db: Path, statements: Sequence[str]) -> tuple[float, list[Rows]]:
    """The official way: a connection for each statement, in a thread that is waited for."""

    def run(sql: str) -> Rows:
        with contextlib.closing(sqlite3.connect(db)) as connection:
            connection.text_factory = lambda data: data.decode(errors="ignore")
            return connection.execute(sql).fetchall()

    began, found = time.perf_counter(), []
    with ThreadPoolExecutor(1) as threads:
        for sql in statements:
            found.append(threads.submit(run, sql).result(60))
    return time.perf_counter() - began, found


def processor_seconds() -> float:
    """Of this process and of its children that have ended."""
    both = (resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN))
    return sum(use.ru_utime + use.ru_stime for use in both)


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--statements", type=int, default=400, help="statements of a row and round (processes: a tenth)"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--workers", type=int, default=processors())
    parser.add_argument("--json", type=Path, help="also append the rows to this file")
    options = parser.parse_args()
    statements = [STATEMENTS[k % len(STATEMENTS)] for k in range(options.statements)]
    few = statements[: max(len(STATEMENTS), options.statements // 10)]
    Row = tuple[Callable[[Path, Sequence[str]], tuple[float, list[Rows]]], Sequence[str]]
    rows: dict[str, Row] = {
        f"warm workers ({options.workers})": (lambda db, all_: warm(db, all_, options.workers), statements),
        "warm worker (1)": (lambda db, all_: warm(db, all_, 1), statements),
        "a process a statement": (process_each, few),
        "a guarded connection a statement": (guarded_each, statements),
        "a connection in a thread (no guard)": (thread_each, statements),
    }
    walls: dict[str, list[float]] = {name: [] for name in rows}
    busy: dict[str, list[float]] = {name: [] for name in rows}
    with tempfile.TemporaryDirectory() as folder:
        db = Path(folder) / "music.sqlite"
        make_database(db)
        expected = thread_each(db, STATEMENTS)[1]
        for _ in range(options.rounds):
            for name, (measure, mine) in rows.items():
                before = processor_seconds()
                seconds, found = measure(db, mine)
                assert found == [expected[k % len(STATEMENTS)] for k in range(len(mine))], name
                walls[name].append(seconds / len(mine))
                busy[name].append((processor_seconds() - before) / len(mine))
    wall = {name: statistics.median(times) for name, times in walls.items()}
    base = wall["a process a statement"]
    print(f"{'':38}{'statements/s':>13}{'ms':>9}{'processor ms':>14}{'x a process':>13}")
    for name in rows:
        cpu = statistics.median(busy[name])
        print(f"{name:38}{1 / wall[name]:13.0f}{1e3 * wall[name]:9.2f}{1e3 * cpu:14.2f}{base / wall[name]:13.1f}")
        if options.json:
            row = {"benchmark": "sql-evaluator", "name": name, "seconds": wall[name], "processor_seconds": cpu,
                   "ratio": base / wall[name], "statements": len(rows[name][1]), "rounds": options.rounds,
                   "load": os.getloadavg()[0]}  # fmt: skip
            with options.json.open("a") as file:
                file.write(json.dumps(row) + "\n")
    print(f"medians of {options.rounds} rounds; load of the machine {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
