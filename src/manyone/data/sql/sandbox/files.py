"""Which database a result belongs to: the SHA-256 of its file, and whether the file may be read as it lies there."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import NamedTuple

from manyone.engine.files import sha256
from manyone.errors import ManyoneError

_HEAD = b"SQLite format 3\x00"
_found: dict[Path, tuple[State, str]] = {}
_opened: dict[Path, State] = {}  # databases whose first bytes have been looked at, and how the files looked then


class State(NamedTuple):
    """What tells that a file is the one it was: place on the disk, size, times (nobody can set the last one back)."""

    device: int
    inode: int
    size: int
    modified: int
    changed: int


def fingerprint(db: Path) -> str:
    """Hexadecimal SHA-256 of the database file ``db``; read once by every process while its state stays the same.

    Raises ``ManyoneError`` where :func:`state` does.
    """
    db = Path(db)
    before = state(db)
    if db in _found and _found[db][0] == before:
        return _found[db][1]
    digest = sha256(db)
    check_unchanged(db, before)
    _found[db] = before, digest
    return digest


def state(db: Path) -> State:
    """How the database file looks now.

    Raises ``ManyoneError`` when it is no SQLite database, and when a journal beside it holds changes that the file
    lacks: the file is read as it is, so these would be left out.
    """
    found = _state(db)
    if _opened.get(db) != found:
        try:
            with db.open("rb") as file:
                head = file.read(len(_HEAD))
        except OSError as error:
            raise ManyoneError(f"{db}: cannot read the database: {error.strerror or error}") from None
        if head != _HEAD:
            kind = "an empty file" if not head else "another kind of file"
            raise ManyoneError(f"{db}: not a SQLite database but {kind}: give the right one")
        _opened[db] = found
    for suffix, way in (("-wal", "PRAGMA wal_checkpoint(TRUNCATE)"), ("-journal", "PRAGMA schema_version")):
        beside = db.with_name(db.name + suffix)
        try:
            size = beside.stat().st_size
        except OSError:
            continue  # there is none
        if size:
            raise ManyoneError(
                f"{db}: {beside.name} beside it holds changes that the file lacks: whoever writes the database must "
                f'close it first, or finish it with sqlite3 FILE "{way}"'
            )
    return found


def check_unchanged(db: Path, before: State) -> None:
    """Raises ``ManyoneError`` when ``db`` does not look as it did ``before``."""
    if _state(db) != before:
        raise ManyoneError(f"{db}: was written to while it was read: let nobody write to it meanwhile, or use a copy")


def _state(db: Path) -> State:
    try:
        found = db.stat()
    except (OSError, ValueError) as error:
        raise ManyoneError(f"{db}: no such database: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(found.st_mode):
        raise ManyoneError(f"{db}: not a file: give the database's .sqlite file")
    return State(found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
