"""The wave stem: what it computes, and what must not change its result."""

import numpy as np
import pytest
import torch
from tests.reference.earth_encoders import wave_tokens

from manyone.earth.stems.wave import WaveStem, encode_wavelengths
from manyone.errors import ManyoneError

LAM = torch.tensor([492.4, 559.8, 664.6, 832.8, 1613.7])


@pytest.fixture
def stem():
    torch.manual_seed(0)
    return WaveStem(patch=2, width=16, hidden=24)


def test_it_is_the_mean_over_bands_of_each_patch_times_its_own_kernel(stem):
    x = torch.randn(1, 5, 4, 6)
    first, second = ((m.weight.detach().double().numpy(), m.bias.detach().double().numpy()) for m in stem.mlp[::2])
    expected = wave_tokens(x[0].numpy(), LAM.numpy(), first, second, stem.bias.detach().numpy(), 2)
    np.testing.assert_allclose(stem(x, LAM)[0].detach().numpy(), expected, atol=2e-5)


def test_permuting_bands_with_their_wavelengths_changes_nothing(stem):
    x, order = torch.randn(2, 5, 8, 4), torch.tensor([3, 0, 4, 2, 1])
    assert (stem(x, LAM) - stem(x[:, order], LAM[order])).abs().max() < 1e-6


def test_giving_every_band_twice_changes_nothing(stem):
    x = torch.randn(2, 5, 8, 4)
    assert (stem(x, LAM) - stem(x.repeat(1, 2, 1, 1), LAM.repeat(2))).abs().max() < 1e-6


def test_another_wavelength_changes_the_tokens(stem):
    x = torch.randn(1, 5, 4, 4)
    assert (stem(x, LAM) - stem(x, LAM + 30)).abs().max() > 1e-3


def test_the_encoding_has_unit_circles_and_full_precision():
    e = encode_wavelengths(torch.tensor([2500.0]))
    assert e.dtype == torch.float64
    torch.testing.assert_close(e[:, :32] ** 2 + e[:, 32:] ** 2, torch.ones(1, 32, dtype=torch.float64))


def test_what_does_not_fit_is_refused(stem):
    with pytest.raises(ManyoneError, match="give one a band"):
        stem(torch.randn(1, 5, 4, 4), LAM[:4])
    with pytest.raises(ManyoneError, match="a band has none"):
        stem(torch.randn(1, 2, 4, 4), torch.tensor([500.0, float("nan")]))
    with pytest.raises(ManyoneError, match="multiples of the patch"):
        stem(torch.randn(1, 5, 5, 4), LAM)
