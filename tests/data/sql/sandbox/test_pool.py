"""The sandbox: what statements give, and what becomes of workers and databases that misbehave."""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from manyone.data.sql.sandbox import Limits, Outcome, Sandbox
from manyone.data.sql.sandbox.process import PROGRAM
from manyone.errors import ManyoneError

KILLED = "SELECT instr(s, substr(s, 1, 1000000) || 'b') FROM (SELECT replace(hex('{}'), '6', '{}') s)".format(
    "a" * 9000, "1" * 180
)
"""One operation of quadratic length, which only ends with its process."""


@pytest.fixture(scope="module")
def sandbox():
    with Sandbox(2, Limits(seconds=10)) as sandbox:
        yield sandbox


def make(path: Path, *statements: str) -> Path:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()
    return path


def patiently(sandbox, db, sql):
    """The outcome of a short statement under a short limit, on a machine that may be busy."""
    for _ in range(50):
        outcome = sandbox.execute(db, sql)
        if outcome.kind_of_error != "time":
            break
    return outcome


def test_values_come_as_sqlite_has_them(sandbox, tmp_path):
    db = make(tmp_path / "v.sqlite", "CREATE TABLE v (a)", "INSERT INTO v VALUES (1), (1.5), ('é\u4e2d'), (x'00ff'), "
              "(NULL), (9223372036854775807), (0.1), (-9e999), ('')")  # fmt: skip
    outcome = sandbox.execute(db, "SELECT a, typeof(a) AS kind FROM v")
    assert outcome.columns == ("a", "kind")
    assert [row[0] for row in outcome.rows] == [1, 1.5, "é\u4e2d", b"\x00\xff", None, 2**63 - 1, 0.1, float("-inf"), ""]
    assert [type(row[0]) for row in outcome.rows[:4]] == [int, float, str, bytes]
    assert outcome.ok
    assert outcome.kind_of_error is None
    assert outcome.seconds > 0


def test_bytes_that_are_no_utf8_are_left_out(sandbox, singers):
    assert sandbox.execute(singers, "SELECT CAST(x'61ff62' AS TEXT)").rows == (("ab",),)


def test_json_tables_may_be_read(sandbox, singers):
    assert sandbox.execute(singers, "SELECT value FROM json_each('[3, 4]')").rows == ((3,), (4,))
    assert len(sandbox.execute(singers, "SELECT * FROM json_tree('[3, [4]]')").rows) == 4


@pytest.mark.parametrize(
    "name",
    ["two words.sqlite", "a?mode=rwc&x=1.sqlite", "a#b.sqlite", "100%41.sqlite", "größe \u4e2d.sqlite",
     "a'b\"c;.sqlite", "a\\b.sqlite", "new\nline.sqlite"],
)  # fmt: skip
def test_odd_paths(sandbox, tmp_path, name):
    folder = tmp_path / f"in {name}"
    folder.mkdir()
    db = make(folder / name, "CREATE TABLE t (a)", "INSERT INTO t VALUES (7)")
    assert sandbox.execute(db, "SELECT a FROM t").rows == ((7,),)
    assert [path.name for path in folder.iterdir()] == [name]


def test_a_path_that_is_no_utf8(sandbox, tmp_path):
    db = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff\xfe.sqlite"))
    plain = make(tmp_path / "plain.sqlite", "CREATE TABLE t (a)")
    try:
        plain.rename(db)
    except OSError:
        pytest.skip("this file system has only names in UTF-8")
    assert sandbox.execute(db, "SELECT count(*) FROM t").rows == ((0,),)


def test_a_folder_where_nobody_may_write(sandbox, tmp_path):
    folder = tmp_path / "closed"
    folder.mkdir()
    db = make(folder / "d.sqlite", "PRAGMA journal_mode=WAL", "CREATE TABLE t (a)")
    folder.chmod(0o500)
    try:
        assert sandbox.execute(db, "SELECT count(*) FROM t").rows == ((0,),)
    finally:
        folder.chmod(0o700)


def test_map_keeps_the_order_and_tells_how_many_are_done(sandbox, singers):
    told = []
    jobs = [(singers, f"SELECT {k}, sum(a.id) FROM singer a, singer b WHERE a.id < {k}") for k in range(40)]
    outcomes = sandbox.map(jobs, done=told.append)
    assert [outcome.rows[0][0] for outcome in outcomes] == list(range(40))
    assert told == list(range(1, 41))
    assert sandbox.map([]) == []


