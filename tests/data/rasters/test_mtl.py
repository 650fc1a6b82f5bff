"""Landsat's metadata: counts to reflectance and kelvin by the published equations."""

import datetime

import numpy as np
import pytest

from manyone.data.rasters.mtl import acquired, brightness, parse_mtl, reflectance
from manyone.errors import ManyoneError

TEXT = """GROUP = L1_METADATA_FILE
    SPACECRAFT_ID = "LANDSAT_8"
    DATE_ACQUIRED = 2013-07-07
    SUN_ELEVATION = 30.0
    REFLECTANCE_MULT_BAND_4 = 2.0000E-05
    REFLECTANCE_ADD_BAND_4 = -0.100000
    RADIANCE_MULT_BAND_10 = 3.3420E-04
    RADIANCE_ADD_BAND_10 = 0.10000
    K1_CONSTANT_BAND_10 = 774.8853
    K2_CONSTANT_BAND_10 = 1321.0789
END
"""


def test_calibration():
    mtl = parse_mtl(TEXT)
    counts = np.array([5000, 10_000], np.int16)
    np.testing.assert_allclose(reflectance(counts, mtl, "4"), [0, 0.2], atol=1e-6)  # the sun at 30 degrees: twice
    kelvin = brightness(np.array([27_000]), mtl, "10")
    assert kelvin[0] == pytest.approx(1321.0789 / np.log(774.8853 / (27_000 * 3.342e-4 + 0.1) + 1), abs=1e-3)
    assert np.isnan(brightness(np.array([-400]), mtl, "10")[0])
    assert acquired(mtl) == (datetime.date(2013, 7, 7) - datetime.date(1970, 1, 1)).days


def test_what_is_missing_is_named():
    mtl = parse_mtl(TEXT)
    with pytest.raises(ManyoneError, match="REFLECTANCE_MULT_BAND_5 is missing"):
        reflectance(np.array([1]), mtl, "5")
    with pytest.raises(ManyoneError, match="DATE_ACQUIRED is missing or no date"):
        acquired({"DATE_ACQUIRED": "soon"})
    with pytest.raises(ManyoneError, match="names no SPACECRAFT_ID"):
        parse_mtl("a = 1")
    with pytest.raises(ManyoneError, match="more than such a file has"):
        parse_mtl("x" * 300_000)
