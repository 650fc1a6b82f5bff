"""Filling of missing slots."""

import numpy as np
import pytest
from tests.earth.sensors.bands import L7, L8, S2_12

from manyone.earth.sensors.matching import match
from manyone.earth.sensors.missing import fill
from manyone.errors import ManyoneError


def weights(source, slots):
    rows = np.zeros((len(slots), len(source)))
    for t, s in enumerate(match(source, slots).indices):
        if s is not None:
            rows[t, s] = 1
    return rows


def test_nothing_is_done_where_nothing_is_missing():
    rows = weights(S2_12, S2_12)
    assert np.array_equal(fill(S2_12, S2_12, rows, "error").weights, rows)


def test_an_error_names_the_slots():
    with pytest.raises(ManyoneError, match=r"B1 \(coastal\).*B9 \(watervapor\)"):
        fill(L7, S2_12, weights(L7, S2_12), "error")


def test_nearest_copies_the_nearest_matched_band():
    filled = fill(L7, S2_12, weights(L7, S2_12), "nearest").weights
    names = [L7[int(row.argmax())].name for row in filled]
    assert names == ["B1", "B1", "B2", "B3", "B3", "B3", "B4", "B4", "B4", "B4", "B5", "B7"]
    assert np.array_equal(filled.sum(1), np.ones(12))


def test_interpolation_is_exact_for_a_linear_spectrum():
    centers = np.array([b.center_nm for b in L7])
    filled = fill(L7, S2_12, weights(L7, S2_12), "interp")
    for t in (4, 5, 6, 9):
        assert filled.weights[t] @ centers == pytest.approx(S2_12[t].center_nm)
    assert not filled.weights[:, [i for i, b in enumerate(L7) if b.kind != "optical"]].any()
    assert any("beyond the sensor's range: copy of B1" in note for note in filled.notes)


def test_mean_slice_and_drop_leave_the_rows_empty():
    rows = weights(L7, S2_12)
    assert fill(L7, S2_12, rows, "mean").zero == (0, 4, 5, 6, 8, 9)
    assert fill(L7, S2_12, rows, "slice").left_out == (0, 4, 5, 6, 8, 9)
    assert fill(L7, S2_12, rows, "drop").zero == ()


def test_a_sensor_that_fits_nowhere_is_refused():
    pan = [b for b in L8 if b.common == "pan"]
    with pytest.raises(ManyoneError, match="none of the bands B8 fits"):
        fill(pan, S2_12, np.zeros((12, 1)), "nearest")
