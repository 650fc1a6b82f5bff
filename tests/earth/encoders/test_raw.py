"""Windows and statistics against plain loops."""

import numpy as np
import pytest
import torch
from tests.reference.earth_encoders import window

from manyone.earth.encoders.raw import ImageStatistics, RawWindows, WindowStatistics
from manyone.earth.spec import Context
from manyone.errors import ManyoneError

IMAGE = torch.randn(1, 3, 6, 7, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("side", [1, 3, 5])
def test_a_raw_map_holds_the_window_of_each_pixel(side):
    (maps,) = RawWindows(side).maps(IMAGE, Context())
    assert maps.shape == (1, 3 * side * side, 6, 7)
    for row in range(6):
        for column in range(7):
            expected = window(IMAGE[0].numpy(), row, column, side).reshape(-1)
            np.testing.assert_array_equal(maps[0, :, row, column].numpy(), expected)


def test_window_statistics_are_those_of_the_window():
    (maps,) = WindowStatistics(5).maps(IMAGE, Context())
    for row, column in [(0, 0), (3, 3), (5, 6), (2, 0)]:
        values = window(IMAGE[0].numpy(), row, column, 5).reshape(3, -1)
        expected = np.concatenate([values.mean(1), values.std(1), values.min(1), values.max(1)])
        np.testing.assert_allclose(maps[0, :, row, column].numpy(), expected, atol=1e-6)


def test_image_statistics_are_those_of_the_image():
    vector = ImageStatistics().vectors(IMAGE, Context())["mean"][0].numpy()
    values = IMAGE[0].numpy().reshape(3, -1)
    expected = np.concatenate([values.mean(1), values.std(1), values.min(1), values.max(1)])
    np.testing.assert_allclose(vector, expected, atol=1e-6)


def test_the_class_vector_of_a_chip_is_the_window_around_its_centre():
    chip = torch.randn(2, 4, 3, 3)
    vectors = RawWindows(3).vectors(chip, Context())
    assert torch.equal(vectors["cls"], chip.flatten(1))
    assert torch.equal(RawWindows(1).vectors(chip, Context())["cls"], chip[:, :, 1, 1])


def test_what_cannot_have_windows_is_refused():
    with pytest.raises(ManyoneError, match="too small for windows of 5 x 5"):
        RawWindows(5).maps(torch.randn(1, 3, 2, 9), Context())
    with pytest.raises(ManyoneError, match="must be odd"):
        RawWindows(4)
    with pytest.raises(ManyoneError, match="one by one"):
        RawWindows(1).maps(torch.randn(1, 2, 3, 4, 4), Context())
