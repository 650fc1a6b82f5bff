"""Parts beside frozen weights: the plain formulation, no change where they begin, merged low rank, stacks, prefixes."""

from __future__ import annotations

import pytest
import torch
from tests.nets.test_decision import model_of, steps
from tests.reference import prompt_tuning

from manyone.errors import ManyoneError
from manyone.nets.adapters import SOFT, adapter_parts, lora_parts, merged

KINDS = {"lora": (lora_parts, 2), "adapter": (adapter_parts, 5)}


def parts_of(kind, members, random=True):
    make, size = KINDS[kind]
    parts = {name: value.double() for name, value in make(12, 2, size, 3, members).items()}
    if random:
        draw = torch.Generator().manual_seed(1)
        parts = {n: v + 0.3 * torch.randn(v.shape, generator=draw, dtype=v.dtype) for n, v in parts.items()}
    return parts


def plain(weights, batch, front, b):
    return prompt_tuning.actions_of(weights, {k: v[b] for k, v in batch.items()}, front, 2, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_the_forward_pass_is_the_plain_one(kind):
    model, batch, prompt = model_of(prompt=2, seed=3), steps(3, 4, 1, seed=1), steps(3, 2, seed=2)
    weights = dict(model.named_parameters()) | {n: v[0] for n, v in parts_of(kind, 1).items()}
    found = model.run(weights, batch, prompt)
    assert not torch.allclose(found, model(batch, prompt), atol=1e-3)
    for b in range(3):
        front = prompt_tuning.prompt_tokens(weights, {k: v[b] for k, v in prompt.items()})
        torch.testing.assert_close(found[b, 1:], plain(weights, batch, front, b)[1:], atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_as_they_begin_change_nothing(kind):
    model, batch, prompt = model_of(prompt=2).float(), steps(3, 4, 1), steps(3, 2, seed=2)
    batch, prompt = ({k: v.float() if v.is_floating_point() else v for k, v in s.items()} for s in (batch, prompt))
    parts = {n: v[0] for n, v in KINDS[kind][0](12, 2, 3, 0, 1).items()}
    assert torch.equal(model.run(dict(model.named_parameters()) | parts, batch, prompt), model(batch, prompt))


def test_soft_tokens_are_read_as_the_prompt_whose_embeddings_they_are():
    model, batch, prompt = model_of(prompt=2), steps(3, 4, 1, members=2), steps(1, 2, seed=2, members=2)
    weights = dict(model.named_parameters())
    many = {k: v.expand(2, 3, *v.shape[2:]) for k, v in prompt.items()}
    tokens = model.prompt_tokens(weights, prompt)[:, 0]
    assert tokens.shape == (2, 6, 12)
    found = model.run(weights | {SOFT: tokens}, batch)
    assert torch.equal(found, model.run(weights, batch, many))
    ahead = model.encode_prefix(weights | {SOFT: tokens}, None, None, (2, 1))
    torch.testing.assert_close(model.run(weights, batch, prefix=ahead), found, atol=1e-12, rtol=0)
    shared = model.run(weights | {SOFT: tokens[1]}, batch)
    torch.testing.assert_close(shared[1], found[1], atol=1e-12, rtol=0)
    two = {k: v.repeat_interleave(2, 0) for k, v in batch.items()}  # two members of the data share a member's tokens
    torch.testing.assert_close(model.run(weights | {SOFT: tokens}, two)[::2], found, atol=1e-12, rtol=0)
    with pytest.raises(ManyoneError, match="a prompt and soft tokens in its place: give one of them"):
        model.run(weights | {SOFT: tokens}, batch, many)
    with pytest.raises(ManyoneError, match="prompt = 0"):
        model_of().run(weights | {SOFT: tokens}, batch)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stack_gives_what_each_member_gives(kind):
    model, batch, prompt = model_of(prompt=2), steps(3, 4, 1, members=4), steps(3, 2, seed=2, members=4)
    weights, parts = dict(model.named_parameters()), parts_of(kind, 2)
    found = model.run(weights | parts, batch, prompt)
    for member in range(4):
        own = weights | {n: v[member // 2] for n, v in parts.items()}
        alone = model.run(own, *({k: v[member] for k, v in s.items()} for s in (batch, prompt)))
        torch.testing.assert_close(found[member], alone, atol=1e-12, rtol=0)


def test_merged_low_rank_is_applied_low_rank():
    model, batch, prompt = model_of(prompt=2), steps(3, 4, 1, members=2), steps(3, 2, seed=2, members=2)
    weights = dict(model.named_parameters()) | parts_of("lora", 2)
    whole = merged(weights)
    assert whole.keys() == dict(model.named_parameters()).keys()
    assert whole["blocks.1.attn.qkv.weight"].shape == (2, 36, 12)
    torch.testing.assert_close(model.run(whole, batch, prompt), model.run(weights, batch, prompt), atol=1e-12, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_action_behind_a_prefix_and_the_gradients_are_those_of_the_whole(kind):
    model, batch, prompt = model_of(prompt=3), steps(5, 4, 1, members=2), steps(1, 3, seed=2, members=2)
    parts = {n: v.requires_grad_() for n, v in parts_of(kind, 2).items()}
    weights = dict(model.requires_grad_(False).named_parameters()) | parts
    many = {k: v.expand(2, 5, *v.shape[2:]) for k, v in prompt.items()}
    whole = model.run(weights, batch, many)
    prefix = model.encode_prefix(weights, prompt, None, (2, 1))
    found = model.run(weights, batch, prefix=prefix)
    torch.testing.assert_close(found, whole, atol=1e-12, rtol=0)
    last = model.run(weights, batch, prefix=prefix, last_only=True)
    torch.testing.assert_close(last, whole[:, :, -1:], atol=1e-12, rtol=0)
    one, two = (torch.autograd.grad(out.square().sum(), list(parts.values())) for out in (found, whole))
    for ours, theirs in zip(one, two):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)
    assert all(p.grad is None for p in model.parameters())


def test_sizes_count_each_block_once():
    def size(parts):
        return sum(v[0].numel() for v in parts.values())

    assert size(lora_parts(512, 4, 8, 0, 2)) == 4 * 6 * 8 * 512
    assert size(adapter_parts(512, 4, 16, 0, 2)) == 4 * 2 * (2 * 16 * 512 + 16 + 512)
