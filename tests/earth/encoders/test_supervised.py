"""The supervised baseline learns from labels of train and val alone, and is dense what it is by windows."""

import numpy as np
import pytest
import torch
from tests.earth.small_scenes import labelled

from manyone.data.rasters.scenes import Chips
from manyone.earth import artefact
from manyone.earth.embedding import How, embed, ready
from manyone.earth.encoders.cnn import CnnSize
from manyone.earth.encoders.loading import load_encoder
from manyone.earth.encoders.supervised import SupervisedOptions, train_supervised
from manyone.earth.mapping import linear_classifier
from manyone.earth.names import SUPERVISED
from manyone.earth.protocols.linear import linear_probe
from manyone.earth.samples import Sampling, draw
from manyone.earth.spec import Context
from manyone.earth.splits import random_split
from manyone.earth.store import Store
from manyone.errors import ManyoneError

SMALL = SupervisedOptions(CnnSize((8, 8, 16)), updates=60, batch_size=16, lr=1e-2)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MANYONE_CACHE", str(tmp_path / "cache"))


def rough_and_smooth(n=240):
    """Windows of one level or of noise: the centre alone does not tell which."""
    draws = np.random.default_rng(0)
    targets = draws.integers(0, 2, n)
    level = np.broadcast_to(draws.standard_normal((n, 2, 1, 1)), (n, 2, 7, 7))
    noise = draws.standard_normal((n, 2, 7, 7))
    return torch.from_numpy(np.where(targets[:, None, None, None] == 1, noise, level).astype(np.float32)), targets


@pytest.mark.parametrize("whole", [False, True])
def test_it_learns_what_no_single_pixel_tells(whole):
    pixels, targets = rough_and_smooth()
    splits = random_split(len(targets), seed=1)
    encoder = train_supervised(pixels, targets, splits, SMALL, whole=whole)
    vectors = encoder.vectors(pixels, Context())["mean"].numpy()
    found = linear_probe(vectors, targets, splits).values["accuracy"]
    flat = linear_probe(pixels[:, :, 3, 3].numpy(), targets, splits).values["accuracy"]
    assert found > 0.9
    assert flat < 0.75


def test_test_labels_are_not_looked_at_and_the_second_time_is_read():
    pixels, targets = rough_and_smooth()
    splits = random_split(len(targets), seed=1)
    first = train_supervised(pixels, targets, splits, SMALL, whole=False)
    changed = targets.copy()
    changed[splits.test] = 1 - changed[splits.test]
    assert train_supervised(pixels, changed, splits, SMALL, whole=False).digest() == first.digest()
    changed = targets.copy()
    changed[splits.val] = 1 - changed[splits.val]
    assert train_supervised(pixels, changed, splits, SMALL, whole=False).digest() != first.digest()


@pytest.mark.parametrize("targets", [np.random.default_rng(0).random((60, 3)) > 0.5, np.linspace(0, 1, 60)])
def test_label_vectors_and_numbers_are_learned_too(targets):
    pixels = torch.randn(60, 2, 7, 7)
    encoder = train_supervised(pixels, targets, random_split(60), SMALL, whole=False)
    assert encoder.spec.trained
    assert encoder.vectors(pixels, Context())["mean"].shape == (60, 16)


def test_dense_features_are_those_of_the_windows_it_learned_from(tmp_path):
    samples = draw(labelled(missing=False), Sampling(block=8, train=120, test=80))
    how = How()
    one = ready(SUPERVISED, samples, how)
    assert "labels" in one.notes[0]
    dense = embed(one, samples, how, Store(tmp_path)).array("global_pixel")
    values = torch.from_numpy(samples.source.scenes[0].pixels)[None]
    padded = torch.nn.functional.pad(one.plan.apply(values)[0], (3,) * 4, mode="replicate")[0]
    for at, (_, r, c) in enumerate(samples.pixels[:40].tolist()):
        window = padded[None, :, r : r + 7, c : c + 7]
        own = one.encoder.network(window)[0, :, 0, 0].detach().numpy()
        assert np.allclose(dense[at], own, atol=5e-3, rtol=5e-3), (r, c)


def test_chips_of_any_size_and_a_model_of_it_that_is_read_again(tmp_path):
    draws = np.random.default_rng(0)
    scene = labelled()
    for side in (3, 40):
        source = Chips("chips", scene.bands, draws.random((40, 3, side, side), np.float32), "class",
                       np.arange(40) % 2, ("a", "b"))  # fmt: skip
        samples = draw(source, Sampling())
        one = ready(SUPERVISED, samples, How())
        features = embed(one, samples, How(), Store(tmp_path)).array("global_mean")
        assert features.shape == (40, 128)
    classifier = linear_classifier(np.asarray(features), samples.targets, samples.classes, 1.0, 1.0)
    artefact.save(
        artefact.MapModel(one.encoder, one.plan, classifier, How(), SUPERVISED, "default"), tmp_path / "m", "#"
    )
    again = artefact.load(tmp_path / "m")
    assert again.encoder.digest() == one.encoder.digest()
    x = torch.rand(1, 3, 9, 9)
    assert torch.equal(again.encoder.maps(x, Context())[0], one.encoder.maps(x, Context())[0])


def test_alone_it_has_no_labels():
    with pytest.raises(ManyoneError, match="learns from labels"):
        load_encoder(SUPERVISED, bands=labelled().bands)
    with pytest.raises(ManyoneError, match="one for each"):
        train_supervised(torch.zeros(3, 2, 7, 7), np.arange(4), random_split(4), whole=False)
