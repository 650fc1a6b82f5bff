"""Shapes of the heads, the neck's scales, training that keeps the best state."""

import numpy as np
import pytest
import torch
from torch import nn

from manyone.earth.heads.table import HEADS, make_head
from manyone.earth.heads.train import PANGAEA, Training, learning_rate_factor, train
from manyone.earth.heads.upernet import Neck, UPerNet
from manyone.errors import ManyoneError


@pytest.mark.parametrize("name", HEADS)
def test_logits_have_the_target_s_size_and_reach_every_map(name):
    maps = [torch.randn(2, width, 6, 6, requires_grad=True) for width in (8, 8, 8, 8)]
    head = make_head(name, [8] * 4, 3)
    out = head(maps, (48, 40))
    assert out.shape == (2, 3, 48, 40)
    out.square().mean().backward()
    assert all(float(m.grad.abs().sum()) > 0 for m in maps)
    assert all(p.grad is not None for p in head.parameters())


def test_heads_take_one_layer_or_layers_of_several_sizes():
    maps = [torch.randn(2, 4, 12, 12), torch.randn(2, 6, 6, 6), torch.randn(2, 8, 3, 3)]
    for name in ("linear", "conv", "fpn"):
        assert make_head(name, [4, 6, 8], 5)(maps, (24, 24)).shape == (2, 5, 24, 24)
        assert make_head(name, [4], 5)(maps[:1], (24, 24)).shape == (2, 5, 24, 24)
    with pytest.raises(ManyoneError, match="3 layers"):
        make_head("upernet", [4, 6, 8], 5)
    with pytest.raises(ManyoneError, match="there are linear, conv, fpn, upernet"):
        make_head("unet", [4], 5)


def test_the_linear_head_is_linear_in_tokens():
    head = make_head("linear", [4], 3).eval()
    x, y = torch.randn(1, 4, 5, 5), torch.randn(1, 4, 5, 5)
    mixed = head([0.3 * x + 0.7 * y], (10, 10))
    assert torch.allclose(mixed, 0.3 * head([x], (10, 10)) + 0.7 * head([y], (10, 10)), atol=1e-5)


def test_upernet_is_the_published_one():
    neck = Neck([8] * 4)
    sizes = [tuple(m.shape[-2:]) for m in neck([torch.randn(2, 8, 14, 14)] * 4)]
    assert sizes == [(56, 56), (28, 28), (14, 14), (7, 7)]
    head = UPerNet([768] * 4, 7)
    pooled = [block[0] for block in head.pooled]
    assert [c.weight.shape for c in pooled] == [(512, 768, 1, 1)] * 4
    assert head.bottleneck[0].weight.shape == (512, 768 + 4 * 512, 3, 3)
    assert head.fuse[0].weight.shape == (512, 2048, 3, 3)
    assert head.dropout.p == 0.1
    assert head.classify.weight.shape == (7, 512, 1, 1)
    pyramid = [torch.randn(2, w, s, s) for w, s in ((8, 32), (16, 16), (32, 8), (64, 4))]
    assert UPerNet([8, 16, 32, 64], 3, channels=16, pyramid=True)(pyramid, (128, 128)).shape == (2, 3, 128, 128)


def test_the_best_state_is_kept():
    module, looks = nn.Linear(1, 1, bias=False), iter([0.1, 0.9, 0.3, 0.2])
    states = []

    def quality():
        states.append(module.weight.item())
        return next(looks)

    settings = Training(epochs=4, batch_size=2, look_every=1, lr=0.1)
    best = train(module, lambda at: module(torch.ones(1, 1)).square().sum(), np.arange(4), quality, settings)
    assert best == 0.9
    assert module.weight.item() == states[1]
    with pytest.raises(ManyoneError, match="use a smaller lr"):
        train(module, lambda at: module.weight.sum() * float("nan"), np.arange(4), quality, settings)
    with pytest.raises(ManyoneError, match="must be at least 1"):
        train(module, lambda at: module.weight.sum(), np.arange(4), quality, Training(epochs=0))


def test_schedules():
    cosine = [learning_rate_factor(s, 100, Training()) for s in range(100)]
    assert cosine[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert cosine[5] == 1
    assert (np.diff(cosine[5:]) < 0).all()
    assert cosine[99] < 1e-3
    steps = [learning_rate_factor(s, 100, PANGAEA) for s in range(100)]
    assert (steps[59], steps[60], steps[89], steps[90]) == (1, 0.1, 0.1, 0.01)
