"""Stems whose bands are in groups or in one order."""

import pytest
import torch

from manyone.earth.stems.fixed import FixedStem, slice_weight, sliced
from manyone.earth.stems.groups import GroupStem, date_positions, keep_random
from manyone.earth.stems.modalities import ModalityStem, merge
from manyone.earth.stems.positions import grid_positions, sincos
from manyone.earth.stems.space_time import SpaceTimeStem, patch_pixels, xyz
from manyone.earth.stems.spectral import SpectralStem, side_by_side
from manyone.earth.stems.tubelet import TubeletStem, year_and_day
from manyone.errors import ManyoneError


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def test_slicing_is_zero_filling():
    """Property 2: leaving a band out and setting it to 0 are the same sum."""
    stem, x = FixedStem(6, 8, 4).double(), torch.randn(2, 6, 16, 16, dtype=torch.float64)
    kept = [0, 1, 2, 5]
    zero = x.clone()
    zero[:, [3, 4]] = 0
    assert (stem(zero) - sliced(stem, kept)(x[:, kept])).abs().max() < 1e-14
    order = [5, 2, 0, 1]
    torch.testing.assert_close(sliced(stem, order)(x[:, order]), sliced(stem, kept)(x[:, kept]))


def test_rescaling_keeps_the_size_of_equal_bands():
    stem = FixedStem(6, 8, 4)
    with torch.no_grad():
        stem.project.weight.copy_(stem.project.weight[:, :1].expand(-1, 6, -1, -1))
        x = torch.randn(2, 1, 16, 16).expand(-1, 6, -1, -1)
        torch.testing.assert_close(sliced(stem, [1, 4], rescale=True)(x[:, [1, 4]]), stem(x), rtol=1e-4, atol=1e-5)
    for wrong in ([], [6], [0, 0]):
        with pytest.raises(ManyoneError, match="different positions"):
            slice_weight(stem.project.weight, wrong)


def test_satmae_groups_see_their_own_bands_alone():
    stem, x = GroupStem(64, 8, group_width=32), torch.randn(2, 10, 32, 32)
    with torch.no_grad():
        tokens = stem(x)
        assert tokens.shape == (2, 48, 64)
        other = x.clone()
        other[:, 8:] += 1
        same = stem(other)
        assert torch.equal(same[:, :32], tokens[:, :32])
        assert not torch.isclose(same[:, 32:], tokens[:, 32:]).all()
        stem.project[2].weight.zero_()
        stem.project[2].bias.zero_()
        wanted = torch.cat([grid_positions(4, 4, 32), sincos(torch.tensor(2), 32).expand(16, -1)], -1)
        assert torch.equal(stem(x)[0, 32:], wanted)
    with pytest.raises(ManyoneError, match="x: 12 bands"):
        stem(torch.zeros(1, 12, 32, 32))


def test_satmae_masks_keep_exact_numbers():
    g = torch.Generator().manual_seed(0)
    assert int(keep_random(3, 144, 0.75, generator=g).sum()) == 3 * 144 // 4
    same = keep_random(3, 145, 0.75, same=True, generator=g)
    assert same.sum(1).tolist() == [36] * 3
    assert torch.equal(same[0], same[2])
    dates = date_positions(torch.tensor([[2020.0, 6.0, 12.0]]), 8)
    assert torch.equal(dates[0, 8:16], sincos(torch.tensor(6.0), 8))


def test_spectralgpt_tokens_are_cubes_of_three_bands():
    stem, x = SpectralStem(12, 16, 8, grid=4), torch.randn(2, 12, 32, 32)
    with torch.no_grad():
        tokens = stem(x)
        assert tokens.shape == (2, 64, 16)
        other = x.clone()
        other[:, 3:6] += 1
        changed = (stem(other) != tokens).any(-1).any(0).reshape(4, 16)
        assert changed.any(1).tolist() == [False, True, False, False]
        maps = side_by_side(tokens, 4)
        assert maps.shape == (2, 64, 4, 4)
        assert torch.equal(maps[0, 16:32, 1, 2], tokens[0, 16 + 6])
    with pytest.raises(ManyoneError, match="bands 10"):
        SpectralStem(10, 16, 8, grid=4)


