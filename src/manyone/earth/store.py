"""The embedding store: one forward pass for each (model, input, data set); every probe after that reads arrays.

    <root>/<key>/meta.json                 what it holds, written last when whole ("complete": true)
                 ids.parquet               id, and columns such as label, lon, lat, time, block
                 global_<pool>.f16.npy     [N, D], memory-mapped
                 grid_L<k>.f16.npy         [N, h, w, D]
                 grid_L<k>.pca.npy         [1 + k, D], mean and components, where the grid is stored as k of them
                 progress.bin              one byte a batch while it is being made

key = SHA-256 of what decides the content (``KEY_FIELDS``). Arrays grow under temporary names and are renamed when they
are whole; a batch is marked as done after its rows are on the disk, so a process killed at any moment loses the batch
it was in. Batches keep the boundaries of the first attempt: the resumed arrays are those of one go, bit for bit.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from filelock import FileLock
from torch import Tensor

from manyone.engine.arrays import load_npy
from manyone.engine.documents import loads_json
from manyone.engine.files import sha256, sync_folder, write_atomic, writing
from manyone.errors import ManyoneError

KEY_FIELDS = ("model", "weights", "sensor_plan", "input_size", "dtype", "data", "versions")
"""Model id, digest of the weights, key of the sensor layer's plan, side in pixels, dtype of the forward pass,
fingerprint of the data set, versions of the libraries that hold the model's code."""
GRID_LIMIT = 8 << 30
"""Bytes of one entry's grids above which they are refused."""
_FORMAT = 1
_PCA_BATCHES = 4  # spread over the data: they are kept in memory until the components are known
_DTYPES = {"float16": ("f16", torch.float16), "float32": ("f32", torch.float32)}
Batches = Callable[[int, int], Mapping[str, Tensor]]


@dataclass(frozen=True)
class GridPlan:
    """What of a grid is stored: every ``step``-th token along rows and columns, as ``pca`` components of its width."""

    step: int = 1
    pca: int | None = None
    limit: int = GRID_LIMIT
    """Bytes of all grids together."""


