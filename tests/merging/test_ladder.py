"""The entropy ladder of base, merged model and experts."""

from __future__ import annotations

import pytest
import torch

from manyone.merging.heads import OwnLogits
from manyone.merging.ladder import Rung, entropy_ladder, ladder_warning


def sure(scale):
    """A model whose logits on [n, 3] inputs are the inputs times ``scale``."""
    return lambda inputs, task: scale * inputs


def test_the_ladder_is_the_mean_entropy_of_each_models_predictions():
    inputs = {t: torch.randn(40, 3, generator=torch.Generator().manual_seed(k)) for k, t in enumerate("ab")}
    heads = {t: OwnLogits() for t in inputs}
    ladder = entropy_ladder(sure(0.5), sure(2), {t: sure(9) for t in inputs}, heads, inputs)
    for task, rung in ladder.items():
        for scale, value in ((0.5, rung.base), (2, rung.merged), (9, rung.expert)):
            p = (scale * inputs[task]).softmax(1)
            assert value == pytest.approx(float(-(p * p.log()).sum(1).mean()), abs=1e-5)
        assert rung.in_order
    assert ladder_warning(ladder) is None


def test_a_base_that_is_surer_than_the_merged_model_is_said_with_the_ways_out():
    words = ladder_warning({"pets": Rung(0.2, 0.5, 0.1), "signs": Rung(0.9, 0.3, 0.4), "cars": Rung(3, 2, 1)})
    assert words is not None
    assert "the base is surer than the merged model in pets;" in words
    assert "the expert is no surer than the merged model in signs:" in words
    assert "cars" not in words
    for way in ("label smoothing", "information-maximisation", "expert-kl"):
        assert way in words
