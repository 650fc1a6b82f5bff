"""A folder a class: all files of one form, or an error that names the one that is not."""

import numpy as np
import pytest
from PIL import Image
from tests.data.rasters.images import GRID, random, write

from manyone.data.rasters.chips_folder import read_chips
from manyone.errors import ManyoneError


@pytest.fixture
def folder(tmp_path):
    """Three chips of 13 bands in each of two classes, as EuroSAT comes."""
    root = tmp_path / "eurosat"
    for k, name in enumerate(("River", "Forest")):
        (root / name).mkdir(parents=True)
        for i in range(3):
            at = GRID._replace(transform=(10.0, 0.0, 500_000.0 + 1000 * i, 0.0, -10.0, 5_000_000.0 - 1000 * k))
            write(root / name / f"{name}_{i}.tif", random((13, 16, 16), seed=10 * k + i), grid=at)
    return root


def test_chips_of_a_sensor(folder):
    chips = read_chips(folder, "sentinel-2")
    assert (len(chips), chips.pixels.shape, chips.pixels.dtype) == (6, (6, 13, 16, 16), np.uint16)
    assert chips.classes == ("Forest", "River")
    assert chips.targets.tolist() == [0, 0, 0, 1, 1, 1]
    assert chips.ids[4] == "River/River_1.tif"
    np.testing.assert_array_equal(chips.pixels[4], random((13, 16, 16), seed=1))
    assert [b.name for b in chips.bands][:2] == ["B1", "B2"]
    assert {b.unit for b in chips.bands} == {"refl_dn"}
    assert "guessed to be refl_dn" in chips.about.notes[0]
    assert chips.gsd_m == 10
    assert chips.valid is None
    np.testing.assert_allclose(chips.lonlat, [[9, 45.15]] * 6, atol=0.05)
    assert read_chips(folder, "s2", "refl_dn").about.notes == ()


def test_the_array_may_be_a_file(folder, tmp_path):
    chips = read_chips(
        folder, "s2", "refl_dn", lambda shape, dtype: np.memmap(tmp_path / "x", dtype, "w+", shape=shape)
    )
    assert isinstance(chips.pixels, np.memmap)
    np.testing.assert_array_equal(chips.pixels, read_chips(folder, "s2", "refl_dn").pixels)


def test_nodata_of_one_chip(folder):
    pixels = random((13, 16, 16), low=1)
    pixels[:, :4] = 0
    write(folder / "River" / "River_0.tif", pixels, nodata=0)
    chips = read_chips(folder, "s2", "refl_dn")
    assert chips.valid.sum() == chips.pixels.size - 13 * 4 * 16


def test_pictures_are_counts_of_eight_bits(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for ending in ("png", "jpg"):
            Image.fromarray(random((8, 8, 3), high=255, dtype=np.uint8)).save(tmp_path / "set" / name / f"x.{ending}")
    chips = read_chips(tmp_path / "set")
    assert chips.pixels.shape == (4, 3, 8, 8)
    assert [(b.common, b.unit) for b in chips.bands] == [("red", "dn8"), ("green", "dn8"), ("blue", "dn8")]
    np.testing.assert_array_equal(chips.pixels[1], random((8, 8, 3), high=255, dtype=np.uint8).transpose(2, 0, 1))
    assert [b.name for b in read_chips(tmp_path / "set", "s2").bands] == ["B4", "B3", "B2"]


def test_the_file_that_differs_is_named(folder):
    write(folder / "River" / "River_1.tif", random((13, 16, 17)))
    with pytest.raises(ManyoneError, match=r"River_1.tif: is 13 bands of 16x17 uint16, .*Forest_0.tif is 13 bands of"):
        read_chips(folder, "s2")
    write(folder / "River" / "River_1.tif", random((12, 16, 16)))
    with pytest.raises(ManyoneError, match=r"River_1.tif: is 12 bands"):
        read_chips(folder, "s2")
    (folder / "River" / "River_1.tif").write_bytes(b"II*\0")
    with pytest.raises(ManyoneError, match=r"River_1.tif: a damaged TIFF"):
        read_chips(folder, "s2")


def test_folders_that_are_no_set(tmp_path, folder):
    with pytest.raises(ManyoneError, match="there is no such folder"):
        read_chips(tmp_path / "none")
    with pytest.raises(ManyoneError, match="has 0 folders with 0 images"):
        read_chips(folder / "River")
    (folder / "Empty").mkdir()
    with pytest.raises(ManyoneError, match=r"Empty: holds no .tif"):
        read_chips(folder)


def test_a_picture_that_claims_too_much(tmp_path, folder):
    from tests.data.small_packages import bomb

    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        (tmp_path / "set" / name / "x.png").write_bytes(bomb())
    with pytest.raises(ManyoneError, match=r"x.png: is (not a picture|3 bands of 20000x20000)"):
        read_chips(tmp_path / "set")
