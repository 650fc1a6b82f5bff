"""The cache folder: MANYONE_CACHE, or the platform's cache folder; what lies where, and how files get there whole."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import platformdirs
from filelock import FileLock

from manyone.engine.files import part_beside, sha256
from manyone.errors import ManyoneError

_verified: dict[Path, tuple[object, ...]] = {}  # what this process has verified, and how the file looked then


def cache_path(*parts: str) -> Path:
    """Where something lies in the cache, or would; nothing is made, so that to look leaves no trace."""
    root = os.environ.get("MANYONE_CACHE")
    folder = Path(root).expanduser() if root else platformdirs.user_cache_path("manyone")
    return folder.joinpath(*parts)


def cache_folder(*parts: str) -> Path:
    """A folder below the cache, made on demand; :class:`ManyoneError` when it cannot be written."""
    folder = cache_path(*parts)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise ManyoneError(f"{folder}: cannot make the cache folder ({problem.strerror}); set MANYONE_CACHE") from None
    return folder


@contextlib.contextmanager
def locked(name: str) -> Iterator[None]:
    """Holds the lock called ``name``, so that of many processes one does the work and the others find it done."""
    with FileLock(cache_folder("locks") / f"{name}.lock"):
        yield


@contextlib.contextmanager
def workspace() -> Iterator[Path]:
    """A temporary folder inside the cache (same file system, so that renames are atomic), removed afterwards."""
    folder = cache_folder("tmp")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise ManyoneError(f"{folder}: cannot write (permission denied); set MANYONE_CACHE")
    with part_beside(folder / "work") as part:
        yield part


def verify(path: Path, expected: str, *, name: str) -> None:
    """Removes ``path`` and raises when its SHA-256 is not ``expected``.

    Every process reads the file for this, once: until place on the disk, size or times have changed, that of the status
    included, which nobody can set back.
    """
    found = path.stat()
    facts = (expected, found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
    if _verified.get(path) == facts:
        return
    got = sha256(path)
    if got != expected:
        path.unlink()
        raise ManyoneError(
            f"{path}: SHA-256 of {name} is wrong (expected {expected}, got {got}); the file was removed, fetch it again"
        )
    _verified[path] = facts
