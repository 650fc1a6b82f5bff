"""Fishers and Gram matrices against their definitions."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.reference.surgery import PaddedText, TinyBlocks
from torch import Tensor, nn

from manyone.data.tasks import Split
from manyone.errors import ManyoneError
from manyone.merging.heads import Head
from manyone.merging.static import methods as static
from manyone.merging.static.statistics import fisher, grams, merge_blockwise, regmean_plus_plus


class LogisticFeature(nn.Module):
    """f = x W^T: under an identity head the Fisher has a closed form."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 2, bias=False)
        self.unused = nn.Parameter(torch.ones(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


IDENTITY = Head(torch.eye(2), None, 1.0, normalise=False)


def test_fisher_of_a_linear_softmax_classifier() -> None:
    model, x = LogisticFeature(), torch.randn(10, 3, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(10) % 2
    split = Split(x, labels)
    p = model(x).softmax(1).detach()
    error = torch.nn.functional.one_hot(labels, 2) - p
    empirical = (error[:, :, None] * x[:, None, :]).square().mean(0)
    got = fisher(model, IDENTITY, split)
    assert torch.allclose(got["layer.weight"], empirical, atol=1e-6)
    assert not got["unused"].any()
    both = torch.eye(2)[None] - p[:, None, :]
    true = (p[:, :, None, None] * (both[:, :, :, None] * x[:, None, None, :]).square()).sum(1).mean(0)
    assert torch.allclose(fisher(model, IDENTITY, split, labels=False)["layer.weight"], true, atol=1e-6)


def test_fisher_draws_examples_by_seed_and_writes_nothing() -> None:
    model = LogisticFeature().train()
    model.layer.weight.requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    split = Split(torch.randn(50, 3, generator=torch.Generator().manual_seed(1)), torch.zeros(50, dtype=torch.int64))
    some = [fisher(model, IDENTITY, split, examples=5, seed=s)["layer.weight"] for s in (0, 0, 1)]
    assert torch.equal(some[0], some[1])
    assert not torch.equal(some[0], some[2])
    assert model.training
    assert not model.layer.weight.requires_grad
    assert model.unused.requires_grad
    assert model.layer.weight.grad is None
    assert all(torch.equal(before[n], v) for n, v in model.state_dict().items())
    with pytest.raises(ManyoneError, match="empty"):
        fisher(model, IDENTITY, Split(torch.zeros(0, 3), torch.zeros(0, dtype=torch.int64)))


def test_grams_are_the_mean_outer_products_of_layer_inputs() -> None:
    model, x = TinyBlocks(), torch.randn(20, 4, 6, generator=torch.Generator().manual_seed(1))
    got = grams(model, x, batch_size=7)
    assert set(got) == {n for n in model.state_dict() if n.endswith(".weight") and "norm" not in n}
    rows = x.reshape(-1, 6)
    assert torch.allclose(got["stem.weight"], rows.T @ rows / 80, atol=1e-5)
    normed = model.blocks[0].norm(model.stem(rows)).detach()
    assert torch.allclose(got["blocks.0.fc1.weight"], normed.T @ normed / 80, atol=1e-5)
    assert torch.allclose(got["project.weight"], got["project.weight"].T)
    other = TinyBlocks(seed=4)
    assert torch.equal(grams(model, x, weights=other.state_dict())["project.weight"], grams(other, x)["project.weight"])
    assert not any(m._forward_pre_hooks for m in model.modules())
    assert torch.equal(
        grams(model, x, examples=6, seed=2)["stem.weight"], grams(model, x, examples=6, seed=2)["stem.weight"]
    )


def test_grams_leave_padding_out() -> None:
    model = PaddedText()
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    inputs = {"input_ids": torch.tensor([[1, 2, 0], [3, 4, 5]]), "attention_mask": mask}
    other = inputs | {"input_ids": torch.tensor([[1, 2, 9], [3, 4, 5]])}
    assert torch.equal(grams(model, inputs)["layer.0.fc1.weight"], grams(model, other)["layer.0.fc1.weight"])


def plain_regmean(experts, statistics) -> dict[str, Tensor]:
    """(sum G_i)^-1 sum G_i W_i in float64 with off-diagonals times 0.95; what has no Gram matrix is averaged."""
    merged = {}
    for name in experts[0]:
        if name in statistics[0]:
            shrink = 0.95 + 0.05 * torch.eye(len(statistics[0][name]), dtype=torch.float64)
            g = [s[name].double() * shrink for s in statistics]
            right = sum(gi @ e[name].double().T for gi, e in zip(g, experts))
            merged[name] = torch.linalg.solve(sum(g), right).T.float()
        else:
            merged[name] = torch.stack([e[name] for e in experts]).mean(0)
    return merged


def test_blockwise_merging_sees_the_merged_lower_blocks() -> None:
    experts, inputs = [TinyBlocks(seed=s).state_dict() for s in (1, 2)], []
    for s in (1, 2):
        inputs.append(torch.randn(60, 4, 6, generator=torch.Generator().manual_seed(s)))
    calls: list[list[str]] = []

    def merge(parts, statistics):
        calls.append(list(parts[0]))
        if "blocks.1.fc1.weight" in parts[0]:
            hybrid = [{**e, **seen} for e in experts]
            for h, x, s in zip(hybrid, inputs, statistics):
                wanted = grams(TinyBlocks(), x, weights=h, names=["blocks.1.fc2.weight"])
                assert torch.allclose(s["blocks.1.fc2.weight"], wanted["blocks.1.fc2.weight"], atol=1e-6)
        result = plain_regmean(parts, statistics)
        seen.update(result)
        return result

    seen: dict[str, Tensor] = {}
    merged = merge_blockwise(TinyBlocks(), experts, inputs, merge)
    assert list(merged) == list(experts[0])
    assert [c[0] for c in calls] == ["stem.weight", *(f"blocks.{i}.norm.weight" for i in range(3)), "project.weight"]
    alone = merge_blockwise(TinyBlocks(), experts[:1], inputs[:1], plain_regmean)
    assert all(torch.allclose(alone[n], v, atol=1e-3) for n, v in experts[0].items())
    with pytest.raises(ManyoneError, match="2 experts"):
        merge_blockwise(TinyBlocks(), experts, inputs[:1], plain_regmean)


def test_regmean_plus_plus_agrees_with_the_plain_formula() -> None:
    experts, inputs = [TinyBlocks(seed=s).state_dict() for s in (1, 2)], []
    for s in (1, 2):
        inputs.append(torch.randn(200, 4, 6, generator=torch.Generator().manual_seed(s)))
    got = regmean_plus_plus(TinyBlocks(), experts, inputs)
    plain = merge_blockwise(TinyBlocks(), experts, inputs, plain_regmean)
    assert got.keys() == plain.keys()
    for name in got:
        assert torch.allclose(got[name], plain[name], atol=1e-4), name
    other = regmean_plus_plus(TinyBlocks(), experts, inputs, ratio=0.5)
    assert not torch.allclose(other["project.weight"], got["project.weight"], atol=1e-3)


def test_statistics_feed_the_static_mergers(fixture_bundle) -> None:
    from manyone.merging.measures import accuracies
    from manyone.nets import build_encoder

    suite, bundle = fixture_bundle
    encoder = build_encoder(bundle.encoder)
    fishers, gram_sets = [], []
    for task in bundle.tasks:
        encoder.load_state_dict(bundle.experts[task])
        split = suite.task(task).train
        fishers.append(fisher(encoder, bundle.heads[task], split, examples=32))
        gram_sets.append(grams(encoder, split.inputs, examples=128))
    experts = [bundle.experts[t] for t in bundle.tasks]
    splits = {t: suite.task(t).test for t in bundle.tasks}

    def score(weights) -> float:
        encoder.load_state_dict(weights)
        each = accuracies(encoder, bundle.heads, splits)
        return sum(each.values()) / len(each)

    base = score(bundle.base)
    encoder.load_state_dict(bundle.base)
    inputs = [suite.task(t).train.inputs for t in bundle.tasks]
    blockwise = regmean_plus_plus(encoder, experts, inputs, examples=128)
    assert score(static.regmean(bundle.base, experts, gram_sets)) > base
    assert score(blockwise) > base
    assert score(static.fisher(bundle.base, experts, fishers)) > base
