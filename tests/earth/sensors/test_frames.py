"""Choice of dates."""

import pytest
import torch

from manyone.earth.sensors.frames import choose_frames, take_frames
from manyone.errors import ManyoneError


def test_more_dates_than_wanted_are_spread_in_order_of_time():
    index, padded = choose_frames(7, 3)
    assert index.tolist() == [[0, 3, 6]]
    assert not padded.any()
    time = torch.tensor([[30.0, 10.0, 20.0, float("nan")]])
    assert choose_frames(4, 2, time=time)[0].tolist() == [[1, 3]]
    assert choose_frames(4, 4, time=time)[0].tolist() == [[1, 2, 0, 3]]


def test_the_cloudiest_are_dropped_first():
    cloud = torch.tensor([[0.9, 0.0, 0.5, 0.1], [0.0, 0.1, 0.2, 0.3]])
    assert choose_frames(4, 2, samples=2, cloud=cloud)[0].tolist() == [[1, 3], [0, 1]]


def test_too_few_repeat_the_last_and_are_marked():
    index, padded = choose_frames(2, 4, samples=2)
    assert index.tolist() == [[0, 1, 1, 1]] * 2
    assert padded.tolist() == [[False, False, True, True]] * 2


def test_frames_are_taken_sample_by_sample():
    x = torch.arange(6.0).reshape(2, 3, 1)
    assert take_frames(x, torch.tensor([[2, 0], [1, 1]])).flatten().tolist() == [2, 0, 4, 4]


def test_a_wrong_shape_is_told():
    with pytest.raises(ManyoneError, match="one a date"):
        choose_frames(3, 2, time=torch.zeros(1, 2))
