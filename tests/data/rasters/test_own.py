"""A user's GeoTIFF as a scene: windows, bands, units, masks, limits, and one line for whatever is wrong."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import rasterio
from tests.data.rasters.images import GRID, random, write

from manyone.data.rasters.own import aligned_windows, open_scene, sample_scene
from manyone.data.rasters.scenes import Grid, Window
from manyone.errors import ManyoneError


def named(*names):
    def describe(dataset):
        for i, name in enumerate(names, 1):
            dataset.set_band_description(i, name)

    return describe


def test_a_window_is_what_the_file_holds(tmp_path):
    pixels = random()
    with open_scene(write(tmp_path / "a.tif", pixels, describe=named("B02", "b3", "B8A")), "s2", "refl_dn") as scene:
        assert (scene.shape, scene.grid, scene.gsd_m, scene.notes) == ((60, 80), GRID, 10.0, ())
        assert [(b.name, b.common, b.unit) for b in scene.bands] == [
            ("B2", "blue", "refl_dn"), ("B3", "green", "refl_dn"), ("B8A", "nir_narrow", "refl_dn"),
        ]  # fmt: skip
        values, valid = scene.read(Window(5, 7, 11, 13))
        assert values.dtype == np.float32
        np.testing.assert_array_equal(values, pixels[:, 5:16, 7:20])
        assert valid.all()
        np.testing.assert_array_equal(scene.read()[0], pixels)
        for wrong in (Window(55, 0, 10, 10), Window(-1, 0, 2, 2), Window(0, 0, 0, 4)):
            with pytest.raises(ManyoneError, match="does not lie in its 60x80 pixels"):
                scene.read(wrong)
        again = pickle.loads(pickle.dumps(scene))
        np.testing.assert_array_equal(again.read(Window(0, 0, 3, 3))[0], pixels[:, :3, :3])


def test_aligned_windows_cover_the_scene_once(tmp_path):
    path = write(tmp_path / "a.tif", random((1, 300, 500)), tiled=True, blockxsize=64, blockysize=32)
    with open_scene(path, unit="refl_dn") as scene:
        seen = np.zeros(scene.shape, int)
        for row, column, height, width in aligned_windows(scene, 100):
            assert row % 32 == column % 64 == 0
            assert height <= 96
            assert width <= 128
            seen[row : row + height, column : column + width] += 1
        assert (seen == 1).all()


def test_nodata_and_masks_are_per_band(tmp_path):
    pixels = random(low=1)
    pixels[0, :10], pixels[1, 20:, 40:] = 0, 0
    with open_scene(write(tmp_path / "a.tif", pixels, nodata=0), unit="refl_dn") as scene:
        _, valid = scene.read()
        np.testing.assert_array_equal(valid, pixels != 0)
        assert {b.nodata for b in scene.bands} == {0.0}
    floats = random(dtype=np.float32) / 3000
    floats[2, 3, 4] = np.nan
    with open_scene(write(tmp_path / "b.tif", floats), unit="refl") as scene:
        assert np.argwhere(~scene.read()[1]).tolist() == [[2, 3, 4]]


def test_an_alpha_band_is_a_mask_not_a_band(tmp_path):
    pixels = random((4, 30, 30), high=255, dtype=np.uint8)
    pixels[3] = 255
    pixels[3, :5] = 0
    with open_scene(write(tmp_path / "a.tif", pixels, photometric="rgb", alpha="yes")) as scene:
        assert [b.common for b in scene.bands] == ["red", "green", "blue"]
        values, valid = scene.read()
        np.testing.assert_array_equal(values, pixels[:3])
        np.testing.assert_array_equal(valid, np.broadcast_to(pixels[3] > 0, (3, 30, 30)))


def test_a_fourth_band_that_is_called_alpha_may_be_infrared(tmp_path):
    """GDAL calls it so in any file of four bands of 8 bits."""
    pixels = random((4, 30, 30), high=255, dtype=np.uint8)
    path = write(tmp_path / "a.tif", pixels)
    with rasterio.open(path) as dataset:
        assert dataset.colorinterp[3].name == "alpha"
    with open_scene(path, "naip", "dn8") as scene:
        assert [b.common for b in scene.bands] == ["red", "green", "blue", "nir"]
        values, valid = scene.read()
        np.testing.assert_array_equal(values, pixels)
        assert valid.all()


def test_scale_and_offset_are_applied(tmp_path):
    def landsat(dataset):
        dataset.scales, dataset.offsets = [2.75e-5] * 3, [-0.2] * 3

    counts = random(low=7300, high=40_000)
    with open_scene(write(tmp_path / "a.tif", counts, describe=landsat)) as scene:
        np.testing.assert_allclose(scene.read()[0], counts * 2.75e-5 - 0.2, atol=1e-6)
        assert {b.unit for b in scene.bands} == {"refl"}


def test_wavelengths_in_metadata(tmp_path):
    def imagery(dataset):
        dataset.update_tags(1, ns="IMAGERY", CENTRAL_WAVELENGTH_UM="0.56", FWHM_UM="0.04")
        dataset.update_tags(2, wavelength="665.5", fwhm="30")
        dataset.update_tags(3, wavelength="1.61", wavelength_units="Micrometers")
        dataset.units = ["reflectance", "", ""]

    with open_scene(write(tmp_path / "a.tif", random(high=2) * 1.0, describe=imagery)) as scene:
        found = [(b.common, round(b.center_nm, 3), b.fwhm_nm, b.unit) for b in scene.bands]
        assert found[0] == ("green", 560.0, pytest.approx(40), "refl")
        assert found[1:] == [("red", 665.5, 30.0, "refl"), ("swir1", 1610.0, None, "refl")]


def test_a_guessed_unit_is_said_and_a_doubtful_one_refused(tmp_path):
    with open_scene(write(tmp_path / "a.tif", random(), describe=named("B2", "B3", "B4")), "s2") as scene:
        assert {b.unit for b in scene.bands} == {"refl_dn"}
        assert "unit guessed to be refl_dn" in scene.notes[0]
    mixed = random().astype(np.float32)
    mixed[1] /= 10_000
    path = write(tmp_path / "b.tif", mixed, describe=named("B2", "B3", "B4"))
    with pytest.raises(ManyoneError, match=r"b: the unit is not declared .*disagree"):
        open_scene(path, "s2")
    with open_scene(path, "s2", strict=False) as scene:
        assert "disagree" in scene.notes[0]
        assert scene.bands[0].unit is None
    with pytest.raises(ManyoneError, match="unit 'percent': must be one of"):
        open_scene(path, unit="percent")


def test_a_forgotten_offset_is_said(tmp_path):
    path = write(tmp_path / "a.tif", random(low=1020), describe=named("B2", "B3", "B4"))
    with open_scene(path, "s2", "refl_dn") as scene:
        assert "declare refl_dn_off" in scene.notes[0]


def test_files_of_one_band_are_one_scene(tmp_path):
    pixels = random()
    paths = [write(tmp_path / f"T32_{n}.tif", pixels[i : i + 1]) for i, n in enumerate(("B02", "B03", "B8A"))]
    for given in (",".join(map(str, paths)), paths):
        with open_scene(given, "s2", "refl_dn") as scene:
            assert [b.name for b in scene.bands] == ["B2", "B3", "B8A"]
            np.testing.assert_array_equal(scene.read(Window(1, 2, 3, 4))[0], pixels[:, 1:4, 2:6])
    moved = Grid(GRID.crs, (10.0, 0.0, 500_010.0, 0.0, -10.0, 5_000_000.0))
    other = write(tmp_path / "T32_B04.tif", pixels[:1], grid=moved)
    with pytest.raises(ManyoneError, match=r"T32_B04.tif: .*at \(500010, 5e\+06\) .*need one grid"):
        open_scene([paths[0], other], "s2", "refl_dn")


def test_bands_that_fit_no_sensor(tmp_path):
    path = write(tmp_path / "a.tif", random())
    with pytest.raises(ManyoneError, match=r"has 3 bands \(no name, no name, no name\), sentinel-2 has 13"):
        open_scene(path, "s2", "refl_dn")
    mine = tmp_path / "mine.yaml"
    mine.write_text("unit: refl_dn\nbands: [{name: x, center_nm: 500}, {name: y}, {name: z, common: nir}]")
    with open_scene(path, mine) as scene:
        assert [(b.name, b.unit) for b in scene.bands] == [("x", "refl_dn"), ("y", "refl_dn"), ("z", "refl_dn")]
        assert scene.notes == ()
    with open_scene(path, unit="refl_dn") as scene:
        assert "nothing says what band 1, band 2, band 3 measure" in scene.notes[0]


def test_no_reference_system_is_said(tmp_path):
    with open_scene(write(tmp_path / "a.tif", random(), grid=None), unit="refl_dn") as scene:
        assert (scene.grid, scene.gsd_m) == (None, None)
        assert any("no coordinate reference system" in n for n in scene.notes)


def test_degrees_become_metres(tmp_path):
    grid = Grid("EPSG:4326", (0.001, 0.0, 9.0, 0.0, -0.001, 60.03))
    with open_scene(write(tmp_path / "a.tif", random(), grid=grid), unit="refl_dn") as scene:
        assert scene.gsd_m == pytest.approx(111.32 * np.sqrt(0.5), rel=1e-3)


def test_nodata_everywhere(tmp_path):
    path = write(tmp_path / "a.tif", np.zeros((2, 20, 20), np.uint16), nodata=0)
    with pytest.raises(ManyoneError, match="a: every pixel is nodata"):
        open_scene(path, unit="refl_dn")


def test_a_damaged_block_is_one_line(tmp_path):
    path = write(tmp_path / "a.tif", random((1, 256, 2600)), tiled=True, blockxsize=256, blockysize=256, compress="lzw")
    with rasterio.open(path) as dataset:
        offset = int(dataset.get_tag_item("BLOCK_OFFSET_10_0", "TIFF", bidx=1))
    raw = bytearray(path.read_bytes())
    raw[offset : offset + 4000] = b"\xff" * 4000
    path.write_bytes(raw)
    with pytest.raises(ManyoneError, match=r"a.tif: rows 0 to 255, columns .*damaged") as error:
        open_scene(path, unit="refl_dn").read()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "content", [b"", b"hello, no image", b"II*\0garbage that is no directory", b"\x89PNG\r\n\x1a\n"]
)
def test_what_is_no_geotiff(tmp_path, content):
    path = tmp_path / "a.tif"
    path.write_bytes(content)
    with pytest.raises(ManyoneError, match=r"a.tif: (not a TIFF|a damaged TIFF) .*only GeoTIFF files are read"):
        open_scene(path)


def test_no_other_format_leads_to_other_files(tmp_path):
    write(tmp_path / "real.tif", random())
    vrt = tmp_path / "a.tif"
    vrt.write_text(
        '<VRTDataset rasterXSize="80" rasterYSize="60"><VRTRasterBand dataType="UInt16" band="1"><SimpleSource>'
        f"<SourceFilename>{tmp_path}/real.tif</SourceFilename></SimpleSource></VRTRasterBand></VRTDataset>"
    )
    with pytest.raises(ManyoneError, match="not a TIFF"):
        open_scene(vrt)
    for place in ("/vsicurl/http://localhost/a.tif", "http://localhost/a.tif", "/vsizip/a.zip/a.tif", "s3://b/a.tif"):
        with pytest.raises(ManyoneError, match="only files of this machine are read"):
            open_scene(place)
    with pytest.raises(ManyoneError, match=r"there is no such file"):
        open_scene(tmp_path / "none.tif")


def test_sidecar_files_are_not_followed(tmp_path):
    path = write(tmp_path / "a.tif", random())
    (tmp_path / "a.tif.aux.xml").write_text(
        "<PAMDataset><PAMRasterBand band='1'><NoDataValue>7</NoDataValue><Description>lie</Description>"
        "</PAMRasterBand></PAMDataset>"
    )
    with open_scene(path, unit="refl_dn") as scene:
        assert scene.bands[0].nodata is None
        assert scene.bands[0].name == "band 1"


def test_claims_of_a_header_are_compared_with_limits(tmp_path):
    """A sparse file may claim terabytes in some hundred bytes."""
    path = tmp_path / "a.tif"
    shape = {"height": 60_000, "width": 60_000, "count": 8, "dtype": "float64"}
    with rasterio.open(path, "w", driver="GTiff", sparse_ok=True, bigtiff="yes", tiled=True, **shape):
        pass
    assert path.stat().st_size < 20e6
    with open_scene(path, unit="refl") as scene, pytest.raises(ManyoneError, match="read it by windows"):
        scene.read()
    huge = tmp_path / "b.tif"
    tiles = {"tiled": True, "blockxsize": 16_384, "blockysize": 16_384}
    with rasterio.open(huge, "w", driver="GTiff", sparse_ok=True, bigtiff="yes", **tiles, **shape):
        pass
    with pytest.raises(ManyoneError, match=r"blocks of 16384x16384 pixels take 17,180 MB .*TILED=YES"):
        open_scene(huge, unit="refl")


def test_complex_numbers_are_refused(tmp_path):
    path = tmp_path / "a.tif"
    with rasterio.open(path, "w", driver="GTiff", height=4, width=4, count=1, dtype="complex64") as dataset:
        dataset.write(np.ones((1, 4, 4), np.complex64))
    with pytest.raises(ManyoneError, match="its values are complex64"):
        open_scene(path)


def test_samples_of_a_large_scene(tmp_path):
    pixels = random((1, 1400, 1500), high=255, dtype=np.uint8)
    with open_scene(write(tmp_path / "a.tif", pixels), unit="dn8") as scene:
        sample = sample_scene(scene)
        assert not sample.complete
        assert sample.pixels.shape == (1, 25 * (256 * 256 // 1500) * 1500)  # whole rows: the file has strips
    with open_scene(write(tmp_path / "b.tif", pixels[:, :100, :100], nodata=3), unit="dn8") as scene:
        sample = sample_scene(scene)
        assert sample.complete
        assert sample.maxima[0] == pixels[:, :100, :100].max()


def test_ten_gigabytes_are_read_by_windows_in_little_memory(tmp_path):
    """50,000 x 50,000 pixels of 4 bands; the process may not come near what the file claims."""
    code = f"""
import numpy as np, rasterio
from manyone.data.rasters.own import aligned_windows, open_scene
path = {str(tmp_path / "big.tif")!r}
shape = dict(height=50_000, width=50_000, count=4, dtype="uint8", crs="EPSG:32632")
tiles = dict(tiled=True, blockxsize=512, blockysize=512, sparse_ok=True, bigtiff="yes", compress="deflate")
place = rasterio.Affine(10, 0, 5e5, 0, -10, 5e6)
with rasterio.open(path, "w", driver="GTiff", transform=place, **shape, **tiles) as f:
    at = rasterio.windows.Window(20480, 20480, 1024, 1024)
    f.write(np.full((4, 1024, 1024), 7, np.uint8), window=at)
with open_scene(path, unit="dn8") as scene:
    total = 0
    for window in aligned_windows(scene, 1024):
        if 19_000 <= window.row <= 23_000 and 15_000 <= window.column <= 24_000:
            total += int(scene.read(window)[0].sum(dtype=np.float64))
assert total == 7 * 4 * 1024 * 1024, total
# not ru_maxrss: a new process inherits that of the one which started it
print(next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1_000_000  # kilobytes
