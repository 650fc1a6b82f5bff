import pytest
import torch

from manyone.behavior.artefact import Distilled, Frame
from manyone.behavior.inner import InnerLoop
from manyone.behavior.students.network import StudentSpec


def frame(environment=None, states=5, actions=2, choices=0, horizon=30, reference=None):
    low, high = (None, None) if choices else (-torch.ones(actions), torch.ones(actions))
    mean, deviation = torch.linspace(-1, 1, states), torch.linspace(0.5, 2, states)
    return Frame("walks", environment, mean, deviation, low, high, choices, horizon, reference)


def distilled_set(own, size=12, seed=0, **spec):
    draw = torch.Generator().manual_seed(seed)
    states = torch.randn(size, own.state_dim, generator=draw)
    labels = torch.randn(size, own.action_dim, generator=draw)
    kind = StudentSpec(**{"layers": 3, "width": 16, "output": "softmax" if own.choices else "tanh"} | spec)
    return Distilled(own, states, labels.softmax(1) if own.choices else labels, kind, InnerLoop(steps=6, lr=0.3))


@pytest.fixture
def walks():
    return distilled_set(frame())
