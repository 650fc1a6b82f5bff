"""Random convolutional features."""

import pytest
import torch

from manyone.data.rasters.bands import Band
from manyone.earth.encoders.rcf import gaussian_features, patch_features
from manyone.earth.spec import Context
from manyone.errors import ManyoneError

BANDS = tuple(Band(str(i), "nir", 800.0 + i) for i in range(3))


def test_each_filter_gives_its_positive_and_its_negative_part():
    encoder = gaussian_features(BANDS, features=8, bias=-0.5, seed=1)
    x = torch.randn(2, 3, 5, 6)
    inner = torch.nn.functional.conv2d(x, encoder.filters) - 0.5
    padded = torch.nn.functional.conv2d(torch.nn.functional.pad(x, (1,) * 4, mode="replicate"), encoder.filters) - 0.5
    torch.testing.assert_close(padded[:, :, 1:-1, 1:-1], inner)
    vectors = encoder.vectors(x, Context())["mean"]
    torch.testing.assert_close(vectors[:, :4], padded.clamp(min=0).mean((2, 3)))
    # ReLU(c) - ReLU(-c) = c
    torch.testing.assert_close(vectors[:, :4] - vectors[:, 4:], padded.mean((2, 3)), atol=1e-6, rtol=1e-5)


def test_filters_depend_on_the_seed_alone():
    one, same, other = (gaussian_features(BANDS, features=8, seed=s) for s in (0, 0, 1))
    assert one.digest() == same.digest() != other.digest()


def test_patches_of_the_images_become_white_filters():
    generator = torch.Generator().manual_seed(0)
    smooth = torch.nn.functional.avg_pool2d(torch.randn(1, 3, 60, 60, generator=generator), 5, 1)[0]
    filters = patch_features([smooth, smooth[:, :20]], BANDS, features=2000, seed=0).filters.flatten(1)
    raw = smooth.unfold(1, 3, 1).unfold(2, 3, 1).permute(1, 2, 0, 3, 4).reshape(-1, 27)

    def spread(x):  # of the variances along the principal directions; a few directions are nearly empty
        values = torch.linalg.eigvalsh(torch.cov(x.T))[7:]
        return float(values.max() / values.min())

    assert spread(filters) < spread(raw) / 20


def test_mosaiks_refuses_images_without_patches():
    with pytest.raises(ManyoneError, match="3 x 3 and more"):
        patch_features([torch.randn(3, 2, 5)], BANDS)
    with pytest.raises(ManyoneError, match="name them"):
        gaussian_features(None)