def test_a_task_that_fails_stops_the_others_at_once(singers):
    endless = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r) SELECT max(x) FROM r"

    def task(number):
        if number == 1:
            raise KeyError("this one")
        return [sandbox.execute(singers, endless) for _ in range(5)]

    with Sandbox(2, Limits(seconds=120)) as sandbox:
        began = time.monotonic()
        with pytest.raises(KeyError, match="this one"):
            sandbox.each(task, [1, *range(2, 9)])
        assert time.monotonic() - began < 60  # one of these statements would take twice as long
        assert sandbox.map([(singers, "SELECT 1")] * 3)[2].rows == ((1,),)


def test_a_worker_that_was_killed_is_started_again(singers):
    with Sandbox(1, Limits(seconds=0.2, grace=0.1)) as sandbox:
        for _ in range(2):
            outcome = sandbox.execute(singers, KILLED)
            assert outcome.kind_of_error == "time"
            assert outcome.error == "ran longer than 0.2 s"
            assert not outcome.ok
            assert patiently(sandbox, singers, "SELECT 1").rows == ((1,),)


def test_a_statement_without_memory_and_the_next_one(singers):
    rows = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r WHERE x < 4000000)"
    with Sandbox(1, Limits(seconds=60, memory=16 << 20)) as sandbox:
        outcome = sandbox.execute(singers, f"{rows} SELECT x FROM r ORDER BY -x")
        assert outcome.kind_of_error == "memory"
        assert "16 MiB" in outcome.error
        assert sandbox.execute(singers, "SELECT 1").rows == ((1,),)


def test_a_worker_that_dies_in_between_is_replaced(singers):
    with Sandbox(1) as sandbox:
        assert sandbox.execute(singers, "SELECT 1").ok
        (worker,) = sandbox._workers
        worker.kill()
        worker._process.wait()
        assert sandbox.execute(singers, "SELECT 2").rows == ((2,),)


def test_rows_and_bytes_are_capped(singers):
    endless = "WITH RECURSIVE r(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM r WHERE x < 100) SELECT x FROM r"
    with Sandbox(1, Limits(rows=100)) as sandbox:
        assert sandbox.execute(singers, endless).ok  # 100 rows of 100
        cut = sandbox.execute(singers, endless.replace("100", "101"))
        assert cut.truncated
        assert len(cut.rows) <= 100
        assert not cut.ok
    with Sandbox(1, Limits(size=1000)) as sandbox:
        assert sandbox.execute(singers, endless).truncated
        assert sandbox.execute(singers, "SELECT id FROM singer LIMIT 2").ok


def test_results_of_gold_are_kept_while_the_file_is_the_same(tmp_path, monkeypatch):
    db = make(tmp_path / "k.sqlite", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)")
    copy = tmp_path / "copy.sqlite"
    copy.write_bytes(db.read_bytes())
    with Sandbox(1) as sandbox:
        first = sandbox.execute(db, "SELECT a, random() FROM t", keep=True)
        assert sandbox.execute(db, "SELECT a, random() FROM t", keep=True) is first
        assert sandbox.execute(copy, "SELECT a, random() FROM t", keep=True) is first  # the same content
        assert sandbox.execute(db, "SELECT a, random() FROM t") != first
        failed = sandbox.execute(db, "SELECT b FROM t", keep=True)
        make(db, "UPDATE t SET a = 2")
        assert sandbox.execute(db, "SELECT a, random() FROM t", keep=True).rows[0][0] == 2
        make(db, "ALTER TABLE t ADD COLUMN b")
        assert failed.kind_of_error == "error"
        assert sandbox.execute(db, "SELECT b FROM t", keep=True).ok


def test_a_database_that_changed_between_statements_is_read_anew(sandbox, tmp_path):
    db = make(tmp_path / "c.sqlite", "CREATE TABLE t (a)")
    assert sandbox.map([(db, "SELECT count(*) FROM t")] * 4)[-1].rows == ((0,),)
    make(db, "INSERT INTO t VALUES (1)")
    assert {outcome.rows for outcome in sandbox.map([(db, "SELECT count(*) FROM t")] * 4)} == {((1,),)}


def test_races_give_times_of_both(sandbox, singers):
    pairs = sandbox.race(singers, "SELECT 1", "SELECT count(*) FROM singer a, singer b, singer c", repeats=3)
    assert len(pairs) == 3
    assert all(first < second for first, second in pairs)
    assert sandbox.race(singers, "SELECT 1", "DROP TABLE singer") == []


def test_what_cannot_be_a_sandbox_is_said(singers, tmp_path, monkeypatch):
    with pytest.raises(ManyoneError, match="workers=0"):
        Sandbox(0)
    with pytest.raises(ManyoneError, match="seconds must be a number above 0"):
        Limits(seconds=0)
    closed = Sandbox(1)
    closed.close()
    closed.close()
    with pytest.raises(ManyoneError, match="closed"):
        closed.execute(singers, "SELECT 1")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with Sandbox(1) as sandbox, pytest.raises(ManyoneError, match="cannot start /bin/false"):
        sandbox.execute(singers, "SELECT 1")


