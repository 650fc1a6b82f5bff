"""Writing to disk so that nothing is lost: atomic replacement, durable renames, one clear line when it fails."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

from manyone.errors import ManyoneError

_ADVICE = {
    errno.ENOSPC: "the disk is full: free some space",
    errno.EDQUOT: "the disk quota is used up: free some space",
    errno.EFBIG: "the file would pass the size limit: raise it (`ulimit -f`)",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "permission denied: choose another folder or mend its permissions",
    errno.EPERM: "not permitted: choose another folder or mend its permissions",
    errno.ENOTDIR: "a part of this path is a file, not a folder: choose another folder",
    errno.EEXIST: "a file of this name is in the way: choose another folder",
    errno.EISDIR: "a folder of this name is in the way: choose another folder",
    errno.ENAMETOOLONG: "the name is too long: choose a shorter one",
    errno.EIO: "the device reports an input/output error: check the disk",
}


def write_problem(error: BaseException) -> str | None:
    """What the user can do about ``error`` when it says that the disk refused a write; None for anything else."""
    if isinstance(error, OSError):
        return _ADVICE.get(error.errno or 0)
    if type(error).__name__ == "SafetensorError":  # safetensors reports the system's error as text only
        found = re.search(r"os error (\d+)", str(error))
        return _ADVICE.get(int(found[1])) if found else None
    return None


def stays_inside(path: Path, folder: Path) -> bool:
    """Whether ``path``, its symbolic links followed, lies in ``folder``."""
    return path.resolve().is_relative_to(folder.resolve())


def links_out(folder: Path) -> Iterator[Path]:
    """The symbolic links below ``folder`` that lead out of it."""
    for place, folders, files in os.walk(folder):
        for path in (Path(place, name) for name in [*folders, *files]):
            if path.is_symlink() and not stays_inside(path, folder):
                yield path


@contextlib.contextmanager
def writing(path: Path, kept: str = "") -> Iterator[None]:
    """Turns a refused write inside the block into one ``ManyoneError`` that names ``path`` and what is ``kept``.

    Blocks may be nested: the outermost has the last word.
    """
    try:
        yield
    except Exception as error:
        advice = write_problem(error.__cause__ if isinstance(error, ManyoneError) and error.__cause__ else error)
        if advice is None:
            raise
        raise ManyoneError(f"cannot write {path}: {advice}{'; ' + kept if kept else ''}") from error


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file, read in blocks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_file(path: Path) -> None:
    """Forces the contents of ``path`` to the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Forces the entries of ``folder`` (its renames) to the disk, on systems where a folder can be opened."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, data: bytes) -> None:
    """Replaces ``path`` by ``data``: after a crash at any moment the file is the old one or the new one, whole."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with writing(path):
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def check_writable(path: Path) -> None:
    """Raises when ``path`` (a folder that may not exist yet) cannot be made or written; writes nothing."""
    for folder in [path, *path.parents]:
        if os.path.lexists(folder):
            if not folder.is_dir():
                raise ManyoneError(f"cannot write {path}: {folder} is a file, not a folder: choose another folder")
            if not os.access(folder, os.W_OK | os.X_OK):
                raise ManyoneError(f"cannot write {path}: no permission to write in {folder}: choose another folder")
            return
