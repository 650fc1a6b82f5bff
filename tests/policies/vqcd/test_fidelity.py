"""Policies that act through alignments, against the formulas by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from manyone.envs.single.make import BODIES
from manyone.errors import ManyoneError
from manyone.evaluation.rollouts import Episode
from manyone.policies.tasks import TaskTable
from manyone.policies.vqcd.alignment import feature_difference, make_alignment
from manyone.policies.vqcd.fidelity import WAYS, ThroughAlignments, expert_of, mean_difference
from manyone.randomness import generator_for


class Linear:
    """a = s W, of any width."""

    def __init__(self, states: int, actions: int) -> None:
        self.matrix = torch.randn(states, actions, generator=generator_for(states, "expert")).numpy() * 0.3

    def actions(self, observations):
        return observations @ self.matrix


EXPERTS = {"near": Linear(4, 2), "far": Linear(3, 1)}
TABLE = TaskTable(
    names=("near", "far"),
    mean=torch.tensor([[1.0, -1.0, 0.5, 2.0], [0.0, 3.0, 1.0, 0.0]]),
    deviation=torch.tensor([[2.0, 1.0, 0.5, 1.0], [1.0, 2.0, 4.0, 1.0]]),
    scale=torch.ones(2),
    target=torch.ones(2),
    prompt=None,
    bounds=torch.tensor([[[-2.0, -1.0], [2.0, 3.0]], [[-1.0, -1.0], [0.0, 1.0]]]),
    widths=torch.tensor([[4, 2], [3, 1]]),
)


def pairs(kind: str):
    return [
        tuple(make_alignment(kind, dim, latents=3, codes=64, hidden=8, padded_width=5) for dim in dims)
        for dims in ((4, 2), (3, 1))
    ]


def acted(kind: str, way: str) -> np.ndarray:
    policy = ThroughAlignments(EXPERTS, TABLE, pairs(kind), way)
    policy.start([Episode("far"), Episode("near"), Episode("far")])
    return policy.act(np.array([0, 1, 2]), seen())


def seen() -> np.ndarray:
    found = torch.randn(3, 4, generator=generator_for(0, "seen")).numpy()
    found[[0, 2], 3] = 0  # padding
    return found


def expected(way: str, kind: str) -> np.ndarray:
    """Row by row, by the formulas."""
    rows = []
    for row, task in zip(seen(), (1, 0, 1), strict=True):
        states, actions = pairs(kind)[task]
        mean, deviation = TABLE.mean[task, : states.dim], TABLE.deviation[task, : states.dim]
        low, high = TABLE.bounds[task][:, : actions.dim]
        own = torch.from_numpy(row[: states.dim])
        if way == "both":
            own = states.restored(states.aligned((own - mean) / deviation)).detach() * deviation + mean
        action = torch.from_numpy(EXPERTS[TABLE.names[task]].actions(own.numpy()))
        if way != "raw":
            unit = (action - (low + high) / 2) / ((high - low) / 2)
            action = actions.restored(actions.aligned(unit)).detach() * (high - low) / 2 + (low + high) / 2
            action = action.clamp(low, high)
        rows.append(np.pad(action.numpy(), (0, 2 - actions.dim)))
    return np.stack(rows)


@pytest.mark.parametrize("kind", ["vq", "ae"])
@pytest.mark.parametrize("way", WAYS)
def test_what_acts_is_the_expert_behind_the_alignments(kind, way):
    assert np.allclose(acted(kind, way), expected(way, kind), atol=1e-6)


def test_what_loses_nothing_changes_nothing_but_actions_beyond_the_bounds():
    raw = acted("padding", "raw")
    low, high = TABLE.bounds[:, 0], TABLE.bounds[:, 1]
    inside = np.stack([raw[i].clip(low[t], high[t]) for i, t in enumerate((1, 0, 1))])
    inside[[0, 2], 1] = 0
    for way in ("actions", "both"):
        assert np.allclose(acted("padding", way), inside, atol=1e-6)
    assert not np.allclose(acted("vq", "both"), raw, atol=1e-2)


def test_the_shipped_bodies_have_experts():
    for task in BODIES.values():
        expert = expert_of(task)
        assert expert is not None
        assert expert.actions(np.zeros((2, len(expert.mean)), np.float32)).shape[0] == 2
    assert expert_of("door-open-v3") is None


def test_the_mean_over_pairs_of_tasks():
    tasks = [torch.full((20, 4), value) for value in (0.0, 1.0, 3.0)]
    assert mean_difference(tasks) == pytest.approx((2 + 6 + 4) / 3)
    assert mean_difference(tasks[:2]) == pytest.approx(feature_difference(*tasks[:2]))
    assert mean_difference(tasks[:1]) == 0


def test_what_cannot_be_is_refused():
    with pytest.raises(ManyoneError, match="way 'none': must be raw, actions, both"):
        ThroughAlignments(EXPERTS, TABLE, pairs("ae"), "none")
    with pytest.raises(ManyoneError, match="1 pairs of alignments for 2 tasks"):
        ThroughAlignments(EXPERTS, TABLE, pairs("ae")[:1], "raw")
    policy = ThroughAlignments({"near": EXPERTS["near"]}, TABLE, pairs("ae"), "raw")
    with pytest.raises(ManyoneError, match="there is no expert of 'far': there are near"):
        policy.start([Episode("far")])
