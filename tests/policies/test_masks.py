"""Masks: densities, bits, votes."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.nets.decision import DecisionTransformer
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


@pytest.mark.parametrize("vector", [100, 58, 20])
def test_tensors_of_one_dimension_are_dense_only_as_far_as_the_budget_goes(vector):
    found = erk_densities({"w": (4, 4), "b": (vector,)}, 0.5)
    assert all(0 <= p <= 1 for p in found.values())
    assert found["w"] * 16 + found["b"] * vector == pytest.approx((16 + vector) / 2)


def test_tensors_of_one_dimension_that_take_the_whole_budget_stay_dense():
    assert erk_densities({"w": (4, 4), "b": (16,)}, 0.5) == {"w": 0.0, "b": 1.0}


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


def test_an_empty_mask_overlaps_with_nothing():
    masks = TaskMasks.ones(SHAPES, 2)
    masks.set(0, torch.zeros(masks.size))
    torch.testing.assert_close(masks.overlap(), torch.tensor([[0.0, 0.0], [0.0, 1.0]], dtype=torch.float64))
