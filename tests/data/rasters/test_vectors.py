"""Labels of other files on a scene's grid: the right pixels, the right classes, and clear refusals."""

import json
import struct

import numpy as np
import pytest
from pyogrio.raw import read as read_vectors
from pyogrio.raw import write as write_vectors
from rasterio.warp import transform_geom
from tests.data.rasters.images import GRID, random, write

from manyone.data.rasters.geotiff import write_raster
from manyone.data.rasters.own import open_scene
from manyone.data.rasters.scenes import IGNORE, ArrayScene
from manyone.data.rasters.vectors import read_labels
from manyone.data.rasters.wkb import parse_wkb
from manyone.errors import ManyoneError


@pytest.fixture
def scene(tmp_path):
    with open_scene(write(tmp_path / "scene.tif", random((1, 100, 120))), unit="refl_dn") as opened:
        yield opened


def square(row, column, side):
    """A polygon that covers whole pixels of the grid."""
    x, y, w = 500_000 + 10 * column, 5_000_000 - 10 * row, 10 * side
    return {"type": "Polygon", "coordinates": [[[x, y], [x + w, y], [x + w, y - w], [x, y - w], [x, y]]]}


def geojson(path, features, crs="EPSG:4326"):
    """Geometries of the scene's system with properties, as GeoJSON (longitudes and latitudes unless ``crs``)."""
    rows = [
        {"type": "Feature", "properties": p, "geometry": transform_geom(GRID.crs, crs, g) if crs == "EPSG:4326" else g}
        for g, p in features
    ]
    collection = {"type": "FeatureCollection", "features": rows}
    if crs != "EPSG:4326":
        collection["crs"] = {"type": "name", "properties": {"name": f"urn:ogc:def:crs:{crs.replace(':', '::')}"}}
    path.write_text(json.dumps(collection))
    return path


TWO = [(square(5, 10, 20), {"class": "wood", "id": 1}), (square(40, 60, 10), {"class": "crop", "id": 2})]


def expected():
    pixels = np.full((100, 120), IGNORE, np.uint8)
    pixels[5:25, 10:30], pixels[40:50, 60:70] = 1, 0
    return pixels


@pytest.mark.parametrize("form", ["geojson", "geojson in metres", "gpkg", "shp"])
def test_polygons(tmp_path, scene, form):
    path = geojson(tmp_path / "l.geojson", TWO, "EPSG:32632" if "metres" in form else "EPSG:4326")
    if form in ("gpkg", "shp"):
        meta, _, shapes, fields = read_vectors(path)
        path = tmp_path / f"l.{form}"
        write_vectors(path, shapes, fields, list(meta["fields"]), geometry_type="Polygon", crs="EPSG:4326")
    labels = read_labels(path, scene)
    assert labels.classes == ("crop", "wood")
    np.testing.assert_array_equal(labels.pixels, expected())


def test_points_label_the_pixel_that_they_lie_in(tmp_path, scene):
    spots = [(7, 3, 2), (50, 119, 10), (99, 0, 2)]
    points = [
        ({"type": "Point", "coordinates": [500_004 + 10 * c, 4_999_993 - 10 * r]}, {"code": k}) for r, c, k in spots
    ]
    labels = read_labels(geojson(tmp_path / "p.geojson", points), scene)
    assert labels.classes == ("2", "10")  # by value
    assert {(r, c, labels.pixels[r, c]) for r, c in np.argwhere(labels.pixels != IGNORE)} == {
        (7, 3, 0), (50, 119, 1), (99, 0, 0),
    }  # fmt: skip


def test_the_later_feature_wins_and_holes_stay_open(tmp_path, scene):
    outer, inner = square(10, 10, 10), square(12, 12, 4)
    ring = {"type": "Polygon", "coordinates": [outer["coordinates"][0], inner["coordinates"][0]]}
    labels = read_labels(geojson(tmp_path / "l.geojson", [(ring, {"c": "a"}), (square(15, 15, 2), {"c": "b"})]), scene)
    assert (labels.pixels == 0).sum() == 100 - 16 - 3
    assert (labels.pixels == 1).sum() == 4


def test_which_column(tmp_path, scene):
    rows = [(g, {"a": k, "b": 7}) for k, (g, _) in enumerate(TWO)]
    path = geojson(tmp_path / "l.geojson", rows)
    with pytest.raises(ManyoneError, match=r"which column holds the class\? Known are a, b"):
        read_labels(path, scene)
    assert read_labels(path, scene, "a").classes == ("0", "1")
    assert read_labels(path, scene, "b").classes == ("7",)
    with pytest.raises(ManyoneError, match="has no column 'c'; known are a, b"):
        read_labels(path, scene, "c")


def test_a_wrong_reference_system_names_both_extents(tmp_path, scene):
    metres_as_degrees = tmp_path / "l.geojson"
    rows = [{"type": "Feature", "properties": p, "geometry": g} for g, p in TWO]
    metres_as_degrees.write_text(json.dumps({"type": "FeatureCollection", "features": rows}))
    message = r"CRS mismatch between labels and scene.*\(500100, 49995.*EPSG:4326.*\(500000, 4999000\).*EPSG:32632"
    with pytest.raises(ManyoneError, match=message):
        read_labels(metres_as_degrees, scene)
    elsewhere = [(square(500, 500, 10), {"class": "a"})]
    with pytest.raises(ManyoneError, match=r"nothing overlaps"):
        read_labels(geojson(tmp_path / "m.geojson", elsewhere), scene)


