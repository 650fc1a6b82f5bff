"""Arithmetic, selection, stacks and sparse storage."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from manyone.errors import ManyoneError
from manyone.weights.arithmetic import apply_task_vector, check_compatible, check_finite, task_vector, task_vectors
from manyone.weights.select import MagnitudeSelector, kth_largest_magnitude
from manyone.weights.sparse import pack_mask, pack_sparse, unpack_mask, unpack_sparse
from manyone.weights.stack import mix, stack_weights, unstack, vmap_call

seeds = st.integers(0, 2**31 - 1)


def weights(seed):
    g = torch.Generator().manual_seed(seed)
    return {"w": torch.randn(4, 3, generator=g), "b": torch.randn(4, generator=g).bfloat16(), "ids": torch.arange(3)}


# -- arithmetic -------------------------------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(seeds)
def test_task_vectors_lead_back_to_the_expert(seed):
    base, expert = weights(seed), weights(seed + 1)
    tau = task_vector(base, expert)
    assert set(tau) == {"w", "b"}
    assert all(t.dtype == torch.float32 for t in tau.values())
    back = apply_task_vector(base, tau)
    torch.testing.assert_close(back["w"], expert["w"], rtol=1e-6, atol=1e-6)
    assert torch.equal(back["b"], expert["b"])  # float32 holds bfloat16 differences of this size exactly
    same = apply_task_vector(base, tau, 0.0)
    assert all(torch.equal(same[n], base[n]) for n in base)
    assert [t["w"].equal(tau["w"]) for t in task_vectors(base, [expert, base])] == [True, False]


def test_check_compatible_names_key_and_problem():
    base = weights(0)
    check_compatible(base, [weights(1), weights(2)])
    nan = {**weights(1), "w": weights(1)["w"] * float("nan")}
    for bad, match in [
        ({n: v for n, v in weights(1).items() if n != "b"}, "expert 2: tensor 'b' .* is missing"),
        ({**weights(1), "c": torch.ones(1)}, "'c' is unexpected"),
        ({**weights(1), "w": torch.ones(3, 4)}, r"'w' has shape \[3, 4\]"),
        ({**weights(1), "ids": torch.ones(3)}, "'ids' is float"),
        (nan, "expert 2: NaN or Inf in tensor 'w'"),
    ]:
        with pytest.raises(ManyoneError, match=match):
            check_compatible(base, [weights(3), bad])
    check_compatible(base, [nan], finite=False)
    check_compatible(base, [{**nan, "extra": torch.ones(1)}], names=["b"])
    with pytest.raises(ManyoneError, match="base: NaN or Inf"):
        check_finite(nan, label="base")
    with pytest.raises(ManyoneError, match="'z', which the base does not have"):
        apply_task_vector(base, {"z": torch.ones(1)})


# -- selection --------------------------------------------------------------------------------------------------------


def pieces(values, length):
    return lambda: (values[i : i + length] for i in range(0, len(values), length))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=200),
    st.integers(0, 10**9),
    st.integers(1, 64),
)
def test_kth_largest_equals_sorting(values, rank, length):
    x = torch.tensor(values, dtype=torch.float32)
    k = rank % len(x) + 1
    assert kth_largest_magnitude(pieces(x, length), k) == float(x.abs().sort(descending=True).values[k - 1])


@pytest.mark.parametrize("kind", ["normal", "zeros", "ties", "heavy"])
@pytest.mark.parametrize("share", [0.001, 0.2, 0.9, 1.0])
def test_kth_largest_of_many(kind, share):
    g = torch.Generator().manual_seed(1)
    x = torch.randn(300_000, generator=g)
    if kind == "zeros":
        x[:250_000] = 0
    elif kind == "ties":
        x = (x * 4).round() / 4
    elif kind == "heavy":
        x = (x * 12).exp().clamp_max(1e38)
    k = max(1, int(share * len(x)))
    assert kth_largest_magnitude(pieces(x, 1 << 16), k) == float(x.abs().sort(descending=True).values[k - 1])


@pytest.mark.parametrize("moved", [0.0, 0.05, 0.21, 0.6])
def test_sparse_data_are_counted_in_the_bracket_of_the_sample(moved):
    """Two million elements, more than there are bins, of which all but a part are zeros: as with frozen layers."""
    g = torch.Generator().manual_seed(2)
    x = torch.randn(1 << 21, generator=g) * (torch.rand(1 << 21, generator=g) < moved)
    selector = MagnitudeSelector(len(x) // 5, len(x))
    selector.sample(x[::4].abs())
    selector.use_sample()
    while not selector.done:
        for start in range(0, len(x), 1 << 16):
            selector.add(x[start : start + (1 << 16)].abs())
        selector.end_pass()
    assert selector.threshold == float(x.abs().sort(descending=True).values[len(x) // 5 - 1])
    assert selector.passes <= 2


def test_a_misleading_sample_costs_a_pass_and_not_the_result():
    x = torch.arange(1.0, 20001)
    selector = MagnitudeSelector(1000, len(x))
    selector.sample(torch.full((5000,), 3.0))
    selector.use_sample()
    while not selector.done:
        selector.add(x)
        selector.end_pass()
    assert selector.threshold == 19001
    assert selector.passes == 3  # the bracket, then the two passes of the radix method


def test_rank_outside_the_data():
    with pytest.raises(ValueError, match=r"k must lie in 1\.\.3"):
        kth_largest_magnitude(pieces(torch.ones(3), 2), 4)


# -- stacks -----------------------------------------------------------------------------------------------------------


def test_stack_and_back():
    members = [weights(i) for i in range(3)]
    stack = stack_weights(members)
    assert stack["w"].shape == (3, 4, 3)
    for a, b in zip(unstack(stack), members):
        assert all(torch.equal(a[n], b[n]) for n in b)
    with pytest.raises(ManyoneError, match=r"'b' .* is missing"):
        stack_weights([weights(0), {"w": weights(1)["w"], "ids": torch.arange(3)}])
    with pytest.raises(ManyoneError, match="not a stack"):
        unstack({"a": torch.ones(2), "b": torch.ones(3)})


@settings(max_examples=15, deadline=None)
@given(seeds)
def test_mixing_is_the_matrix_product(seed):
    g = torch.Generator().manual_seed(seed)
    stack = stack_weights([weights(seed + i) for i in range(3)])
    matrix = torch.rand(2, 3, generator=g)
    mixed = mix(matrix, stack)
    for n in ("w", "b"):
        expected = sum(matrix[:, i].view(-1, *[1] * stack[n][i].ndim) * stack[n][i].float() for i in range(3))
        torch.testing.assert_close(mixed[n].float(), expected, rtol=1e-2 if n == "b" else 1e-5, atol=1e-5)
    assert mixed["ids"].shape == (2, 3)
    same = mix(torch.eye(3), stack)
    assert all(torch.equal(same[n], stack[n]) for n in stack)
    with pytest.raises(ManyoneError, match="does not fit 3 members"):
        mix(torch.ones(2, 2), stack)


@pytest.mark.parametrize("chunk", [None, 2])
def test_vmap_call_equals_a_loop(chunk):
    nets = [nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)) for _ in range(3)]
    stack = stack_weights([n.state_dict() for n in nets])
    x = torch.randn(7, 3)
    out = vmap_call(nets[0], stack, x, chunk)
    torch.testing.assert_close(out, torch.stack([n(x) for n in nets]))
    xs = torch.randn(3, 7, 3)
    torch.testing.assert_close(
        vmap_call(nets[0], stack, xs, chunk, shared=False), torch.stack([n(x) for n, x in zip(nets, xs)])
    )
    torch.testing.assert_close(vmap_call(nets[0], stack, {"input": x}, chunk), out)


# -- sparse -----------------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(seeds, st.integers(1, 5000), st.floats(0, 1), st.sampled_from([torch.float32, torch.bfloat16]))
def test_sparse_round_trip(seed, size, share, dtype):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(size, generator=g).to(dtype) * (torch.rand(size, generator=g) < share)
    packed = pack_sparse(x)
    assert torch.equal(unpack_sparse(packed), x)
    assert packed["deltas"].dtype in (torch.uint8, torch.uint16)


def test_sparse_with_gaps_longer_than_a_delta():
    x = torch.zeros(3, 70000)
    x[0, 5] = x[2, 69999] = 1.5
    packed = pack_sparse(x)
    assert torch.equal(unpack_sparse(packed), x)
    assert len(packed["values"]) < 10
    assert torch.equal(unpack_sparse(pack_sparse(torch.zeros(4, 4))), torch.zeros(4, 4))
    packed["shape"] = torch.tensor([3])
    with pytest.raises(ManyoneError, match="is damaged"):
        unpack_sparse(packed)


@settings(max_examples=30, deadline=None)
@given(seeds, st.integers(1, 100), st.integers(1, 5))
def test_mask_round_trip(seed, rows, columns):
    mask = torch.rand(rows, columns, generator=torch.Generator().manual_seed(seed)) < 0.3
    bits = pack_mask(mask)
    assert bits.numel() == -(-rows * columns // 8)
    assert torch.equal(unpack_mask(bits, mask.shape), mask)


def test_mask_of_another_shape():
    with pytest.raises(ManyoneError, match="cannot hold a mask"):
        unpack_mask(torch.zeros(2, dtype=torch.uint8), (3, 9))
