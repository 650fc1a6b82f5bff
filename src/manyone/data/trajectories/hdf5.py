"""HDF5 files, opened so that they can show nothing but themselves.

An HDF5 file may name other files: a data set may keep its bytes in an external file, be a virtual view of data sets
elsewhere, or be a link into another file. HDF5 follows all three without asking, so a downloaded file could have any
file that its reader may read laid out as data. A file of a few bytes may also say that it holds terabytes, which HDF5
makes up of fill values. Every HDF5 file of the project is opened here or, where a library opens it, checked here first;
links within the file are as good as any.

Public name: ``open_hdf5``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from manyone.engine.extras import need
from manyone.errors import ManyoneError

DAMAGED = (OSError, RuntimeError, EOFError, ValueError, KeyError, TypeError, SystemError)
"""What h5py raises while it reads a damaged file (SystemError: an error of HDF5 that its lock loses on the way out)."""
_SMALL = 64 << 20  # bytes that may be made up
_DEFLATED = 1100  # deflate packs at most 1032 bytes into one


@contextlib.contextmanager
def open_hdf5(path: Path | str) -> Iterator[Any]:
    """The ``h5py.File`` at ``path``, to read from; :class:`ManyoneError` if it is damaged or names another file."""
    h5py = need("h5py", "this data", "policies")
    try:
        file = h5py.File(path, "r")
    except DAMAGED as problem:
        raise ManyoneError(f"{path}: not a readable HDF5 file ({problem}); fetch it again") from None
    with file:
        try:
            refused = _refused(h5py, file, Path(path).stat().st_size)
        except DAMAGED as problem:
            raise ManyoneError(f"{path}: damaged HDF5 file ({problem}); fetch it again") from None
        if refused:
            raise ManyoneError(f"{path}: {refused}")
        yield file


def _refused(h5py: Any, file: Any, size: int) -> str | None:
    """The first thing in ``file``, of ``size`` bytes, that lies elsewhere or nowhere, in words."""
    inside = "only data inside the file are read: copy them into it"

    def look(name: bytes, link: Any) -> str | None:
        shown = name.decode("utf-8", "replace")
        if link.type == h5py.h5l.TYPE_SOFT:  # its target, being in this file, is looked at by its own name
            return None
        if link.type != h5py.h5l.TYPE_HARD:  # external links, and kinds that applications define
            return f"{shown} is a link into another file; {inside}"
        if h5py.h5o.get_info(file.id, name).type != h5py.h5o.TYPE_DATASET:
            return None
        dataset = h5py.h5d.open(file.id, name)
        layout = dataset.get_create_plist()
        virtual = layout.get_layout() == h5py.h5d.VIRTUAL
        if layout.get_external_count():
            return f"{shown} keeps its data in another file; {inside}"
        if virtual:
            others = {layout.get_virtual_filename(i) for i in range(layout.get_virtual_count())} - {"."}  # .: itself
            if others:
                return f"{shown} is a view of another file ({', '.join(sorted(others))}); {inside}"
        needs = dataset.get_space().get_simple_extent_npoints() * dataset.get_type().get_size()
        if needs > _SMALL and needs > _DEFLATED * (size if virtual else dataset.get_storage_size()):
            return f"{shown} has {needs / 1e9:.3g} GB of which the file holds next to nothing; fetch or make it again"
        return None

    found: str | None = file.id.links.visit(look, info=True)
    return found
