"""Spectral resampling: rsfm.md section 9, property 6."""

import numpy as np
from tests.earth.sensors.bands import L7, S2

from manyone.data.rasters.bands import Band
from manyone.earth.sensors.resampling import gaussian_weights, is_hyperspectral

AVIRIS = [Band(f"b{i}", "", 400 + i * 2100 / 219, 9.6) for i in range(220)]


def test_rows_sum_to_one_and_a_constant_spectrum_stays():
    weights = gaussian_weights(AVIRIS, S2)
    np.testing.assert_allclose(weights.sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(weights @ np.full(220, 0.37), 0.37, rtol=1e-12)


def test_a_width_of_nothing_at_the_same_centre_picks_the_band():
    slots = [Band("t", "", AVIRIS[i].center_nm, width) for i, width in ((40, 0.0), (100, 1e-6))]
    weights = gaussian_weights(AVIRIS, slots)
    assert weights[0, 40] == 1
    assert weights[1, 100] == 1
    assert (weights > 0).sum() == 2


def test_slots_outside_the_sensor_or_between_its_bands_are_missing():
    gap = [b for b in AVIRIS if not 600 < b.center_nm < 750]
    weights = gaussian_weights(
        gap, [Band("in", "", 675, 15), Band("far", "", 2600, 40), *(b for b in L7 if b.name == "B6")]
    )
    assert not weights.any()


def test_the_weights_are_the_gaussian_of_the_slot():
    slot = Band("t", "", 660.0, 30.0)
    centers = np.array([b.center_nm for b in AVIRIS])
    plain = np.array([np.exp(-4 * np.log(2) * ((c - 660) / 30) ** 2) for c in centers])
    np.testing.assert_allclose(gaussian_weights(AVIRIS, [slot])[0], plain / plain.sum(), rtol=1e-12)


def test_thirty_optical_bands_are_hyperspectral():
    assert is_hyperspectral(AVIRIS[:30])
    assert not is_hyperspectral([*AVIRIS[:29], *L7[5:6]])
