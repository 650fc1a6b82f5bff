"""Masks: densities, bits, votes; and the exchange of their entries."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
from manyone.policies.conflict import GradNorm, cagrad, pcgrad
from manyone.policies.harmodt import harmony
from manyone.policies.masks import TaskMasks, erk_densities, maskable_shapes

SHAPES = {"a": (40, 30), "b": (7,), "c": (25, 9)}


def published() -> dict[str, tuple[int, ...]]:
    model = DecisionTransformer(39, 4, width=256, layers=6, heads=8)
    assert sum(p.numel() for n, p in model.named_parameters() if n.startswith(("blocks.", "norm."))) == 4_739_072
    return maskable_shapes(model, "blocks")


@pytest.mark.parametrize(
    ("sparsity", "expected"),
    [
        (0.2, {"qkv": 0.82, "proj": 1.0, "fc1": 0.77, "fc2": 0.77}),
        (0.5, {"qkv": 0.50, "proj": 0.75, "fc1": 0.47, "fc2": 0.47}),
    ],
)
def test_erk_densities_of_the_published_network(sparsity, expected):
    shapes = published()
    found = erk_densities(shapes, sparsity)
    sizes = {n: math.prod(s) for n, s in shapes.items()}
    kept = sum(found[n] * sizes[n] for n in shapes)
    assert kept == pytest.approx((1 - sparsity) * sum(sizes.values()), rel=1e-6)
    assert all(p == 1 for n, p in found.items() if len(shapes[n]) == 1), "biases and LayerNorms are dense"
    assert all(0 < p <= 1 for p in found.values())
    for part, value in expected.items():
        assert found[f"blocks.3.{'mlp' if 'fc' in part else 'attn'}.{part}.weight"] == pytest.approx(value, abs=0.006)


def test_no_sparsity_gives_all_ones_and_fifty_published_masks_fit_into_40_mb():
    assert set(erk_densities(SHAPES, 0).values()) == {1.0}
    assert bool(TaskMasks.random(SHAPES, 2, 0.0, seed=0).flat([0, 1]).all())
    model = DecisionTransformer(39, 4, width=256, layers=6, heads=8)
    masks = TaskMasks.ones(maskable_shapes(model), 50)
    assert masks.nbytes == 50 * 6 * 12 * 256**2 / 8 <= 40e6


def test_the_drawn_density_is_the_one_asked_for_within_four_sigma():
    shapes = {"a": (200, 300), "b": (100, 20), "c": (11,)}
    wanted = erk_densities(shapes, 0.5)
    masks = TaskMasks.random(shapes, 3, 0.5, seed=5)
    for index in range(3):
        for name, mask in masks.unpack(index).items():
            p, n = wanted[name], mask.numel()
            assert abs(float(mask.double().mean()) - p) <= 4 * math.sqrt(p * (1 - p) / n)
    assert not torch.equal(masks.bits[0], masks.bits[1])
    shared = TaskMasks.random(shapes, 3, 0.5, seed=5, shared=True)
    assert torch.equal(shared.bits[0], shared.bits[2])
    assert torch.equal(shared.bits[0], masks.bits[0])
    uniform = TaskMasks.random(shapes, 1, 0.5, seed=1, init="uniform").unpack(0)
    assert abs(float(uniform["b"].double().mean()) - 0.5) < 0.05
    assert bool(uniform["c"].all())


def test_bits_keep_every_mask_through_packing_setting_and_flipping():
    masks = TaskMasks.random(SHAPES, 4, 0.4, seed=2)
    flat = masks.flat([0, 1, 2, 3])
    assert flat.shape == (4, 1432)
    assert torch.equal(torch.cat([m.reshape(-1) for m in masks.unpack(2).values()]), flat[2])
    assert torch.equal(masks.stacked([1, 3])["c"][1], masks.unpack(3)["c"])
    other = masks.clone()
    other.set(1, {n: ~m for n, m in masks.unpack(1).items()})
    assert torch.equal(other.flat(1), ~flat[1])
    assert torch.equal(other.flat(0), flat[0])
    entries = torch.tensor([0, 1, 7, 8, 1431, 700])
    masks.flip(2, entries)
    changed = flat[2].clone()
    changed[entries] ^= True
    assert torch.equal(masks.flat(2), changed)
    assert masks.active().tolist() == masks.flat(range(4)).sum(1).tolist()
    fresh = TaskMasks.ones(SHAPES, 1)
    fresh.load_state_dict(masks.state_dict())
    assert torch.equal(fresh.bits, masks.bits)


def test_the_vote_is_the_union_at_one_the_intersection_at_n_and_falls_between():
    masks = TaskMasks.random(SHAPES, 5, 0.5, seed=3)
    flat = masks.flat(range(5))
    votes = [masks.vote(c) for c in range(1, 6)]
    assert torch.equal(votes[0], flat.any(0))
    assert torch.equal(votes[-1], flat.all(0))
    assert all(bool((high <= low).all()) for low, high in pairwise(votes))
    with pytest.raises(ManyoneError, match=r"vote threshold 6: must be 1\.\.5"):
        masks.vote(6)


def test_overlap_is_one_with_oneself_and_counts_common_entries():
    masks = TaskMasks.random(SHAPES, 3, 0.5, seed=4)
    flat = masks.flat(range(3)).double()
    expected = (flat @ flat.T) / flat.sum(1).sqrt() / flat.sum(1).sqrt()[:, None]
    torch.testing.assert_close(masks.overlap(), expected)
    assert torch.equal(masks.overlap().diagonal().round(decimals=12), torch.ones(3, dtype=torch.float64))


def test_the_six_weight_example():
    mask = torch.tensor([True, True, True, True, False, False])
    gradients = torch.tensor([[1.0, -2.0, 0.5, 1.0, 3.0, -1.0], [1.0, 3.0, 0.5, -1.0, 1.0, -2.0]])
    mean = gradients.mean(0)  # 1, .5, .5, 0, 2, -1.5
    a = harmony.agreement(gradients[0], mean)  # 1, -1, .25, 0, 6, 1.5
    h = harmony.harmony(a, harmony.importance("fisher", gradients[0], mask))  # 11, -6, 2.75, 1, ...
    prune, recover = harmony.exchange(mask, h, a, 1)
    assert (prune.tolist(), recover.tolist()) == ([1], [4])
    prune, recover = harmony.exchange(mask, h, a, 5)  # only two entries are inactive
    assert (prune.tolist(), recover.tolist()) == ([1, 3], [4, 5])
    assert harmony.importance("magnitude", gradients[0], torch.tensor([-2.0] * 6)).tolist() == [2.0] * 6


def test_the_first_task_is_scored_like_the_others_when_tasks_are_permuted():
    gradients = torch.randn(3, 50, generator=torch.Generator().manual_seed(0))
    order = [2, 0, 1]
    plain = harmony.agreement(gradients, gradients.mean(0))
    moved = harmony.agreement(gradients[order], gradients[order].mean(0))
    torch.testing.assert_close(moved, plain[order])


def test_with_one_task_the_smallest_gradients_go_and_the_largest_come():
    u = torch.randn(200, generator=torch.Generator().manual_seed(1))
    mask = torch.arange(200) % 3 > 0
    h = harmony.harmony(harmony.agreement(u, u), harmony.importance("fisher", u, u), 10.0)
    torch.testing.assert_close(h, 11 * u**2)
    prune, recover = harmony.exchange(mask, h, u * u, 9)
    size = u.abs()
    assert set(prune.tolist()) == set(torch.where(mask, size, math.inf).topk(9, largest=False).indices.tolist())
    assert set(recover.tolist()) == set(torch.where(mask, -math.inf, size).topk(9).indices.tolist())


def test_recovery_uses_the_gradients_at_inactive_weights():
    u = torch.tensor([0.1, 0.2, 0.3, 5.0, 1.0, 4.0, 2.0, 3.0])
    mask = torch.tensor([True, True, True, False, False, False, False, False])  # one layer is wholly masked
    _, recover = harmony.exchange(mask, u, u * u, 2)
    assert recover.tolist() == [3, 5]
    # the authors' program sees zeros there: ties, whichever the gradient is
    _, blind = harmony.official_exchange(mask, u, u, u, 2, "fisher", 10.0, torch.zeros(8, dtype=torch.bool))
    assert blind.tolist() == [3, 4]


def test_schedules_begin_and_end_as_published():
    bump = [harmony.swap_count(t, 1000, 0, 100, "bump") for t in (0, 250, 500, 1000)]
    assert bump == [0, 50, 100, 0]
    assert [harmony.swap_count(t, 1000, 3, 100, "decay") for t in (0, 1000)] == [100, 3]
    assert harmony.swap_count(500, 1000, 0, 100, "decay") == 50


@pytest.mark.parametrize("size", [50, 5000, 70_001])
def test_the_selection_is_the_stable_sort(size):
    draw = torch.Generator().manual_seed(size)
    for values in (torch.randn(size, generator=draw), torch.randint(0, 9, (size,), generator=draw).float()):
        for k in (1, 7, 40):
            expected = sorted(values.sort(stable=True).indices[:k].tolist())
            assert harmony.smallest(values, k).tolist() == expected
            expected = sorted((-values).sort(stable=True).indices[:k].tolist())
            assert harmony.largest(values, k).tolist() == expected
    assert harmony.smallest(torch.ones(3), 0).tolist() == []


@pytest.mark.parametrize("density", [0.02, 0.8, 0.999])
def test_an_exchange_is_the_stable_sort_of_the_active_and_of_the_inactive(density):
    draw = torch.Generator().manual_seed(3)
    mask = torch.rand(50_000, generator=draw) < density
    lose, win = (torch.randint(0, 3000, (50_000,), generator=draw).float() for _ in range(2))  # many ties
    lose[~mask] -= 4000  # what is not active comes first
    win[mask] += 4000
    for k in (0, 1, 40, 700, 50_000):
        prune, recover = harmony.exchange(mask, lose, win, k)
        swaps = min(k, int(mask.sum()), int((~mask).sum()))
        for found, scores, own in ((prune, lose, mask), (recover, -win, ~mask)):
            where = own.nonzero().view(-1)
            assert torch.equal(found, where[scores[where].sort(stable=True).indices[:swaps]].sort().values)


def test_quotas_share_the_swaps_by_size_and_z_scores_by_spread():
    sizes = [60, 30, 10]
    draw = torch.Generator().manual_seed(0)
    mask = torch.rand(100, generator=draw) < 0.5
    scores = torch.randn(100, generator=draw) * torch.tensor([1.0] * 60 + [100.0] * 40)
    prune, recover = harmony.exchange(mask, scores, scores, 10, ranking="quota", sizes=sizes)
    for found in (prune, recover):
        assert [int(((found >= a) & (found < b)).sum()) for a, b in ((0, 60), (60, 90), (90, 100))] == [6, 3, 1]
    prune, _ = harmony.exchange(mask, scores, scores, 10, ranking="z-score", sizes=sizes)
    assert int((prune < 60).sum()) >= 3
    prune, _ = harmony.exchange(mask, scores, scores, 5)
    assert int((prune < 60).sum()) == 0


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
    found = cagrad(g, 0.5, rescale=False)
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
    with pytest.raises(ManyoneError, match="gradnorm_alpha = -1"):
        GradNorm(2, -1)


def test_wrong_masks_are_refused():
    with pytest.raises(ManyoneError, match=r"sparsity = 1\.0: must be in \[0, 1\)"):
        TaskMasks.random(SHAPES, 2, 1.0, seed=0)
    with pytest.raises(ManyoneError, match="mask init 'even'"):
        TaskMasks.random(SHAPES, 2, seed=0, init="even")
    masks = TaskMasks.ones(SHAPES, 2)
    with pytest.raises(ManyoneError, match=r"there are masks 0\.\.1"):
        masks.flat(2)
    with pytest.raises(ManyoneError, match="names or shapes do not fit"):
        masks.set(0, {"a": torch.ones(3)})
    with pytest.raises(ManyoneError, match="ranking 'odd'"):
        harmony.exchange(torch.ones(3).bool(), torch.ones(3), torch.ones(3), 1, ranking="odd")
