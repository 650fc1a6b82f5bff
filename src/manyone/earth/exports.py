"""Embeddings in and out: plain npy, and GeoParquet 1.1 (points as WKB, written with pyarrow alone).

A GeoParquet file is a Parquet file whose metadata has a key "geo" (geoparquet.org, release 1.1.0): here one column
"geometry" of little-endian WKB points in longitude and latitude (no "crs": OGC:CRS84), a column "id" and a column
"embedding", a fixed-size list of floats.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from manyone.earth.store import Embeddings
from manyone.engine.arrays import load_npy
from manyone.engine.files import part_beside, write_atomic, writing
from manyone.errors import ManyoneError

_POINT = np.dtype([("order", "u1"), ("kind", "<u4"), ("x", "<f8"), ("y", "<f8")])  # WKB, 21 bytes
_MOST_BYTES = 64 << 30  # of an imported file's columns, decoded
_LONGEST_NAME = 4096


def export_npy(path: str | os.PathLike[str], embeddings: Embeddings, name: str) -> None:
    """One array [N, ...] as ``path``, and the ids, one a line, beside it as ``path`` with the ending .ids.txt."""
    path, array = Path(path), embeddings.array(name)
    lines = embeddings.ids
    broken = next((one for one in lines if "\n" in one), None)
    if broken is not None:
        raise ManyoneError(f"ids: {broken!r} has a line break; export to GeoParquet instead")
    with writing(path), part_beside(path) as part:
        with (part / path.name).open("wb") as file:
            np.save(file, array, allow_pickle=False)
        (part / path.name).replace(path)
        write_atomic(path.with_suffix(".ids.txt"), "".join(f"{one}\n" for one in lines).encode())


def import_npy(path: str | os.PathLike[str]) -> tuple[np.ndarray, list[str]]:
    """(array, memory-mapped; ids: those beside it, or the numbers of the rows)."""
    path = Path(path)
    try:
        array = load_npy(path, "r")
    except ValueError as problem:
        raise ManyoneError(f"{path}: no npy file of numbers ({problem})") from None
    if array.ndim not in (2, 4) or array.dtype.kind != "f":
        raise ManyoneError(f"{path}: give one float array [N, D] or [N, h, w, D]")
    beside = path.with_suffix(".ids.txt")
    ids = beside.read_text(encoding="utf-8").split("\n")[:-1] if beside.exists() else list(map(str, range(len(array))))
    if len(ids) != len(array):
        raise ManyoneError(f"{beside}: {len(ids)} ids for {len(array)} rows; give one for each")
    return array, ids


def export_geoparquet(
    path: str | os.PathLike[str], embeddings: Embeddings, name: str, lonlat: np.ndarray | None = None
) -> None:
    """The vectors ``name`` [N, D] with a point each; ``lonlat`` [N, 2] in degrees, default the columns lon and lat."""
    array, table = embeddings.array(name), embeddings.table
    if array.ndim != 2:
        raise ManyoneError(f"name: {name!r} is a grid; GeoParquet takes one vector a sample")
    if lonlat is None:
        if not {"lon", "lat"} <= set(table.column_names):
            raise ManyoneError(f"lonlat: {embeddings.folder} has no columns lon and lat; give the places [N, 2]")
        lonlat = np.column_stack([table.column("lon").to_numpy(), table.column("lat").to_numpy()])
    lonlat = np.asarray(lonlat, dtype=np.float64)
    if lonlat.shape != (len(array), 2) or not np.isfinite(lonlat).all():
        raise ManyoneError(
            f"lonlat: shape {lonlat.shape}, all finite? give longitude and latitude of {len(array)} samples"
        )
    points = np.empty(len(array), dtype=_POINT)
    points["order"], points["kind"], points["x"], points["y"] = 1, 1, lonlat[:, 0], lonlat[:, 1]
    offsets = pa.py_buffer(np.arange(0, 21 * len(array) + 1, 21, dtype=np.int32))
    geometry = pa.Array.from_buffers(pa.binary(), len(array), [None, offsets, pa.py_buffer(points.tobytes())])
    # as float32: readers that know no half floats are many
    vectors = pa.FixedSizeListArray.from_arrays(pa.array(np.asarray(array, dtype=np.float32).ravel()), array.shape[1])
    columns = {c: table.column(c) for c in table.column_names if c not in ("embedding", "geometry")}
    low, high = lonlat.min(0), lonlat.max(0)
    about = {"encoding": "WKB", "geometry_types": ["Point"], "bbox": [*low.tolist(), *high.tolist()]}
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": about}}
    whole = pa.table({**columns, "embedding": vectors, "geometry": geometry})
    path = Path(path)
    with writing(path), part_beside(path) as part:
        pq.write_table(whole.replace_schema_metadata({"geo": json.dumps(geo)}), part / path.name)
        (part / path.name).replace(path)


def import_geoparquet(
    path: str | os.PathLike[str], column: str = "embedding"
) -> tuple[np.ndarray, list[str], np.ndarray]:
    """(vectors float32 [N, D], ids, lonlat [N, 2]) of a GeoParquet file of points in longitude and latitude.

    ``column``: a list of numbers of one length a row. Without a column "id" the rows are numbered.
    """
    path = Path(path)
    try:
        file = pq.ParquetFile(path)
        geo = json.loads((file.schema_arrow.metadata or {}).get(b"geo", b"null"))
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.metadata.num_row_groups))
    except (OSError, ValueError, pa.ArrowException) as problem:
        raise ManyoneError(f"{path}: no Parquet file ({str(problem).splitlines()[0]})") from None
    names = file.schema_arrow.names
    try:
        primary = geo["primary_column"]
        about = geo["columns"][primary]
        encoding, crs = about["encoding"], about.get("crs", {"id": {"authority": "OGC", "code": "CRS84"}})
        reference = (crs or {}).get("id", {})
    except (KeyError, TypeError, AttributeError):
        raise ManyoneError(f"{path}: no GeoParquet metadata; write it with the key 'geo' (geoparquet.org)") from None
    known = (("OGC", "CRS84"), ("EPSG", "4326"))
    if encoding != "WKB" or (reference.get("authority"), str(reference.get("code"))) not in known:
        raise ManyoneError(
            f"{path}: encoding {encoding!r}, {reference}; give WKB points in longitude and latitude (CRS84)"
        )
    if primary not in names or column not in names:
        raise ManyoneError(f"{path}: has columns {', '.join(names)[:_LONGEST_NAME]}; needs {primary!r} and {column!r}")
    if size > _MOST_BYTES:
        raise ManyoneError(f"{path}: {size / 2**30:.0f} GiB when decoded; split it into files below 64 GiB")
    try:
        table = file.read(columns=[c for c in dict.fromkeys(("id", column, primary)) if c in names]).combine_chunks()
    except (OSError, pa.ArrowException) as problem:
        raise ManyoneError(f"{path}: damaged ({str(problem).splitlines()[0]}); write it again") from None
    ids = list(map(str, table.column("id").to_pylist())) if "id" in names else list(map(str, range(len(table))))
    return _vectors(path, table.column(column), column), ids, _points(path, table.column(primary))


def _vectors(path: Path, column: pa.ChunkedArray, name: str) -> np.ndarray:
    kind = column.type
    if not (pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) or pa.types.is_large_list(kind)):
        raise ManyoneError(f"{path}: column {name!r} is {kind}; give a list of numbers a row")
    if not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise ManyoneError(f"{path}: column {name!r} holds {kind.value_type}; give numbers")
    flat = np.concatenate([c.flatten().to_numpy(zero_copy_only=False) for c in column.chunks] or [np.empty(0)])
    lengths = {n for c in column.chunks for n in c.value_lengths().unique().to_pylist()}
    if len(lengths) != 1 or None in lengths or column.null_count:
        raise ManyoneError(
            f"{path}: column {name!r} has rows of {sorted(map(str, lengths))[:3]} numbers; give one length"
        )
    return flat.astype(np.float32).reshape(len(column), lengths.pop())


def _points(path: Path, column: pa.ChunkedArray) -> np.ndarray:
    values = column.to_pylist()
    bad = next((i for i, v in enumerate(values) if not isinstance(v, bytes) or len(v) != 21 or v[0] > 1), None)
    if bad is None:
        points = np.frombuffer(b"".join(values), dtype=_POINT)
        swapped = points.view(np.dtype([(n, points.dtype[n].newbyteorder(">")) for n in points.dtype.names or ()]))
        little = points["order"] == 1
        kind = np.where(little, points["kind"], swapped["kind"])
        if (kind == 1).all():
            return np.column_stack([np.where(little, points[axis], swapped[axis]) for axis in "xy"])
        bad = int((kind != 1).argmax())
    raise ManyoneError(f"{path}: the geometry of row {bad} is no WKB point; give points")
