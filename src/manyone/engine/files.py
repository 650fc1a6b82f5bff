"""Writing to disk so that nothing is lost: atomic replacement, durable renames, one clear line when it fails."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from manyone.errors import ManyoneError

try:
    import fcntl
except ImportError:  # not on Windows: remains of killed processes stay there until somebody removes them
    fcntl = None  # type: ignore[assignment]

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
        if error.errno is None and re.search(r"requested and \d+ written", str(error)):  # NumPy's, without a reason
            return _ADVICE[errno.ENOSPC].replace("is full", "takes no more")
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


@contextlib.contextmanager
def part_beside(target: Path) -> Iterator[Path]:
    """A new hidden folder beside ``target`` to write into; what the block leaves under its name is removed at the end.

    What is to stay is renamed: a file out of the folder, or the folder itself. While the block lasts the folder is
    locked, so that the next writer of the same ``target`` tells the remains of a process that was killed, which it
    removes, from the work of one that lives.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    _clear_remains(target)
    part, lock = _new_part(target)
    try:
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def _new_part(target: Path) -> tuple[Path, int | None]:
    while True:
        part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
        try:
            part.mkdir()
        except FileNotFoundError as error:  # /proc and its like
            raise ManyoneError(f"{target}: nothing can be written in {target.parent}: choose another folder") from error
        with contextlib.suppress(BlockingIOError, FileNotFoundError):  # another writer took it for remains
            lock = _lock(part)
            if lock is None or part.exists():
                return part, lock
            os.close(lock)


def _clear_remains(target: Path) -> None:
    for part in target.parent.glob(f".{glob.escape(target.name)}.*.part"):
        hidden = re.fullmatch(r"[0-9a-f]{8}", part.name[len(target.name) + 2 : -len(".part")])
        if hidden and part.is_dir() and not part.is_symlink():
            with contextlib.suppress(BlockingIOError, FileNotFoundError):  # a living process is at work, or at clearing
                lock = _lock(part)
                if lock is not None:
                    shutil.rmtree(part, ignore_errors=True)
                    os.close(lock)


def _lock(folder: Path) -> int | None:
    """Locks ``folder`` for this process until the handle is closed; None where the system cannot lock folders.

    ``BlockingIOError`` while another process holds it.
    """
    if fcntl is None:
        return None
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        if isinstance(error, BlockingIOError):
            raise
        return None
    return handle


def write_atomic(path: Path, data: bytes) -> None:
    """Replaces ``path`` by ``data``: after a crash at any moment the file is the old one or the new one, whole."""
    with writing(path), part_beside(path) as part:
        with (part / path.name).open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        (part / path.name).replace(path)
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
