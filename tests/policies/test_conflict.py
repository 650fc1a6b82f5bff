"""Gradient surgery: PCGrad, CAGrad, GradNorm."""

from __future__ import annotations

import pytest
import torch

from manyone.policies.conflict import GradNorm, cagrad, pcgrad


def test_pcgrad_takes_conflicting_components_away():
    g = torch.tensor([[1.0, 0.0], [-1.0, 1.0]])
    # by hand: g1 loses its part along g2: (.5, .5); g2 its part along g1: (0, 1)
    torch.testing.assert_close(pcgrad(g), torch.tensor([0.25, 0.75]))
    friends = torch.tensor([[1.0, 0.2], [1.0, 0.4]])
    torch.testing.assert_close(pcgrad(friends), friends.mean(0))
    many = torch.randn(5, 30, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    plain = torch.zeros_like(many)
    order = [torch.randperm(5, generator=d).tolist() for d in [torch.Generator().manual_seed(9)] for _ in range(5)]
    for i in range(5):
        mine = many[i].clone()
        for j in order[i]:
            if j != i and mine @ many[j] < 0:
                mine -= mine @ many[j] / (many[j] @ many[j]) * many[j]
        plain[i] = mine
    torch.testing.assert_close(pcgrad(many, torch.Generator().manual_seed(9)), plain.mean(0))


def test_cagrad_helps_the_worst_task_within_its_ball():
    g = torch.randn(4, 20, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    mean = g.mean(0)
    found = cagrad(g, 0.5) * (1 + 0.5**2)  # without the authors' division
    assert float((found - mean).norm()) <= 0.5 * float(mean.norm()) * (1 + 1e-6)
    assert float((g @ found).min()) > float((g @ mean).min())
    draw = torch.Generator().manual_seed(4)
    for _ in range(200):
        way = torch.randn(20, generator=draw, dtype=torch.float64)
        other = mean + 0.5 * mean.norm() * way / way.norm()
        assert float((g @ other).min()) <= float((g @ found).min()) + 1e-6
    torch.testing.assert_close(cagrad(g, 0.0), mean)


def test_gradnorm_weights_bring_the_norms_to_the_rates_of_training():
    unit = torch.eye(3)
    balance = GradNorm(4, alpha=1.0, lr=0.01)
    even = balance.combine(unit, torch.ones(3), [0, 1, 3])
    torch.testing.assert_close(even, torch.full((3,), 1 / 3))
    sizes = torch.tensor([1.0, 2.0, 4.0])
    for _ in range(600):  # all train equally fast: the norms become equal
        found = balance.combine(unit * sizes[:, None], torch.full((3,), 0.5), [0, 1, 3])
    torch.testing.assert_close(found, found.mean().expand(3), atol=0.0, rtol=0.1)
    assert float(balance.weights.sum()) == pytest.approx(4)
    for _ in range(600):  # the last task has trained half as much: twice the norm of the others
        found = balance.combine(unit * sizes[:, None], torch.tensor([0.25, 0.25, 0.5]), [0, 1, 3])
    torch.testing.assert_close(found / found[0], torch.tensor([1.0, 1.0, 2.0]), atol=0.0, rtol=0.1)
    again = GradNorm(4, alpha=1.0, lr=0.01)
    again.load_state_dict(balance.state_dict())
    for one in (balance, again):
        one.combine(unit, torch.ones(3), [1, 2, 3])
    assert torch.equal(again.weights, balance.weights)
