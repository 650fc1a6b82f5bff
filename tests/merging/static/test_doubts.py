"""Experts that are probably not what was meant, and values of the wrong kind: one clear line each."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from manyone.errors import ManyoneError
from manyone.merging.static import methods as static


@pytest.fixture
def models():
    g = torch.Generator().manual_seed(0)
    return [{"fc.weight": torch.randn(6, 4, generator=g), "norm.weight": torch.ones(4)} for _ in range(3)]


def copy(weights):
    return {name: value.clone() for name, value in weights.items()}


@pytest.mark.parametrize(
    ("method", "chosen", "line"),
    [
        ("average", (1,), "one expert only, expert 1: average of one is that expert"),
        ("task-arithmetic", (1, 2, 1), "expert 3: has the same weights as expert 1, which counts twice"),
        ("ties", (1, 0), "expert 2: is the base itself; its task vector is zero and adds nothing"),
        ("average", (1, 0), "expert 2: is the base itself; it draws the result to the base"),
    ],
)
def test_what_the_user_should_know(models, caplog, method, chosen, line):
    assert static.merge(method, models[0], [copy(models[k]) for k in chosen])
    assert caplog.messages == [line]


@pytest.mark.parametrize(
    ("method", "chosen"), [("task-arithmetic", (1,)), ("ties", (1,)), ("slerp", (0, 1)), ("average", (1, 2))]
)
def test_what_makes_sense_is_not_remarked(models, caplog, method, chosen):
    static.merge(method, models[0], [copy(models[k]) for k in chosen])
    assert not caplog.messages


def test_a_direction_that_is_not_there_is_refused(models):
    with pytest.raises(ManyoneError, match=r"expert 2: is the base itself: its task vector is zero and has no direct"):
        static.merge("slerp", models[0], [models[1], copy(models[0])], space="task-vectors")
    with pytest.raises(ManyoneError, match=r"expert 1: is the base itself: its task vector is zero and has no angle"):
        static.merge("model-stock", models[0], [copy(models[0]), models[1]])


def test_values_of_the_wrong_kind_are_named(models):
    with pytest.raises(ManyoneError, match=r"scale = '0\.3': must be a number, not a str"):
        static.merge("task-arithmetic", models[0], models[1:], scale="0.3")
    with pytest.raises(ManyoneError, match="base: a int is no model"):
        static.merge("average", 3, models[1:])
    with pytest.raises(ManyoneError, match="expert: give a list of models"):
        static.merge("average", models[0], nn.Linear(2, 2))


def test_modules_are_models():
    base, *experts = (nn.Linear(3, 2) for _ in range(3))
    found = static.average(base, experts)
    assert torch.allclose(found["weight"], (experts[0].weight + experts[1].weight) / 2)
