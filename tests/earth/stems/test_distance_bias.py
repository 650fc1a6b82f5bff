"""CROMA's bias: rsfm.md section 9, property 5."""

import pytest
import torch
from tests.reference import earth_stems as reference

from manyone.earth.stems.distance_bias import distance_bias, head_slopes
from manyone.errors import ManyoneError


@pytest.mark.parametrize("heads", [1, 2, 8, 16])
def test_symmetric_zero_on_the_diagonal_and_falling_with_distance(heads):
    bias = distance_bias(4, 3, heads)
    assert torch.equal(bias, bias.transpose(1, 2))
    assert (bias.diagonal(dim1=1, dim2=2) == 0).all()
    assert (bias <= 0).all()
    assert (head_slopes(heads).diff() < 0).all()
    assert (head_slopes(heads) > 0).all()


def test_it_is_what_the_formula_says():
    torch.testing.assert_close(distance_bias(3, 4, 8), reference.distance_bias(3, 4, 8))
    assert head_slopes(8).tolist() == [2.0**-h for h in range(1, 9)]


def test_heads_are_a_power_of_two():
    with pytest.raises(ManyoneError, match="heads 12"):
        head_slopes(12)
