import dataclasses

import numpy as np
import pytest
import torch
from tests.earth.small_scenes import BANDS, labelled

from manyone.data.rasters.scenes import Chips, Window
from manyone.earth.embedding import How, context_of, embed, looks, pooling_of, preparing, ready, side_of, sliding
from manyone.earth.encoders.dense import embed_area, embed_pixels
from manyone.earth.encoders.loading import load_encoder
from manyone.earth.samples import Sampling, draw
from manyone.earth.spec import ModelSpec
from manyone.earth.store import Store
from manyone.errors import ManyoneError


@pytest.fixture(scope="module")
def samples():
    return draw(labelled(), Sampling(block=8, train=120, test=80))


def test_the_second_time_costs_no_pass_and_other_options_are_another_entry(samples, tmp_path):
    store, how = Store(tmp_path), How(window=16)
    one = ready("raw3x3", samples, how)
    first, again = (embed(one, samples, how, store) for _ in range(2))
    assert first.forward_calls > 0
    assert again.forward_calls == 0
    assert np.array_equal(first.array("global_pixel"), again.array("global_pixel"))
    other = dataclasses.replace(how, layer=dataclasses.replace(how.layer, normalise="none"))
    assert embed(ready("raw3x3", samples, other), samples, other, store).forward_calls > 0


def test_raw_windows_are_the_normalised_pixels_around(samples, tmp_path):
    how = How()
    one = ready("raw3x3", samples, how)
    found = embed(one, samples, how, Store(tmp_path)).array("global_pixel")
    train = samples.pixels[samples.splits.train]
    values = samples.source.scenes[0].pixels
    own = values[:, train[:, 1], train[:, 2]]
    normal = (values - own.mean(1)[:, None, None]) / own.std(1)[:, None, None]
    normal = np.where(np.isnan(values), 0, normal)  # of invalid pixels
    inside = [(i, r, c) for i, (_, r, c) in enumerate(samples.pixels.tolist()) if 0 < r < 47 and 0 < c < 47]
    for i, r, c in inside[:60]:
        window = normal[:, r - 1 : r + 2, c - 1 : c + 2].reshape(-1)
        assert np.allclose(found[i], window, atol=5e-3), (r, c)


@pytest.mark.parametrize("model", ["raw5x5", "vit-random"])
def test_an_area_has_the_vectors_of_its_pixels(samples, model):
    how = How(window=16)
    one = ready(model, samples, how)
    scene = samples.source.scenes[0]
    over, context = sliding(one.encoder.spec, how, scene.shape), context_of(one.plan, 10.0)
    area = Window(10, 5, 13, 21)
    words = {"size": over.size, "stride": over.stride, "margin": over.margin, "prepare": preparing(one.plan)}
    dense = embed_area(one.encoder, scene, area, context, **words)
    at = np.array([(r, c) for r in range(10, 23) for c in range(5, 26)])
    single = embed_pixels(one.encoder, scene, at, context, **words)
    assert torch.allclose(dense.flatten(1).T, torch.from_numpy(single), atol=1e-5)


def test_a_margin_makes_windows_invisible():
    scene = labelled(missing=False).scenes[0]
    encoder = load_encoder("raw5x5", bands=BANDS)
    at = np.array([(r, c) for r in range(48) for c in range(48)])
    small = embed_pixels(encoder, scene, at, None, size=16, stride=8, margin=4)
    whole = embed_pixels(encoder, scene, at, None, size=48, stride=48)
    assert np.allclose(small, whole, atol=1e-6)
    with pytest.raises(ManyoneError, match="stride"):
        embed_pixels(encoder, scene, at, None, size=16, stride=9, margin=4)


def test_chips_have_every_pooling(tmp_path):
    pixels = np.random.default_rng(0).random((30, 3, 6, 6), np.float32)
    source = Chips("chips", BANDS, pixels, "class", np.arange(30) % 2, ("a", "b"))
    samples = draw(source, Sampling())
    how = How()
    one = ready("vit-random", samples, how)
    found = embed(one, samples, how, Store(tmp_path))
    assert set(found.names) == {"global_mean", "global_max"}
    assert pooling_of(one.encoder.spec, found) == "global_mean"


@pytest.mark.parametrize(
    ("spec", "side", "wanted"),
    [((1, None), 3, None), ((2, None), 3, 16), ((2, None), 32, None), ((32, None), 32, 64), ((16, 224), 32, 224)],
)
def test_small_images_are_enlarged_for_patches(spec, side, wanted):
    assert side_of(ModelSpec("m", None, 8, patch=spec[0], size=spec[1]), side) == wanted


def test_what_does_not_fit_is_one_line(samples):
    with pytest.raises(ManyoneError, match="encodes places"):
        ready("lonlat", samples, How())
    with pytest.raises(ManyoneError, match="blue"):
        ready("efficientnet-lite0", samples, How(), "random")


def test_of_a_large_scene_some_squares_are_learned_from():
    assert looks((100, 50)) == [Window(0, 0, 100, 50)]
    squares = looks((20_000, 4_000))
    assert len(squares) == 16
    assert all(w.row + w.height <= 20_000 and w.column + w.width <= 4_000 for w in squares)
    assert {(w.height, w.width) for w in squares} == {(512, 512)}
