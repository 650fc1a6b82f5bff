import math

import pytest

from manyone.behavior.checks import check_number, check_whole
from manyone.errors import ManyoneError


@pytest.mark.parametrize("value", [-1, 1.5, "2", True, None, math.nan, [1], "a\nb" * 99])
def test_other_than_whole_numbers_are_named_in_a_line(value):
    with pytest.raises(ManyoneError, match=r"steps .{1,40}: must be a whole number from 0$"):
        check_whole("steps", value, 0)
    check_whole("steps", 0, 0)


@pytest.mark.parametrize("value", [0, -1, "2", True, None, math.nan, math.inf, 2.5])
def test_other_than_positive_numbers_are_named_in_a_line(value):
    with pytest.raises(ManyoneError, match=r"fraction .{1,40}: must be a number above 0, at most 1$"):
        check_number("fraction", value, 1)
    check_number("fraction", 1, 1)
    check_number("lr", 10**400)
