"""Layers of many members: the same as plain products under autograd."""

from __future__ import annotations

import itertools

import pytest
import torch

from manyone.nets.members import linear_members, mlp_members


def leaves(members, shared, *sizes):
    """x and for every pair of widths a weight and a bias ([O] if ``shared``), float64, all wanting gradients."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()

    found = [normal(members, 7, sizes[0])]
    for inner, outer in itertools.pairwise(sizes):
        found += [normal(members, outer, inner), normal(outer) if shared else normal(members, 1, outer)]
    return found


def plain(x, *pairs):
    for number in range(0, len(pairs), 2):
        x = (x if number == 0 else x.relu()) @ pairs[number].mT + pairs[number + 1]
    return x


@pytest.mark.parametrize("shared", [True, False], ids=["one bias", "a bias each"])
@pytest.mark.parametrize(("fast", "sizes"), [(linear_members, (5, 4)), (mlp_members, (5, 6, 3))])
def test_values_and_gradients_are_those_of_plain_products(fast, sizes, shared):
    inputs = leaves(3, shared, *sizes)
    weight = torch.randn(3, 7, sizes[-1], dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, wanted = fast(*inputs), plain(*inputs)
    torch.testing.assert_close(found, wanted)
    kept = weight.clone()
    ours = torch.autograd.grad((found * weight).sum(), inputs)
    theirs = torch.autograd.grad((wanted * weight).sum(), inputs)
    torch.testing.assert_close(ours, theirs)
    assert torch.equal(weight, kept)
    with torch.no_grad():
        torch.testing.assert_close(fast(*inputs), wanted)
    for number, one in enumerate(inputs):  # any one of them alone
        rest = [v if i == number else v.detach() for i, v in enumerate(inputs)]
        (alone,) = torch.autograd.grad((fast(*rest) * weight).sum(), [one])
        torch.testing.assert_close(alone, theirs[number])


def test_autocast_reaches_the_layers():
    x, *pairs = (v.detach().float().requires_grad_() for v in leaves(3, True, 5, 6, 3))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = mlp_members(x, *pairs)
    assert found.dtype == torch.bfloat16
    found.float().sum().backward()
    torch.testing.assert_close(found.float(), plain(x, *pairs), atol=0.3, rtol=0.05)
    assert all(v.grad is not None and v.grad.dtype == torch.float32 for v in (x, *pairs))