def test_closing_ends_the_processes(singers):
    with Sandbox(1) as sandbox:
        sandbox.execute(singers, "SELECT 1")
        process = sandbox._workers[0]._process
    assert process.returncode == 0


def test_an_interrupted_statement_s_answer_is_not_the_next_one_s(singers, monkeypatch):
    import json

    with Sandbox(1) as sandbox:
        assert sandbox.execute(singers, "SELECT 1").ok
        loads = json.loads

        def interrupted(data):
            monkeypatch.setattr(json, "loads", loads)
            raise KeyboardInterrupt

        monkeypatch.setattr(json, "loads", interrupted)
        with pytest.raises(KeyboardInterrupt):
            sandbox.execute(singers, "SELECT 'old'")
        assert sandbox.execute(singers, "SELECT 'new'").rows == (("new",),)


def test_the_program_needs_the_standard_library_alone():
    import ast

    tree = ast.parse(PROGRAM.read_text())
    names = {a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names}
    names |= {n.module for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= sys.stdlib_module_names


def test_outcomes_are_plain_values():
    assert Outcome() == Outcome()
    assert Outcome(rows=((1,),)).ok
    assert not Outcome(truncated=True).ok


def test_a_database_of_somebody_else_is_harmless_too(tmp_path):
    """Views call functions that are refused as in statements. Columns that are computed do so unasked: SQLite compiles
    them without the authoriser, so that a bomb there ends at the deadline."""
    db = make(tmp_path / "trap.sqlite", "CREATE TABLE t (a)", "INSERT INTO t VALUES (1)",
              "ALTER TABLE t ADD COLUMN b AS (length(printf('%.*c', 900000000, a)))",
              "CREATE VIEW v AS SELECT printf('%.*c', 900000000, 'x') AS p", "CREATE VIEW w AS SELECT * FROM w2",
              "CREATE VIEW w2 AS SELECT * FROM w")  # fmt: skip
    with Sandbox(1, Limits(seconds=0.5, grace=0.2)) as sandbox:
        assert patiently(sandbox, db, "SELECT length(p) FROM v").kind_of_error == "denied"
        assert sandbox.execute(db, "SELECT b FROM t").kind_of_error in ("time", "limit", "memory")
        assert patiently(sandbox, db, "SELECT a FROM t").rows == ((1,),)
        assert patiently(sandbox, db, "SELECT * FROM w").kind_of_error == "error"


def test_damaged_databases_are_errors(sandbox, tmp_path):
    good = make(tmp_path / "good.sqlite", "CREATE TABLE t (a TEXT, b INTEGER)", "CREATE INDEX i ON t (b)",
                *(f"INSERT INTO t VALUES ('{'x' * 50}', {k})" for k in range(200)))  # fmt: skip
    data, draw = good.read_bytes(), random.Random(0)
    kinds = set()
    for number in range(25):
        bad = bytearray(data)
        for _ in range(40):
            bad[draw.randrange(40, len(bad))] = draw.randrange(256)
        path = tmp_path / f"bad{number}.sqlite"
        path.write_bytes(bytes(bad[: draw.randrange(2000, len(bad))] if number % 2 else bad))
        kinds |= {sandbox.execute(path, f"SELECT {what} FROM t").kind_of_error for what in ("*", "max(b)", "count(*)")}
    assert "error" in kinds
    assert kinds <= {"error", "limit", None}
    assert sandbox.execute(good, "SELECT count(*) FROM t").rows == ((200,),)


@pytest.mark.skipif(os.name != "posix", reason="looks for a process by its number")
def test_workers_end_with_a_parent_that_is_killed(singers):
    program = (
        "import os, signal, sys; from pathlib import Path; from manyone.data.sql.sandbox import Sandbox\n"
        "sandbox = Sandbox(1); sandbox.execute(Path(sys.argv[1]), 'SELECT 1')\n"
        "print(sandbox._workers[0]._process.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(singers)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    for _ in range(600):  # up to a minute on a busy machine
        try:
            os.kill(int(done.stdout), 0)
        except ProcessLookupError:
            return
        state = Path(f"/proc/{int(done.stdout)}/stat")
        if state.exists() and state.read_text().rpartition(")")[2].split()[0] == "Z":
            return  # it has ended, and nobody has asked for its status yet
        time.sleep(0.1)
    raise AssertionError("the worker outlives its parent")