def test_prithvi_has_a_term_for_what_it_knows():
    stem, x = TubeletStem(6, 32, 8), torch.randn(2, 3, 6, 16, 16)
    days = torch.tensor([[0.0, 31.0, 365.0], [18262.0, 18262.5, 18628.0]])
    lonlat = torch.tensor([[10.0, 50.0], [-80.0, 35.0]])
    with torch.no_grad():
        plain = stem(x)
        assert plain.shape == (2, 12, 32)
        dated, placed = stem(x, days), stem(x, lonlat=lonlat)
        term = sincos(torch.tensor([1970.0, 32.0]), 16).flatten()
        torch.testing.assert_close(dated[0, 4:8] - plain[0, 4:8], 0.1 * term.expand(4, -1), rtol=1e-4, atol=1e-6)
        term = sincos(torch.tensor([50.0, 10.0]), 16).flatten()
        torch.testing.assert_close(placed[0] - plain[0], 0.1 * term.expand(12, -1), rtol=1e-4, atol=1e-6)
    assert year_and_day(days).tolist() == [[[1970, 1], [1970, 32], [1971, 1]], [[2020, 1], [2020, 1], [2021, 1]]]
    assert stem.time_scale.requires_grad


def test_terramind_slices_the_bands_of_a_modality():
    stem = ModalityStem(16, 8, {"S2L2A": 12, "S1GRD": 2})
    s2, s1 = torch.randn(2, 12, 16, 16), torch.randn(2, 2, 16, 16)
    kept = [1, 2, 3]
    zero = torch.zeros_like(s2)
    zero[:, kept] = s2[:, kept]
    with torch.no_grad():
        both = stem({"S2L2A": s2, "S1GRD": s1})
        assert both.shape == (2, 8, 16)
        torch.testing.assert_close(stem({"S2L2A": s2[:, kept]}, {"S2L2A": kept}), stem({"S2L2A": zero}))
        assert torch.equal(merge(both, 2), (both[:, :4] + both[:, 4:]) / 2)
        assert torch.equal(merge(both, 2, "concat")[0, 1], torch.cat([both[0, 1], both[0, 5]]))
    with pytest.raises(ManyoneError, match="modality 'SAR': must be one of S2L2A, S1GRD"):
        stem({"SAR": s1})


def test_absent_groups_are_not_tokenised():
    stem = SpaceTimeStem({"rgb": 3, "nir": 1, "sar": 2}, 16, 4)
    rgb, sar = torch.randn(2, 3, 3, 8, 8), torch.randn(2, 2, 2, 8, 8)
    months, lonlat = torch.tensor([[0.0, 5.0, 11.0]] * 2), torch.tensor([[0.0, 0.0], [90.0, 0.0]])
    with torch.no_grad():
        tokens = stem({"rgb": rgb, "sar": sar})
        assert tokens.values.shape == (2, 3 * 4 + 2 * 4, 16)
        assert tokens.group.tolist() == [0] * 12 + [2] * 8
        assert tokens.date[:12].tolist() == [0] * 4 + [1] * 4 + [2] * 4
        assert tokens.place[4:8].tolist() == [0, 1, 2, 3]
        assert torch.equal(stem({"rgb": rgb}).values, tokens.values[:, :12])
        told = stem({"rgb": rgb}, months=months, lonlat=lonlat)
        term = sincos(torch.tensor(5.0), 16) + stem.location(torch.tensor([0.0, 1.0, 0.0]))
        torch.testing.assert_close(told.values[1, 4] - tokens.values[1, 4], term, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(xyz(torch.tensor([[180.0, 0.0], [0.0, 90.0]])), torch.tensor([[-1.0, 0, 0], [0, 0, 1]]))
    assert patch_pixels(40, 10, (64, 64)) == 4
    with pytest.raises(ManyoneError, match="patch of 50 m"):
        patch_pixels(50, 20, (64, 64))
    with pytest.raises(ManyoneError, match="group 'dem'"):
        stem({"dem": rgb})