def store_key(parts: Mapping[str, Any]) -> str:
    """SHA-256 of the canonical JSON of ``parts``, which must have all of ``KEY_FIELDS`` and may have more."""
    missing = [name for name in KEY_FIELDS if name not in parts]
    if missing:
        raise ManyoneError(f"key_parts: {', '.join(missing)} missing; without them different features get one key")
    try:
        text = json.dumps(dict(parts), sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as problem:
        raise ManyoneError(f"key_parts: {problem}; use strings, numbers, lists and mappings of these") from None
    return hashlib.sha256(text.encode()).hexdigest()


class Embeddings:
    """One entry of a store, complete: arrays on the disk, and how many forward passes this call has cost."""

    def __init__(self, folder: Path, forward_calls: int = 0) -> None:
        self.folder, self.forward_calls = folder, forward_calls
        self.meta = _read_meta(folder)
        if not self.meta["complete"]:
            raise ManyoneError(f"{folder}: not complete; call Store.embed with the same key to finish it")

    def __len__(self) -> int:
        return self.meta["n"]

    @property
    def names(self) -> tuple[str, ...]:
        """What :meth:`array` knows: global_<pool>, grid_L<k>."""
        return tuple(self.meta["arrays"])

    def array(self, name: str) -> np.ndarray:
        """[N, D] or [N, h, w, D], memory-mapped and read-only."""
        if name not in self.meta["arrays"]:
            raise ManyoneError(f"{self.folder}: has no array {name!r}; there are {', '.join(self.names)}")
        path = _array_path(self.folder, name, self.meta["dtype"])
        return _open_array(path, tuple(self.meta["arrays"][name]["shape"]), self.meta["dtype"])

    def components(self, name: str) -> np.ndarray:
        """[1 + k, D]: mean and components of a grid stored with ``GridPlan(pca=k)``."""
        path = self.folder / f"{name}.pca.npy"
        if not path.exists():
            raise ManyoneError(f"{self.folder}: {name!r} was stored as it is, without components")
        return _load_small(path)

    @property
    def table(self) -> pa.Table:
        """The samples: id and whatever came with it."""
        return _read_table(self.folder / "ids.parquet", self.meta["n"])

    @property
    def ids(self) -> list[str]:
        """In the order of the rows."""
        return self.table.column("id").to_pylist()

    def verify(self) -> None:
        """Reads every array and raises where its SHA-256 is not that of when it was made."""
        for name, about in self.meta["arrays"].items():
            path = _array_path(self.folder, name, self.meta["dtype"])
            if not path.exists() or sha256(path) != about["sha256"]:
                raise _damaged(path, "missing, or its SHA-256 differs")


class Store:
    """Entries below a folder."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root)
        with writing(self.root):
            self.root.mkdir(parents=True, exist_ok=True)

    def embed(
        self,
        key_parts: Mapping[str, Any],
        ids: Sequence[str] | Mapping[str, Any],
        batches: Batches,
        *,
        batch_size: int = 64,
        dtype: str = "float16",
        grids: GridPlan | None = None,
        progress: Callable[[int], None] | None = None,
    ) -> Embeddings:
        """The entry of ``key_parts``; made, or finished, where it is not whole.

        ``batches(start, stop)`` gives name -> tensor of the rows start..stop: ``global_<pool>`` [b, D],
        ``grid_L<k>`` [b, D, h, w] (as encoders give maps; stored [h, w, D]). It is called once for each
        batch that is not there yet.
        ``ids``: one a row, or columns with one called "id". ``progress`` is told how many rows are done. Of several
        processes one works and the others wait.
        """
        plan = grids or GridPlan()
        columns = dict(ids) if isinstance(ids, Mapping) else {"id": list(ids)}
        table = _make_table(columns)
        if dtype not in _DTYPES or batch_size < 1 or not len(table):
            given = f"dtype {dtype!r}, batch_size {batch_size}, {len(table)} ids"
            raise ManyoneError(f"embed: {given}; dtype must be float16 or float32, the others at least 1")
        key = store_key({**key_parts, "stored": [dtype, plan.step, plan.pca]})
        folder = self.root / key
        with FileLock(self.root / f"{key}.lock"), writing(folder):
            folder.mkdir(exist_ok=True)
            _check_ids(folder, table)
            calls = 0
            if not _is_complete(folder):
                calls = _Filling(folder, dict(key_parts), table, batches, batch_size, dtype, plan).run(progress)
            return Embeddings(folder, calls)

    def put(
        self,
        key_parts: Mapping[str, Any],
        ids: Sequence[str] | Mapping[str, Any],
        arrays: Mapping[str, np.ndarray],
        **options: Any,
    ) -> Embeddings:
        """An entry of arrays that exist already: global_<pool> [N, D], grid_L<k> [N, D, h, w]."""
        count = len(dict(ids)["id"] if isinstance(ids, Mapping) else ids)
        for name, array in arrays.items():
            if len(array) != count:
                raise ManyoneError(f"arrays[{name!r}]: {len(array)} rows for {count} ids; give one for each")

        def batches(start: int, stop: int) -> dict[str, Tensor]:
            return {k: torch.from_numpy(np.array(v[start:stop], dtype=np.float32)) for k, v in arrays.items()}

        return self.embed(key_parts, ids, batches, **{"batch_size": 4096} | options)

    def entries(self) -> list[Embeddings]:
        """All that are complete."""
        folders = sorted(p.parent for p in self.root.glob("*/meta.json"))
        return [Embeddings(folder) for folder in folders if _is_complete(folder)]


def concatenate(parts: Sequence[Embeddings], names: Sequence[str]) -> np.ndarray:
    """float16 [N, D_1 + D_2 + ...]: one array of each entry side by side, rows matched by id (order of the first)."""
    if len(parts) != len(names) or not parts:
        raise ManyoneError(f"names: {len(names)} for {len(parts)} entries; name one array of each")
    ids, columns = parts[0].ids, []
    for part, name in zip(parts, names):
        array, own = part.array(name), part.ids
        if array.ndim != 2:
            raise ManyoneError(f"names: {name!r} is a grid; only vectors [N, D] are put side by side")
        if own != ids:
            place = {one: i for i, one in enumerate(own)}
            missing = next((one for one in ids if one not in place), None)
            if missing is not None:
                raise ManyoneError(f"{part.folder}: has no sample {missing!r} of the first; embed the same samples")
            array = array[[place[one] for one in ids]]
        columns.append(array)
    return np.concatenate(columns, axis=1)


class _Filling:
    """Making one entry: shapes from the first batch, rows as they come, names when it is whole. The lock is held."""

    def __init__(
        self,
        folder: Path,
        parts: dict[str, Any],
        table: pa.Table,
        batches: Batches,
        batch_size: int,
        dtype: str,
        plan: GridPlan,
    ) -> None:
        self.folder, self.parts, self.table, self.batches, self.plan = folder, parts, table, batches, plan
        self.n, self.dtype, self.calls = len(table), dtype, 0
        self.meta: dict[str, Any] = {}
        if (folder / "meta.json").exists():
            self.meta = _read_meta(folder)
        self.size = self.meta["batch_size"] if self.meta else min(batch_size, self.n)
        self.count = math.ceil(self.n / self.size)
        self.components: dict[str, np.ndarray] = {}

    def run(self, progress: Callable[[int], None] | None) -> int:
        done = self._begin() if not self.meta else self._resume()
        with (self.folder / "progress.bin").open("rb+") as marks:
            self._tell(progress, done)
            for batch in np.flatnonzero(done == 0).tolist():
                self._write(batch, self._forward(batch), marks)
                done[batch] = 1
                self._tell(progress, done)
        self._finish()
        return self.calls

    def _tell(self, progress: Callable[[int], None] | None, done: np.ndarray) -> None:
        if progress:
            progress(int(sum(min(self.size, self.n - i * self.size) for i in np.flatnonzero(done))))

    def _forward(self, batch: int) -> dict[str, np.ndarray]:
        """Float arrays of one batch, grids as [b, h, w, D] and thinned out."""
        start, stop = batch * self.size, min((batch + 1) * self.size, self.n)
        self.calls += 1
        found = {}
        for name, tensor in self.batches(start, stop).items():
            if not (
                (name.startswith("global_") and tensor.ndim == 2) or (name.startswith("grid_") and tensor.ndim == 4)
            ):
                shape = tuple(tensor.shape)
                raise ManyoneError(
                    f"batches: {name!r} of shape {shape} is neither global_<pool> [b, D] nor grid_L<k> [b, D, h, w]"
                )
            if not name.replace("_", "").isalnum() or len(tensor) != stop - start:
                raise ManyoneError(
                    f"batches: {name!r} has {len(tensor)} rows for samples {start} to {stop - 1}; give one for each, "
                    "under a name of letters, digits and _"
                )
            tensor = tensor.detach().to("cpu", torch.float32)
            if tensor.ndim == 4:
                tensor = tensor.permute(0, 2, 3, 1)[:, :: self.plan.step, :: self.plan.step]
            found[name] = tensor.contiguous().numpy()
        return found

    def _begin(self) -> np.ndarray:
        """Runs the first batch (with PCA: a few, spread out), makes the files and says what they will be."""
        first = np.unique(np.linspace(0, self.count - 1, _PCA_BATCHES if self.plan.pca else 1).astype(int)).tolist()
        results = {batch: self._forward(batch) for batch in first}
        shapes = {name: [self.n, *array.shape[1:]] for name, array in results[first[0]].items()}
        for name, shape in shapes.items():
            if self.plan.pca and name.startswith("grid_"):
                tokens = np.concatenate([r[name].reshape(-1, shape[-1]) for r in results.values()])
                self.components[name] = _principal(tokens, self.plan.pca, name)
                shape[-1] = self.plan.pca
        itemsize = np.dtype(self.dtype).itemsize
        size = sum(math.prod(s) for name, s in shapes.items() if name.startswith("grid_")) * itemsize
        if size > self.plan.limit:
            raise ManyoneError(
                f"grids: {size / 2**30:.1f} GiB for {self.n} samples, above {self.plan.limit / 2**30:.1f} GiB; store "
                "components (GridPlan(pca=64)), every second token (GridPlan(step=2)), fewer layers, or raise limit"
            )
        for name, shape in shapes.items():
            with _part_path(self.folder, name, self.dtype).open("wb") as file:
                descr = np.lib.format.dtype_to_descr(np.dtype(self.dtype))
                header = {"descr": descr, "fortran_order": False, "shape": tuple(shape)}
                np.lib.format.write_array_header_1_0(file, header)
                file.truncate(file.tell() + math.prod(shape) * itemsize)
        for name, array in self.components.items():
            with (self.folder / f"{name}.pca.npy").open("wb") as file:
                np.save(file, array, allow_pickle=False)
        write_atomic(self.folder / "progress.bin", bytes(self.count))
        self.meta = {
            "format": _FORMAT,
            "key_parts": self.parts,
            "n": self.n,
            "batch_size": self.size,
            "dtype": self.dtype,
            "arrays": {name: {"shape": shape} for name, shape in shapes.items()},
            "complete": False,
        }
        write_atomic(self.folder / "meta.json", json.dumps(self.meta, indent=1).encode())
        done = np.zeros(self.count, dtype=np.uint8)
        with (self.folder / "progress.bin").open("rb+") as marks:
            for batch, result in results.items():
                self._write(batch, result, marks)
                done[batch] = 1
        return done

    def _resume(self) -> np.ndarray:
        marks = self.folder / "progress.bin"
        done = np.frombuffer(marks.read_bytes() if marks.exists() else b"", dtype=np.uint8).copy()
        if len(done) != self.count or done.max() > 1 or self.meta["n"] != self.n:
            raise _damaged(marks, f"{len(done)} of {self.count} batches")
        for name, about in self.meta["arrays"].items():
            final = _array_path(self.folder, name, self.dtype)
            part = _part_path(self.folder, name, self.dtype)
            if final.exists() and not part.exists():  # killed between two renames
                final.replace(part)
            _open_array(part, tuple(about["shape"]), self.dtype)
            if self.plan.pca and name.startswith("grid_"):
                self.components[name] = _load_small(self.folder / f"{name}.pca.npy")
        return done

    def _write(self, batch: int, result: Mapping[str, np.ndarray], marks: Any) -> None:
        """Rows, then their mark: each on the disk before the next step."""
        start = batch * self.size
        if set(result) != set(self.meta["arrays"]):
            before = ", ".join(self.meta["arrays"])
            raise ManyoneError(f"batches: gave {', '.join(result)}, before that {before}; always give the same")
        for name, array in result.items():
            if name in self.components:
                mean, axes = self.components[name][0], self.components[name][1:]
                array = (array - mean) @ axes.T
            shape = tuple(self.meta["arrays"][name]["shape"])
            if array.shape[1:] != shape[1:]:
                raise ManyoneError(f"batches: {name!r} is {array.shape[1:]}, before that {shape[1:]}; give the same")
            with np.errstate(over="ignore"):
                stored = array.astype(self.dtype)
            bad = ~np.isfinite(stored).reshape(len(stored), -1).all(1)
            if bad.any():
                row = int(bad.argmax())
                finite = np.isfinite(array[row]).all()
                why = "exceeds float16; use dtype='float32'" if finite else "is NaN or infinite; mend the encoder"
                raise ManyoneError(f"batches: {name!r} of sample {start + row} {why}")
            with _part_path(self.folder, name, self.dtype).open("rb+") as file:
                file.seek(-math.prod(shape[1:]) * (self.n - start) * stored.itemsize, os.SEEK_END)
                file.write(stored.tobytes())
                file.flush()
                os.fsync(file.fileno())
        marks.seek(batch)
        marks.write(b"\x01")
        marks.flush()
        os.fsync(marks.fileno())

    def _finish(self) -> None:
        for name, about in self.meta["arrays"].items():
            part = _part_path(self.folder, name, self.dtype)
            about["sha256"] = sha256(part)
            part.replace(_array_path(self.folder, name, self.dtype))
        sync_folder(self.folder)
        write_atomic(self.folder / "meta.json", json.dumps({**self.meta, "complete": True}, indent=1).encode())


def _principal(tokens: np.ndarray, k: int, name: str) -> np.ndarray:
    """float32 [1 + k, D]: the mean of the tokens and their first k principal directions, signs fixed."""
    if not 1 <= k <= min(tokens.shape):
        raise ManyoneError(
            f"grids: pca={k} of {name!r} with width {tokens.shape[1]}, {len(tokens)} tokens; choose fewer"
        )
    x = tokens.astype(np.float64)
    mean = x.mean(0)
    x -= mean
    _, axes = np.linalg.eigh(x.T @ x)
    axes = axes[:, ::-1][:, :k].T
    axes *= np.sign(axes[np.arange(k), np.abs(axes).argmax(1)])[:, None]
    return np.concatenate([mean[None], axes]).astype(np.float32)


def _damaged(path: Path, why: object) -> ManyoneError:
    return ManyoneError(f"{path}: damaged ({str(why).splitlines()[0]}); delete {path.parent} and embed again")


def _array_path(folder: Path, name: str, dtype: str) -> Path:
    return folder / f"{name}.{_DTYPES[dtype][0]}.npy"


def _part_path(folder: Path, name: str, dtype: str) -> Path:
    return folder / f".{name}.{_DTYPES[dtype][0]}.part"


def _read_meta(folder: Path) -> dict[str, Any]:
    path = folder / "meta.json"
    try:
        meta = loads_json(path.read_bytes())
        if meta["format"] != _FORMAT:
            raise ManyoneError(f"{path}: format {meta['format']}, this version reads {_FORMAT}; embed again elsewhere")
        whole = all(isinstance(meta[k], int) and meta[k] > 0 for k in ("n", "batch_size")) and meta["dtype"] in _DTYPES
        shapes = [a["shape"] for a in meta["arrays"].values()]
        whole &= all(s and all(isinstance(d, int) and d > 0 for d in s) and s[0] == meta["n"] for s in shapes)
        whole &= all(isinstance(a.get("sha256"), str) or not meta["complete"] for a in meta["arrays"].values())
        whole &= isinstance(meta["complete"], bool) and all(name.replace("_", "").isalnum() for name in meta["arrays"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise _damaged(path, "not what was written")
    return meta


def _is_complete(folder: Path) -> bool:
    return (folder / "meta.json").exists() and _read_meta(folder)["complete"]


def _open_array(path: Path, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Memory-mapped and read-only; refuses what is not an array of just this shape and type."""
    try:
        array = load_npy(path, "r")
    except ValueError as problem:
        raise _damaged(path, problem) from None
    if array.shape != shape or array.dtype != np.dtype(dtype):
        raise _damaged(path, f"{array.dtype} {array.shape}, should be {dtype} {shape}")
    return array


def _load_small(path: Path) -> np.ndarray:
    try:
        return load_npy(path)
    except ValueError as problem:
        raise _damaged(path, problem) from None


def _make_table(columns: Mapping[str, Any]) -> pa.Table:
    if "id" not in columns:
        raise ManyoneError(f"ids: columns {', '.join(columns)}; one must be called id")
    try:
        table = pa.table({**columns, "id": pa.array([str(one) for one in columns["id"]])})
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as problem:
        raise ManyoneError(f"ids: {str(problem).splitlines()[0]}; give columns of one length and type") from None
    if len(set(table.column("id").to_pylist())) != len(table):
        raise ManyoneError("ids: some stand there twice; give each sample its own")
    return table


def _read_table(path: Path, n: int) -> pa.Table:
    try:
        file = pq.ParquetFile(path)
        if file.metadata.num_rows == n and "id" in file.schema_arrow.names:
            return file.read()
    except (OSError, pa.ArrowException) as problem:
        raise _damaged(path, problem) from None
    raise _damaged(path, f"not {n} rows with an id")


def _check_ids(folder: Path, table: pa.Table) -> None:
    """Writes the samples once; afterwards they must be the same, in the same order."""
    path = folder / "ids.parquet"
    if not path.exists():
        buffer = pa.BufferOutputStream()
        pq.write_table(table, buffer)
        write_atomic(path, buffer.getvalue().to_pybytes())
    elif _read_table(path, len(table)).column("id") != table.column("id"):
        raise ManyoneError(f"ids: not those of {folder}, which has the same key; put a digest of them into 'data'")