def test_missing_reference_systems(tmp_path, scene):
    meta, _, shapes, fields = read_vectors(geojson(tmp_path / "l.geojson", TWO))
    write_vectors(tmp_path / "l.shp", shapes, fields, list(meta["fields"]), geometry_type="Polygon", crs="EPSG:4326")
    (tmp_path / "l.prj").unlink()
    with pytest.raises(ManyoneError, match=r"l.shp: has no coordinate reference system"):
        read_labels(tmp_path / "l.shp", scene)
    bare = ArrayScene("bare", scene.bands, np.zeros((1, 100, 120)))
    with pytest.raises(ManyoneError, match="bare: has no coordinate reference system"):
        read_labels(tmp_path / "l.geojson", bare)


def test_too_many_classes(tmp_path, scene):
    rows = [(square(k // 100, k % 100, 1), {"class": k}) for k in range(255)]
    with pytest.raises(ManyoneError, match="255 classes; at most 254"):
        read_labels(geojson(tmp_path / "l.geojson", rows), scene)
    labels = read_labels(geojson(tmp_path / "m.geojson", rows[:254]), scene)
    assert len(labels.classes) == 254
    assert labels.pixels[2, 53] == 253


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("l.geojson", "<OGRVRTDataSource></OGRVRTDataSource>", "is not the GeoJSON that its ending says"),
        ("l.gpkg", "SQLite format 3\0 but no GeoPackage", "is not the GPKG"),
        ("l.shp", "{}", "is not the ESRI Shapefile"),
        ("l.kml", "<kml/>", r".kml is not read; known are .geojson"),
        ("l.geojson", "{]", "not a readable GeoJSON file"),
        ("l.geojson", '{"type": "FeatureCollection", "features": []}', "which column|no features"),
    ],
)
def test_what_is_no_file_of_labels(tmp_path, scene, name, content, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(ManyoneError, match=message) as error:
        read_labels(tmp_path / name, scene)
    assert "\n" not in str(error.value)


def test_features_without_a_class_or_with_a_line(tmp_path, scene):
    with pytest.raises(ManyoneError, match="none of its 2 features"):
        read_labels(geojson(tmp_path / "l.geojson", [(g, {"class": None}) for g, _ in TWO]), scene, "class")
    line = {"type": "LineString", "coordinates": [[500_000, 4_999_990], [500_100, 4_999_900]]}
    with pytest.raises(ManyoneError, match="holds a LineString; only points and polygons"):
        read_labels(geojson(tmp_path / "m.geojson", [(line, {"class": "road"})]), scene)


def test_a_raster_of_classes(tmp_path, scene):
    codes = np.full((100, 120), 99, np.int16)
    codes[5:25, 10:30], codes[40:50, 60:70] = 7, 3
    labels = read_labels(write_raster(tmp_path / "l.tif", codes, GRID, nodata=99), scene)
    assert labels.classes == ("3", "7")
    np.testing.assert_array_equal(labels.pixels, expected())
    # half the resolution, moved: the nearest pixel
    coarse = GRID._replace(transform=(20.0, 0.0, 500_000.0, 0.0, -20.0, 5_000_000.0))
    small = write_raster(tmp_path / "s.tif", codes[::2, ::2], coarse, nodata=99)
    np.testing.assert_array_equal(read_labels(small, scene).pixels, np.kron(
        np.where(codes[::2, ::2] == 7, 1, np.where(codes[::2, ::2] == 3, 0, IGNORE)), np.ones((2, 2), int)
    ))  # fmt: skip
    far = GRID._replace(transform=(10.0, 0.0, 700_000.0, 0.0, -10.0, 5_000_000.0))
    with pytest.raises(ManyoneError, match="nothing overlaps"):
        read_labels(write_raster(tmp_path / "f.tif", codes, far), scene)
    with pytest.raises(ManyoneError, match="no whole numbers"):
        read_labels(write_raster(tmp_path / "r.tif", codes / 7, GRID), scene)
    with pytest.raises(ManyoneError, match="'class' has no meaning for a raster"):
        read_labels(small, scene, "class")


def test_well_known_binary_is_read_within_its_bytes():
    point = struct.pack("<BI2d", 1, 1, 3.0, 4.0)
    assert parse_wkb(point, "x") == {"type": "Point", "coordinates": (3.0, 4.0)}
    big_endian = struct.pack(">BI2d", 0, 1, 3.0, 4.0)
    assert parse_wkb(big_endian, "x") == parse_wkb(point, "x")
    several = struct.pack("<BII", 1, 4, 2) + point + point
    assert parse_wkb(several, "x")["coordinates"] == [(3.0, 4.0)] * 2
    for wrong in (point[:-1], struct.pack("<BII", 1, 4, 2**31) + point, struct.pack("<BIII", 1, 3, 1, 2**30), b""):
        with pytest.raises(ManyoneError, match="x: a geometry is cut short"):
            parse_wkb(wrong, "x")
    with pytest.raises(ManyoneError, match="followed by 3 odd bytes"):
        parse_wkb(point + b"abc", "x")
