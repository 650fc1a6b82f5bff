"""Models of maps: what is saved comes back, also with an encoder that the model names alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manyone.data.rasters.bands import Band
from manyone.earth import artefact
from manyone.earth.embedding import How
from manyone.earth.encoders.loading import load_encoder
from manyone.earth.mapping import linear_classifier
from manyone.earth.sensors.layer import fit, plan
from manyone.errors import ManyoneError

RGB = tuple(Band(n, c, lam, 60.0, unit="refl") for n, c, lam in [("R", "red", 665.0), ("G", "green", 560.0),
                                                               ("B", "blue", 490.0)])  # fmt: skip


def saved(folder, id):
    """A model of maps with random weights of ``id``."""
    encoder = load_encoder(id, "random", bands=None if id.startswith("eff") else RGB)
    made = fit(plan(RGB, encoder.spec), [(torch.rand(4, 3, 8, 8), None)])
    width = encoder.spec.width
    draws = np.random.default_rng(0).normal(size=(20, width)).astype(np.float32)
    classifier = linear_classifier(draws, np.arange(20) % 2, ("field", "wood"), 1.0, 1.0)
    model = artefact.MapModel(encoder, made, classifier, How(), id, "random")
    artefact.save(model, folder, "# a map\n")
    return model


@pytest.mark.parametrize("id", ["raw5x5", "rcf", "vit-random", "cnn-supervised", "efficientnet-lite0"])
def test_what_is_saved_is_read_again(id, tmp_path):
    model = saved(tmp_path, id)
    found = artefact.load(tmp_path)
    assert found.encoder.digest() == model.encoder.digest()
    assert found.plan.key() == model.plan.key()
    assert found.classifier.classes == ("field", "wood")


def test_other_weights_than_then_are_said(tmp_path, monkeypatch):
    saved(tmp_path, "rcf")
    monkeypatch.setattr(artefact, "load_encoder", lambda *a, **w: load_encoder("rcf", "random", bands=RGB, seed=9))
    with pytest.raises(ManyoneError, match="rcf has other weights now"):
        artefact.load(tmp_path)
