"""Out and in again: npy, and GeoParquet as another reader (GDAL through pyogrio, where it has Parquet) sees it."""

import json
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from manyone.earth.exports import export_geoparquet, export_npy, import_geoparquet, import_npy
from manyone.earth.store import KEY_FIELDS, Store
from manyone.errors import ManyoneError


@pytest.fixture
def made(tmp_path):
    r = np.random.default_rng(0)
    columns = {"id": [f"s{i}" for i in range(9)], "label": range(9)}
    columns |= {"lon": np.linspace(-170, 170, 9), "lat": np.linspace(-80, 80, 9)}
    arrays = {"global_mean": r.normal(size=(9, 5)), "grid_L1": r.normal(size=(9, 5, 2, 2))}
    return Store(tmp_path / "store").put(dict.fromkeys(KEY_FIELDS, "x"), columns, arrays)


def test_npy(made, tmp_path):
    for name in made.names:
        export_npy(tmp_path / f"{name}.npy", made, name)
        array, ids = import_npy(tmp_path / f"{name}.npy")
        assert (array == made.array(name)).all()
        assert ids == made.ids
    np.save(tmp_path / "bare.npy", np.zeros((2, 3)))
    assert import_npy(tmp_path / "bare.npy")[1] == ["0", "1"]
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    for name in ("object.npy", "missing.npy"):
        with pytest.raises(ManyoneError, match=name):
            import_npy(tmp_path / name)
    (tmp_path / "bare.ids.txt").write_text("a\n")
    with pytest.raises(ManyoneError, match="1 ids for 2 rows"):
        import_npy(tmp_path / "bare.npy")


def test_geoparquet_by_the_specification(made, tmp_path):
    path = tmp_path / "e.parquet"
    export_geoparquet(path, made, "global_mean")
    table = pq.read_table(path)
    geo = json.loads(table.schema.metadata[b"geo"])
    assert geo["version"] == "1.1.0"
    assert geo["primary_column"] == "geometry"
    assert geo["columns"]["geometry"] == {"encoding": "WKB", "geometry_types": ["Point"], "bbox": [-170, -80, 170, 80]}
    assert table.schema.field("geometry").type == pa.binary()
    assert struct.unpack("<BIdd", table.column("geometry")[0].as_py()) == (1, 1, -170, -80)
    assert table.column("label").to_pylist() == list(range(9))
    vectors, ids, lonlat = import_geoparquet(path)
    assert (vectors == made.array("global_mean").astype(np.float32)).all()
    assert ids == made.ids
    assert lonlat == pytest.approx(np.column_stack([np.linspace(-170, 170, 9), np.linspace(-80, 80, 9)]))


def test_geoparquet_as_gdal_reads_it(made, tmp_path):
    pyogrio = pytest.importorskip("pyogrio")
    if "Parquet" not in pyogrio.list_drivers():
        pytest.skip("this GDAL has no Parquet driver")
    export_geoparquet(tmp_path / "e.parquet", made, "global_mean")
    meta, _, geometry, _ = pyogrio.raw.read(tmp_path / "e.parquet")
    assert meta["geometry_type"] == "Point"
    assert len(geometry) == 9


def rewritten(path, out, geo=None, **columns):
    table = pq.read_table(path)
    for name, values in columns.items():
        at = table.column_names.index(name)
        table = table.set_column(at, name, values)
    metadata = table.schema.metadata if geo is None else {b"geo": geo}
    pq.write_table(table.replace_schema_metadata(metadata), out)
    return out


def geo(encoding, **crs):
    return json.dumps({"primary_column": "geometry", "columns": {"geometry": {"encoding": encoding, **crs}}})


def test_what_others_write(made, tmp_path):
    path, out = tmp_path / "e.parquet", tmp_path / "o.parquet"
    export_geoparquet(path, made, "global_mean")
    big = pa.array([struct.pack(">BIdd", 0, 1, i, -i) for i in range(9)])
    plain = pa.array([[1.0, 2.0]] * 9)
    vectors, _, lonlat = import_geoparquet(rewritten(path, out, geometry=big, embedding=plain))
    assert lonlat[3].tolist() == [3, -3]
    assert vectors.shape == (9, 2)
    for change, words in [
        ({"geometry": pa.array([struct.pack("<BIdd", 1, 2, 0, 0)] * 9)}, "row 0 is no WKB point"),
        ({"geometry": pa.array([b"x"] * 9)}, "row 0 is no WKB point"),
        ({"embedding": pa.array([[1.0]] * 8 + [[1.0, 2.0]])}, "one length"),
        ({"embedding": pa.array(["a"] * 9)}, "list of numbers"),
        ({"geo": b"[]"}, "no GeoParquet metadata"),
        ({"geo": b"{"}, "no Parquet file"),
        ({"geo": geo("point")}, "give WKB"),
        ({"geo": geo("WKB", crs=None)}, "CRS84"),
    ]:  # fmt: skip
        with pytest.raises(ManyoneError, match=words):
            import_geoparquet(rewritten(path, out, **change))
    out.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ManyoneError, match="no Parquet file"):
        import_geoparquet(out)


def test_places_are_needed(made, tmp_path):
    with pytest.raises(ManyoneError, match="is a grid"):
        export_geoparquet(tmp_path / "e.parquet", made, "grid_L1")
    with pytest.raises(ManyoneError, match="lonlat"):
        export_geoparquet(tmp_path / "e.parquet", made, "global_mean", np.zeros((3, 2)))
