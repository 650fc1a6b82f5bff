"""The safetensors format, read through a memory map and written in one sequential pass.

A file is: 8 bytes little-endian header length, a JSON header {name: {dtype, shape, data_offsets}}, the raw data.
Reading costs no anonymous memory; a writer needs the names and shapes first and takes the values in pieces.
Public names: ``read_header``, ``map_file``, ``SafetensorsWriter``, ``parse_size``.
"""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from manyone.engine.documents import loads_json
from manyone.errors import ManyoneError
from manyone.weights.tensor_info import DTYPES, TensorInfo

_LONGEST_HEADER = 100 << 20  # bytes; the reference implementation has the same limit


class Stored(NamedTuple):
    """One entry of a header: what the tensor is and the byte range of the file that holds it."""

    info: TensorInfo
    start: int
    stop: int


def read_header(path: Path) -> tuple[dict[str, Stored], dict[str, str]]:
    """Entries and metadata of a safetensors file; every damage that the header can show is a one-line error."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            start = file.read(8)
            length = int.from_bytes(start, "little")
            if len(start) < 8:
                raise ManyoneError(f"{path}: truncated safetensors file ({size} bytes, no room for a header)")
            if not 2 <= length <= min(size - 8, _LONGEST_HEADER):
                raise ManyoneError(
                    f"{path}: not a safetensors file or truncated (header of {length} bytes in a file of {size})"
                )
            text = file.read(length)
    except OSError as error:
        raise ManyoneError(f"{path}: cannot be read ({error.strerror})") from error
    try:
        header = loads_json(text)
        metadata = header.pop("__metadata__", None) or {}
        entries = {name: _entry(value, 8 + length) for name, value in header.items()}
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ManyoneError(f"{path}: damaged safetensors header ({error})") from error
    position = 8 + length
    for name, stored in sorted(entries.items(), key=lambda item: (item[1].start, item[1].stop)):
        if stored.start != position or stored.stop - stored.start != stored.info.nbytes:
            raise ManyoneError(
                f"{path}: damaged safetensors header (the byte range of {name!r} does not fit its shape)"
            )
        position = stored.stop
    if position != size:
        word = "truncated" if position > size else "too long"
        raise ManyoneError(f"{path}: {word} safetensors file (its header promises {position} bytes, it has {size})")
    return entries, metadata


def _entry(value: dict[str, Any], offset: int) -> Stored:
    if value["dtype"] not in DTYPES:
        raise ValueError(f"unknown dtype {value['dtype']!r}")
    shape = tuple(int(n) for n in value["shape"])
    if any(n < 0 for n in shape):
        raise ValueError(f"negative size in shape {shape}")
    start, stop = value["data_offsets"]
    return Stored(TensorInfo(DTYPES[value["dtype"]], shape), offset + int(start), offset + int(stop))


def map_file(path: Path) -> np.ndarray:
    """The file's bytes as a read-only array on a memory map."""
    with path.open("rb") as file:
        return np.frombuffer(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ), dtype=np.uint8)


def parse_size(text: str | int | None) -> int | None:
    """Bytes of ``"5GB"``, ``"500MB"``, ``"2GiB"`` or a plain number; ``None`` means no limit."""
    if text is None or isinstance(text, int):
        return text
    found = re.fullmatch(r"\s*([0-9.]+)\s*([kKMGT]?)(i?)B?\s*", text)
    try:
        if found is None:
            raise ValueError
        unit = (1024 if found[3] else 1000) ** " kMGT".index(found[2].replace("K", "k") or " ")
        size = int(float(found[1]) * unit)
        if size < 1:
            raise ValueError
    except ValueError:
        raise ManyoneError(f"size {text!r} is not understood: write for example 5GB or 500MB") from None
    return size


