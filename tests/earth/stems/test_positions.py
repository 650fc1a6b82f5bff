"""Positions: rsfm.md section 9, property 4."""

import pytest
import torch
from tests.reference import earth_stems as reference

from manyone.earth.stems.positions import grid_positions, sincos, volume_positions
from manyone.errors import ManyoneError


@pytest.mark.parametrize("value", [0.0, 1.0, 37.5, 2202.4, 55465763.0])
def test_sines_then_cosines(value):
    found = sincos(torch.tensor([value], dtype=torch.float64), 16)[0]
    torch.testing.assert_close(found, reference.sincos(value, 16), rtol=0, atol=1e-6)


@pytest.mark.parametrize("n", [2, 7, 14])
def test_the_same_place_has_the_same_position_at_any_resolution(n):
    """Property 4: exact."""
    coarse = grid_positions(n, n, 64, ratio=2.0).reshape(n, n, 64)
    fine = grid_positions(2 * n - 1, 2 * n - 1, 64, ratio=1.0).reshape(2 * n - 1, 2 * n - 1, 64)
    assert (coarse - fine[::2, ::2]).abs().max() == 0


def test_the_first_half_is_the_row_and_cls_is_zero():
    table = grid_positions(3, 5, 32, cls=True)
    assert table.shape == (16, 32)
    assert (table[0] == 0).all()
    torch.testing.assert_close(
        table[1 + 2 * 5 + 4], torch.cat([sincos(torch.tensor(2), 16), sincos(torch.tensor(4), 16)])
    )


def test_three_dimensions_split_the_width():
    table = volume_positions(2, 3, 4, 32).reshape(2, 3, 4, 32)
    wanted = torch.cat([sincos(torch.tensor(v), w) for v, w in ((3, 12), (2, 12), (1, 8))])
    assert torch.equal(table[1, 2, 3], wanted)
    assert len(torch.unique(table.reshape(-1, 32), dim=0)) == 24


def test_widths_must_divide():
    with pytest.raises(ManyoneError, match="width 7"):
        sincos(torch.zeros(1), 7)
    with pytest.raises(ManyoneError, match="multiple of 4"):
        grid_positions(2, 2, 6)
    with pytest.raises(ManyoneError, match="multiple of 16"):
        volume_positions(1, 1, 1, 24)
