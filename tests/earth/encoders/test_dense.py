"""Features of single pixels of a scene against a plain loop over pixels and windows."""

import numpy as np
import pytest
import torch
from tests.reference.earth_encoders import dense

from manyone.data.rasters.bands import Band
from manyone.data.rasters.scenes import ArrayScene
from manyone.earth.encoders.dense import embed_pixels, window_starts
from manyone.earth.encoders.raw import RawWindows
from manyone.earth.encoders.vit import VitSize, random_vit
from manyone.earth.spec import Context
from manyone.errors import ManyoneError

BANDS = tuple(Band(str(i), "nir", 800.0 + i) for i in range(3))
IMAGE = np.random.default_rng(0).normal(size=(3, 21, 34)).astype(np.float32)
SCENE = ArrayScene("scene", BANDS, IMAGE)
PIXELS = np.random.default_rng(1).permutation(21 * 34)[:60]
AT = np.stack([PIXELS // 34, PIXELS % 34], 1)
VIT = random_vit(BANDS, size=VitSize(patch=2, width=8, depth=1, heads=2))


class Counting:
    """A scene that notes what is read of it."""

    def __init__(self, scene):
        self.scene, self.windows = scene, []
        self.name, self.bands, self.shape, self.grid = scene.name, scene.bands, scene.shape, None
        self.gsd_m = self.time = None

    def read(self, window=None):
        self.windows.append(window)
        return self.scene.read(window)


@pytest.mark.parametrize(("size", "stride"), [(8, 4), (8, 8), (10, 3)])
def test_it_equals_a_loop_over_pixels_and_windows(size, stride):
    def encode(window):
        return VIT.maps(torch.from_numpy(window)[None], Context())[0][0].numpy()

    expected = dense(encode, IMAGE, AT, size, stride, 2)
    found = embed_pixels(VIT, SCENE, AT, Context(), size=size, stride=stride)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_little_memory_gives_the_same():
    plenty = embed_pixels(VIT, SCENE, AT, Context(), size=8)
    little = embed_pixels(VIT, SCENE, AT, Context(), size=8, memory_mb=0.01)
    np.testing.assert_allclose(plenty, little, atol=1e-6)
    with pytest.raises(ManyoneError, match="ask for fewer pixels at a time or raise it"):
        embed_pixels(VIT, SCENE, AT, Context(), size=8, memory_mb=0.001)


def test_only_what_is_asked_for_is_read():
    counting, steps = Counting(SCENE), []
    embed_pixels(VIT, counting, [[0, 0], [0, 33]], Context(), size=8, stride=8, progress=lambda *a: steps.append(a))
    assert {(w.row, w.column, w.height, w.width) for w in counting.windows} == {(0, 0, 8, 8), (0, 26, 8, 8)}
    assert steps[-1] == (2, 2)


def test_a_scene_smaller_than_a_window_is_read_whole():
    raw = embed_pixels(RawWindows(1), SCENE, AT, Context(), size=64)
    np.testing.assert_array_equal(raw, IMAGE[:, AT[:, 0], AT[:, 1]].T)


def test_pixels_that_are_not_valid_are_zero_unless_prepared():
    image = IMAGE.copy()
    image[1, 3, 4] = np.nan
    scene = ArrayScene("scene", BANDS, image)
    assert embed_pixels(RawWindows(1), scene, [[3, 4]], Context())[0, 1] == 0

    def prepare(pixels, valid):
        return torch.from_numpy(np.where(valid, 2 * pixels, -1).astype(np.float32))

    found = embed_pixels(RawWindows(1), scene, [[3, 4]], Context(), prepare=prepare)
    np.testing.assert_allclose(found[0], [2 * image[0, 3, 4], -1, 2 * image[2, 3, 4]])


def test_windows_reach_the_end():
    assert window_starts(21, 8, 4) == [0, 4, 8, 12, 13]
    assert window_starts(16, 8, 4) == [0, 4, 8]
    assert window_starts(5, 8, 4) == [0]


def test_pixels_outside_are_refused():
    with pytest.raises(ManyoneError, match=r"pixel \(21, 0\) is outside a scene of 21 x 34"):
        embed_pixels(VIT, SCENE, [[0, 0], [21, 0]], Context())
    with pytest.raises(ManyoneError, match="stride = 9"):
        embed_pixels(VIT, SCENE, AT, Context(), size=8, stride=9)