class SafetensorsWriter:
    """Writes named tensors into ``folder`` in pieces; nothing has its final name before :meth:`commit`.

    The file is ``STEM.safetensors``; with ``max_shard_size`` (bytes) below the total, Hugging Face shards and
    ``STEM.safetensors.index.json`` result.
    ``write`` may be called by several threads; pieces that follow each other make the write sequential.
    """

    def __init__(
        self,
        folder: Path,
        tensors: Mapping[str, TensorInfo],
        *,
        max_shard_size: int | None = None,
        metadata: Mapping[str, str] | None = None,
        stem: str = "model",
    ) -> None:
        self.folder = folder
        self._files: dict[Path, tuple[int, Path]] = {}  # final path -> (descriptor, temporary path)
        self._places: dict[str, tuple[int, int, TensorInfo]] = {}
        self._index: tuple[Path, dict[str, Any]] | None = None
        shards = _shards(tensors, max_shard_size)
        total = sum(info.nbytes for info in tensors.values())
        with self._named():
            folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
        if total > free:
            raise ManyoneError(
                f"{folder}: the model needs {total / 1e9:.2f} GB on disk and only {free / 1e9:.2f} are free"
            )
        names = [f"{stem}.safetensors"] if len(shards) == 1 else _shard_names(stem, len(shards))
        try:
            for name, members in zip(names, shards, strict=True):
                self._open(folder / name, {m: tensors[m] for m in members}, metadata or {})
        except BaseException:
            self.abort()
            raise
        if len(shards) > 1:
            weight_map = {m: name for name, members in zip(names, shards, strict=True) for m in members}
            index = {"metadata": {"total_size": total, **(metadata or {})}, "weight_map": weight_map}
            self._index = (folder / f"{stem}.safetensors.index.json", index)

    def _open(self, path: Path, tensors: Mapping[str, TensorInfo], metadata: Mapping[str, str]) -> None:
        header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        position = 0
        for name, info in tensors.items():
            offsets = [position, position + info.nbytes]
            header[name] = {"dtype": info.dtype.code, "shape": list(info.shape), "data_offsets": offsets}
            position += info.nbytes
        text = json.dumps(header, separators=(",", ":")).encode()
        text += b" " * (-len(text) % 64)  # data that starts on a cache line can be mapped and used in place
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        with self._named():
            descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o666)
            self._files[path] = (descriptor, temporary)
            start = len(text) + 8
            os.ftruncate(descriptor, start + position)
            _write_all(descriptor, memoryview(len(text).to_bytes(8, "little") + text), 0)
        for name, info in tensors.items():
            self._places[name] = (descriptor, start + header[name]["data_offsets"][0], info)

    def write(self, name: str, start: int, values: np.ndarray) -> None:
        """Puts flat ``values``, in the stored form of the tensor's dtype, at element ``start`` of tensor ``name``."""
        descriptor, offset, info = self._places[name]
        if values.dtype != info.dtype.stored or start + values.size > info.numel:
            raise ValueError(f"{name}: piece of {values.size} {values.dtype} at {start} does not fit {info}")
        if not values.size:
            return
        data = memoryview(np.ascontiguousarray(values).view(np.uint8).data)
        with self._named():
            _write_all(descriptor, data, offset + start * info.dtype.itemsize)

    def commit(self) -> list[Path]:
        """Makes the files durable and gives them their names (the index last); returns the paths."""
        try:
            with self._named():
                for descriptor, _ in self._files.values():
                    os.fsync(descriptor)
                for path, (_, temporary) in self._files.items():
                    temporary.rename(path)
                if self._index is not None:
                    path, index = self._index
                    part = path.with_name(f".{path.name}.{os.getpid()}.tmp")
                    part.write_text(json.dumps(index, indent=1))
                    part.rename(path)
                _sync_folder(self.folder)
        finally:
            paths = list(self._files)
            self.abort()
        return paths + ([self._index[0]] if self._index else [])

    def abort(self) -> None:
        """Closes and removes everything that is not committed."""
        for descriptor, temporary in self._files.values():
            with contextlib.suppress(OSError):
                os.close(descriptor)
            temporary.unlink(missing_ok=True)
        self._files = {}

    @contextlib.contextmanager
    def _named(self) -> Any:
        try:
            yield
        except OSError as error:
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            problem = "the disk is full" if full else f"cannot be written ({error.strerror})"
            raise ManyoneError(f"{self.folder}: {problem}") from error


def _write_all(descriptor: int, data: memoryview, offset: int) -> None:
    while data:
        written = os.pwrite(descriptor, data, offset)
        data, offset = data[written:], offset + written


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _shards(tensors: Mapping[str, TensorInfo], limit: int | None) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, info in tensors.items():
        if limit is not None and shards[-1] and size + info.nbytes > limit:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += info.nbytes
    return shards


def _shard_names(stem: str, count: int) -> Sequence[str]:
    return [f"{stem}-{i + 1:05d}-of-{count:05d}.safetensors" for i in range(count)]
