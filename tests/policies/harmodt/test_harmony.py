"""Scores and the exchange of mask entries."""

from __future__ import annotations

import math

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.policies.harmodt.harmony import (
    agreement,
    exchange,
    harmony,
    importance,
    largest,
    official_exchange,
    smallest,
    swap_count,
)


def test_the_six_weight_example():
    mask = torch.tensor([True, True, True, True, False, False])
    gradients = torch.tensor([[1.0, -2.0, 0.5, 1.0, 3.0, -1.0], [1.0, 3.0, 0.5, -1.0, 1.0, -2.0]])
    mean = gradients.mean(0)  # 1, .5, .5, 0, 2, -1.5
    a = agreement(gradients[0], mean)  # 1, -1, .25, 0, 6, 1.5
    h = harmony(a, importance("fisher", gradients[0], mask))  # 11, -6, 2.75, 1, ...
    prune, recover = exchange(mask, h, a, 1)
    assert (prune.tolist(), recover.tolist()) == ([1], [4])
    prune, recover = exchange(mask, h, a, 5)  # only two entries are inactive
    assert (prune.tolist(), recover.tolist()) == ([1, 3], [4, 5])
    assert importance("magnitude", gradients[0], torch.tensor([-2.0] * 6)).tolist() == [2.0] * 6


def test_the_first_task_is_scored_like_the_others_when_tasks_are_permuted():
    gradients = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    order = [2, 0, 1]
    plain = agreement(gradients, gradients.mean(0))
    moved = agreement(gradients[order], gradients[order].mean(0))
    torch.testing.assert_close(moved, plain[order])


def test_with_one_task_the_smallest_gradients_go_and_the_largest_come():
    u = torch.randn(200, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(200) % 3 > 0
    h = harmony(agreement(u, u), importance("fisher", u, u), 10.0)
    torch.testing.assert_close(h, 11 * u**2)
    prune, recover = exchange(mask, h, u * u, 9)
    size = u.abs()
    assert set(prune.tolist()) == set(torch.where(mask, size, math.inf).topk(9, largest=False).indices.tolist())
    assert set(recover.tolist()) == set(torch.where(mask, -math.inf, size).topk(9).indices.tolist())


def test_recovery_uses_the_gradients_at_inactive_weights():
    u = torch.tensor([0.1, 0.2, 0.3, 5.0, 1.0, 4.0, 2.0, 3.0])
    mask = torch.tensor([True, True, True, False, False, False, False, False])  # one layer is wholly masked
    _, recover = exchange(mask, u, u * u, 2)
    assert recover.tolist() == [3, 5]
    # the authors' program sees zeros there: ties, whichever the gradient is
    _, blind = official_exchange(mask, u, u, u, 2, "fisher", 10.0, torch.zeros(8, dtype=torch.bool))
    assert blind.tolist() == [3, 4]


def test_schedules_begin_and_end_as_published():
    bump = [swap_count(t, 1000, 0, 100, "bump") for t in (0, 250, 500, 1000)]
    assert bump == [0, 50, 100, 0]
    assert [swap_count(t, 1000, 3, 100, "decay") for t in (0, 1000)] == [100, 3]
    assert swap_count(500, 1000, 0, 100, "decay") == 50
    assert swap_count(1, 3, 0, 100, "bump") == 75  # a rounding error must not cost a swap
    assert swap_count(2000, 1000, 3, 100, "decay") == 3  # past the planned end


@pytest.mark.parametrize("size", [50, 5000, 70_001])
def test_the_selection_is_the_stable_sort(size):
    draw = torch.Generator().manual_seed(size)
    for values in (torch.randn(size, generator=draw), torch.randint(0, 9, (size,), generator=draw).float()):
        for k in (1, 7, 40):
            expected = sorted(values.sort(stable=True).indices[:k].tolist())
            assert smallest(values, k).tolist() == expected
            expected = sorted((-values).sort(stable=True).indices[:k].tolist())
            assert largest(values, k).tolist() == expected
    assert smallest(torch.ones(3), 0).tolist() == []


@pytest.mark.parametrize("density", [0.02, 0.8, 0.999])
def test_an_exchange_is_the_stable_sort_of_the_active_and_of_the_inactive(density):
    draw = torch.Generator().manual_seed(3)
    mask = torch.rand(50_000, generator=draw) < density
    lose, win = (torch.randint(0, 3000, (50_000,), generator=draw).float() for _ in range(2))  # many ties
    lose[~mask] -= 4000  # what is not active comes first
    win[mask] += 4000
    for k in (0, 1, 40, 700, 50_000):
        prune, recover = exchange(mask, lose, win, k)
        swaps = min(k, int(mask.sum()), int((~mask).sum()))
        for found, scores, own in ((prune, lose, mask), (recover, -win, ~mask)):
            where = own.nonzero().view(-1)
            assert torch.equal(found, where[scores[where].sort(stable=True).indices[:swaps]].sort().values)


def test_quotas_share_the_swaps_by_size_and_z_scores_by_spread():
    sizes = [60, 30, 10]
    draw = torch.Generator().manual_seed(0)
    mask = torch.rand(100, generator=draw) < 0.5
    scores = torch.randn(100, generator=draw) * torch.tensor([1.0] * 60 + [100.0] * 40)
    prune, recover = exchange(mask, scores, scores, 10, ranking="quota", sizes=sizes)
    for found in (prune, recover):
        assert [int(((found >= a) & (found < b)).sum()) for a, b in ((0, 60), (60, 90), (90, 100))] == [6, 3, 1]
    prune, _ = exchange(mask, scores, scores, 10, ranking="z-score", sizes=sizes)
    assert int((prune < 60).sum()) >= 3
    prune, _ = exchange(mask, scores, scores, 5)
    assert int((prune < 60).sum()) == 0


def test_an_unknown_ranking_is_refused():
    with pytest.raises(ManyoneError, match="ranking 'odd'"):
        exchange(torch.ones(3).bool(), torch.ones(3), torch.ones(3), 1, ranking="odd")
