"""Fine-tuning: layers learn at rates of their own, the given encoder stays, all kinds of targets."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from manyone.earth.heads.train import Training
from manyone.earth.protocols.fine_tune import FineTuned, fine_tune, layer_groups
from manyone.earth.spec import Context
from manyone.earth.splits import random_split
from manyone.errors import ManyoneError


class Small(nn.Module):
    """Patches, two blocks, a norm: names as those of vision transformers."""

    def __init__(self):
        super().__init__()
        self.patch_embed = nn.Conv2d(2, 8, 4, 4)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(8, 8), nn.GELU()) for _ in range(2)])
        self.norm = nn.LayerNorm(8)

    def vectors(self, pixels, context):
        x = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = x + block(x)
        return {"mean": self.norm(x).mean(1)}


def task(n=120):
    r = np.random.default_rng(0)
    y = r.integers(2, size=n)
    x = r.normal(size=(n, 2, 8, 8)).astype(np.float32)
    x[:, 0] *= (1 + 4 * y)[:, None, None]  # a difference of variance: not linear in the pixels
    return torch.from_numpy(x), y, random_split(n)


def test_rates_fall_with_depth():
    module = FineTuned(Small(), 8, 3, "mean")
    scale = {id(p): (g["scale"], g["weight_decay"]) for g in layer_groups(module, 0.5, 0.05) for p in g["params"]}
    expected = {
        "encoder.patch_embed.weight": (0.125, 0.05), "encoder.patch_embed.bias": (0.125, 0.0),
        "encoder.blocks.0.0.weight": (0.25, 0.05), "encoder.blocks.1.0.weight": (0.5, 0.05),
        "encoder.norm.weight": (0.5, 0.0), "norm.weight": (1.0, 0.0), "classify.weight": (1.0, 0.05),
    }  # fmt: skip
    named = dict(module.named_parameters())
    assert {name: scale[id(named[name])] for name in expected} == expected
    assert len(scale) == len(named)


@pytest.mark.parametrize("kind", ["class", "labels", "value"])
def test_learns_and_leaves_the_encoder_alone(kind):
    torch.manual_seed(0)
    x, y, splits = task()
    targets = {"class": y, "labels": np.stack([y == 1, y == 0], 1), "value": 50.0 + 10 * y}[kind]
    encoder = Small()
    before = copy.deepcopy(encoder.state_dict())
    settings = Training(epochs=25, batch_size=24, look_every=3)
    tuned = fine_tune(encoder, lambda at: (x[at], Context()), targets, splits, rates=(1e-5, 1e-2), settings=settings)
    assert tuned.scores.values[{"class": "accuracy", "labels": "micro_map", "value": "r2"}[kind]] > 0.6
    assert tuned.scores.chosen["lr"] == 1e-2
    assert all(torch.equal(v, before[k]) for k, v in encoder.state_dict().items())
    assert not torch.equal(tuned.module.encoder.patch_embed.weight, encoder.patch_embed.weight)


def test_refusals():
    x, y, splits = task(40)
    prepared = lambda at: (x[at], Context())  # noqa: E731
    with pytest.raises(ManyoneError, match="use mean"):
        fine_tune(Small(), prepared, y, splits, pooling="cls")
    with pytest.raises(ManyoneError, match="layer_decay 0"):
        fine_tune(Small(), prepared, y, splits, layer_decay=0)
