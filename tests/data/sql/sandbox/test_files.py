"""Which file a result belongs to, and files that must not be read as they lie there."""

import hashlib
import os
import sqlite3

import pytest

from manyone.data.sql.sandbox import Sandbox, fingerprint
from manyone.errors import ManyoneError


@pytest.fixture
def db(tmp_path):
    path = tmp_path / "d.sqlite"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE t (a)")
    connection.close()
    return path


def test_it_is_the_sha256_and_follows_the_file(db):
    assert fingerprint(db) == hashlib.sha256(db.read_bytes()).hexdigest()
    times = db.stat()
    data = bytearray(db.read_bytes())
    data[-1] ^= 1
    db.write_bytes(bytes(data))
    os.utime(db, ns=(times.st_atime_ns, times.st_mtime_ns))  # the same size and the same time of the last change
    assert fingerprint(db) == hashlib.sha256(data).hexdigest()


def test_it_is_computed_once(db, monkeypatch):
    first = fingerprint(db)
    monkeypatch.setattr("manyone.data.sql.sandbox.files.sha256", None)
    assert fingerprint(db) == first


def test_files_that_are_no_database(tmp_path):
    for name, content, words in (("empty", b"", "an empty file"), ("text", b"SELECT 1", "another kind of file")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ManyoneError, match=words):
            fingerprint(tmp_path / name)
    with pytest.raises(ManyoneError, match="no such database"):
        fingerprint(tmp_path / "missing.sqlite")
    with pytest.raises(ManyoneError, match="not a file"):
        fingerprint(tmp_path)
    with pytest.raises(ManyoneError, match="no such database"):
        fingerprint(tmp_path / "nul\0")


def test_a_database_that_is_being_written_is_refused(db):
    writer = sqlite3.connect(db)
    writer.execute("PRAGMA journal_mode=WAL")
    writer.execute("INSERT INTO t VALUES (1)")
    writer.commit()
    with Sandbox(1) as sandbox, pytest.raises(ManyoneError, match=r"d\.sqlite-wal beside it holds changes"):
        sandbox.execute(db, "SELECT * FROM t")
    writer.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    writer.close()
    with Sandbox(1) as sandbox:
        assert sandbox.execute(db, "SELECT * FROM t").rows == ((1,),)


def test_a_journal_left_behind_is_refused(db):
    db.with_name("d.sqlite-journal").write_bytes(b"half a transaction")
    with pytest.raises(ManyoneError, match=r"d\.sqlite-journal"):
        fingerprint(db)


def test_a_database_that_changes_meanwhile_is_noticed(db, monkeypatch):
    with Sandbox(1) as sandbox:
        worker = sandbox._workers[0]
        ask = worker.ask

        def changes(request):
            answer = ask(request)
            db.write_bytes(db.read_bytes() + b"\0" * 4096)
            return answer

        monkeypatch.setattr(worker, "ask", changes)
        with pytest.raises(ManyoneError, match="was written to while it was read"):
            sandbox.execute(db, "SELECT 1")
