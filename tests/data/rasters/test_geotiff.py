"""What is written is there whole or not at all, and is read again as it was."""

import numpy as np
import pytest
import rasterio
from tests.data.rasters.images import GRID, random, write

from manyone.data.rasters.geotiff import raster_writer, read_geotiff, write_raster
from manyone.data.rasters.scenes import Window
from manyone.errors import ManyoneError


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_a_raster_comes_back(tmp_path, dtype):
    pixels = random((2, 300, 270), high=200, dtype=dtype)
    path = write_raster(tmp_path / "a.tif", pixels, GRID, names=("x", "y"), nodata=3, tags={"model": "m"})
    values, valid, grid = read_geotiff(path.read_bytes(), "a.tif")
    np.testing.assert_array_equal(values, pixels)
    assert values.dtype == dtype
    np.testing.assert_array_equal(valid, pixels != 3)
    assert grid == GRID
    with rasterio.open(path) as dataset:
        assert dataset.descriptions == ("x", "y")
        assert dataset.tags()["model"] == "m"
        assert dataset.block_shapes[0] == (256, 256)


def test_a_map_of_classes_has_colours(tmp_path):
    classes = random((40, 50), high=3, dtype=np.uint8)
    path = write_raster(tmp_path / "map.tif", classes, GRID, colours={0: (1, 2, 3), 1: (9, 8, 7)}, nodata=255)
    with rasterio.open(path) as dataset:
        assert dataset.colormap(1)[1] == (9, 8, 7, 255)
        np.testing.assert_array_equal(dataset.read(1), classes)


def test_piece_by_piece(tmp_path):
    pixels = random((1, 400, 300))
    with raster_writer(tmp_path / "a.tif", pixels.shape, "uint16", GRID) as write_window:
        for row in range(0, 400, 100):
            write_window(Window(row, 0, 100, 300), pixels[:, row : row + 100])
    np.testing.assert_array_equal(read_geotiff((tmp_path / "a.tif").read_bytes(), "a")[0], pixels)


def test_nothing_is_left_when_writing_fails(tmp_path):
    with pytest.raises(ZeroDivisionError), raster_writer(tmp_path / "a.tif", (1, 9, 9), "uint8") as write_window:
        write_window(Window(0, 0, 9 // len(list(tmp_path.glob("a.tif"))), 9), np.zeros((1, 9, 9), np.uint8))
    assert list(tmp_path.iterdir()) == []
    write_raster(tmp_path / "a.tif", np.zeros((9, 9), np.uint8))
    before = (tmp_path / "a.tif").read_bytes()
    with pytest.raises(ManyoneError, match=r"a.tif: is there already; give another name or --overwrite"):
        write_raster(tmp_path / "a.tif", np.ones((9, 9), np.uint8))
    assert (tmp_path / "a.tif").read_bytes() == before
    write_raster(tmp_path / "a.tif", np.ones((9, 9), np.uint8), overwrite=True)
    assert (tmp_path / "a.tif").read_bytes() != before


@pytest.mark.parametrize(
    ("array", "words", "message"),
    [
        (np.zeros((2, 2, 2, 2)), {}, r"of shape \(2, 2, 2, 2\); must be"),
        (np.zeros((0, 4)), {}, "not be empty"),
        (np.zeros((4, 4), complex), {}, "complex128"),
        (np.zeros((4, 4), np.uint8), {"names": ("a", "b")}, "names: 2 for 1 bands"),
        (np.zeros((4, 4), np.float32), {"colours": {0: (0, 0, 0)}}, "colours: are for one band of uint8"),
    ],
)
def test_what_cannot_be_written(tmp_path, array, words, message):
    with pytest.raises(ManyoneError, match=message):
        write_raster(tmp_path / "a.tif", array, **words)
    with pytest.raises(ManyoneError, match="there is no such folder"):
        write_raster(tmp_path / "none" / "a.tif", np.zeros((4, 4), np.uint8))


def test_bytes_that_are_no_geotiff():
    with pytest.raises(ManyoneError, match=r"x.tif: not a GeoTIFF"):
        read_geotiff(b"not at all", "x.tif")


def test_a_reference_system_without_a_code_stays_as_it_is(tmp_path):
    local = 'LOCAL_CS["a field",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
    path = write(tmp_path / "a.tif", random(), grid=GRID._replace(crs=local))
    assert "a field" in read_geotiff(path.read_bytes(), "a.tif")[2].crs
