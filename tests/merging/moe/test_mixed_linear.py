"""Execution strategies of a mixed linear layer: they agree with the explicit merge, forward and backward."""

import threading

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.reference.wemoe import prune
from torch import Tensor

from manyone.errors import ManyoneError
from manyone.merging.moe import mixed_linear as mixed
from manyone.merging.moe import stack as stacks
from manyone.merging.moe.mixed_linear import mixed_linear
from manyone.merging.moe.stack import DenseStack, SparseStack, magnitude_prune

DENSE = ("auto", "loop", "grouped", "tiled", "factored")


def make(
    samples: int, tokens: int, rows: int = 300, columns: int = 7, experts: int = 3, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(samples, tokens, columns, generator=g, dtype=dtype)
    r = torch.randn(samples, experts, generator=g, dtype=dtype)
    weight = torch.randn(experts + 1, rows, columns, generator=g, dtype=dtype)
    bias = torch.randn(experts + 1, rows, generator=g, dtype=dtype)
    return x, r, weight, bias


def explicit(x: Tensor, r: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    full = torch.cat([torch.ones_like(r[:, :1]), r], 1)
    merged = torch.einsum("bn,nok->bok", full, weight)
    y = torch.einsum("btk,bok->bto", x, merged)
    return y if bias is None else y + (full @ bias).unsqueeze(1)


@pytest.mark.parametrize("strategy", DENSE)
@pytest.mark.parametrize(("samples", "tokens"), [(1, 5), (2, 1), (5, 9), (37, 2), (1, 1)])
@pytest.mark.parametrize("with_bias", [True, False])
def test_strategies_agree_with_the_explicit_merge(strategy: str, samples: int, tokens: int, with_bias: bool) -> None:
    x, r, weight, bias = make(samples, tokens)
    used = bias if with_bias else None
    grad = torch.randn(samples, tokens, 300, generator=torch.Generator().manual_seed(5))
    x1, r1 = x.clone().requires_grad_(), r.clone().requires_grad_()
    y1 = explicit(x1, r1, weight, used)
    y1.backward(grad)
    x2, r2 = x.clone().requires_grad_(), r.clone().requires_grad_()
    y2 = mixed_linear(x2, r2, DenseStack(weight), used, strategy)  # type: ignore[arg-type]
    y2.backward(grad)
    torch.testing.assert_close(y2, y1, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(x2.grad, x1.grad, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(r2.grad, r1.grad, rtol=1e-4, atol=2e-3)


@pytest.mark.parametrize("strategy", ["tiled", "factored", "grouped", "loop"])
def test_sparse_storage_gives_the_numbers_of_dense_storage(strategy: str) -> None:
    x, r, weight, bias = make(3, 4)
    weight[1:] = torch.stack([magnitude_prune(w, 0.9) for w in weight[1:]])
    results = []
    for stack in (DenseStack(weight), SparseStack(weight)):
        x1, r1 = x.clone().requires_grad_(), r.clone().requires_grad_()
        y = mixed_linear(x1, r1, stack, bias, strategy)  # type: ignore[arg-type]
        y.square().sum().backward()
        results.append((y.detach(), x1.grad, r1.grad))
    for dense, sparse in zip(*results):
        torch.testing.assert_close(sparse, dense, rtol=1e-5, atol=1e-5)
    for i in range(4):
        assert torch.equal(SparseStack(weight).member(i), weight[i])


@pytest.mark.parametrize("strategy", DENSE)
@pytest.mark.parametrize("sparse", [False, True])
def test_gradients_are_exact_in_double_precision(strategy: str, sparse: bool) -> None:
    x, r, weight, bias = make(2, 3, rows=5, columns=4, dtype=torch.float64)
    stack = SparseStack(weight) if sparse else DenseStack(weight)
    x.requires_grad_()
    r.requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: mixed_linear(a, b, stack, bias, strategy), (x, r))  # type: ignore[arg-type]


@pytest.mark.parametrize("strategy", DENSE)
@pytest.mark.parametrize(("samples", "tokens"), [(1, 5), (5, 2)])
@pytest.mark.parametrize("storage", [DenseStack, SparseStack])
def test_panels_of_outputs_and_tiles_of_inputs_change_nothing(
    strategy: str, samples: int, tokens: int, storage: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stacks, "PANEL", 4)
    monkeypatch.setattr(stacks, "TILE", 64)
    monkeypatch.setattr(mixed, "TILE", 64)
    x, r, weight, bias = make(samples, tokens, rows=12, columns=150)
    stack = storage(weight)
    assert stack.panels == [(0, 4), (4, 8), (8, 12)]
    assert stack.shape == (3, 12, 150)
    assert torch.equal(stack.base, weight[0])
    assert all(torch.equal(stack.member(i), weight[i]) for i in range(4))
    results = []
    for function in (explicit, lambda *given: mixed_linear(*given, strategy)):
        x1, r1 = x.clone().requires_grad_(), r.clone().requires_grad_()
        y = function(x1, r1, weight if function is explicit else stack, bias)  # type: ignore[operator]
        y.square().sum().backward()
        results.append((y.detach(), x1.grad, r1.grad))
    for wanted, found in zip(*results):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("outputs", "panels"), [(1, 1), (256, 1), (768, 3), (1024, 4), (4304, 1), (11008, 43), (257 * 1009, 1)]
)
def test_panels_are_equal_and_at_most_as_wide_as_named(outputs: int, panels: int) -> None:
    assert stacks.panels_of(outputs) == panels


def test_factored_products_that_are_not_kept_are_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    x, r, weight, bias = make(9, 3)
    grads = []
    for limit in (1 << 20, 0):
        monkeypatch.setattr("manyone.merging.moe.mixed_linear.KEPT_BYTES", limit)
        routed = r.clone().requires_grad_()
        mixed_linear(x, routed, DenseStack(weight), bias, "factored").square().sum().backward()
        grads.append(routed.grad)
    torch.testing.assert_close(grads[0], grads[1])


def test_one_row_of_routing_weights_is_an_ordinary_layer() -> None:
    x, r, weight, bias = make(1, 50)
    full = torch.cat([torch.ones(1, 1), r], 1)[0]
    expected = F.linear(x, torch.einsum("n,nok->ok", full, weight), full @ bias)
    torch.testing.assert_close(mixed_linear(x, r, DenseStack(weight), bias, "auto"), expected, rtol=1e-5, atol=1e-5)


def test_backward_keeps_only_inputs_and_routing_weights() -> None:
    x, r, weight, bias = make(16, 20)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        mixed_linear(x.requires_grad_(), r.requires_grad_(), DenseStack(weight), bias, "tiled")
    assert sum(kept) == x.numel() + r.numel()


def test_large_batches_share_a_bounded_buffer(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = []
    original = stacks.scratch

    def spy(slot: str, shape: tuple[int, ...], like: Tensor) -> Tensor:
        taken.append(torch.Size(shape).numel() * like.element_size())
        return original(slot, shape, like)

    monkeypatch.setattr("manyone.merging.moe.mixed_linear.scratch", spy)
    x, r, weight, bias = make(200, 4, rows=256, columns=3000, experts=1)
    y = mixed_linear(x, r, DenseStack(weight), bias, "tiled")
    assert max(taken) <= stacks.BUFFER_BYTES
    torch.testing.assert_close(y[150:152], explicit(x[150:152], r[150:152], weight, bias), rtol=1e-4, atol=1e-3)


def test_buffers_born_in_inference_mode_serve_training_later() -> None:
    x, r, weight, bias = make(2, 5, rows=11, columns=13)
    result: list[Tensor] = []

    def run() -> None:  # a new thread owns no buffer yet
        with torch.inference_mode():
            mixed_linear(x, r, DenseStack(weight), bias, "tiled")
        routed = r.clone().requires_grad_()
        mixed_linear(x, routed, DenseStack(weight), bias, "tiled").sum().backward()
        result.append(routed.grad)  # type: ignore[arg-type]

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert result[0].isfinite().all()


def test_threads_do_not_share_buffers() -> None:
    x, r, weight, bias = make(8, 10)
    stack, wanted = DenseStack(weight), explicit(x, r, weight, bias)
    wrong = []

    def run() -> None:
        for _ in range(30):
            if not torch.allclose(mixed_linear(x, r, stack, bias, "tiled"), wanted, rtol=1e-4, atol=1e-4):
                wrong.append(1)

    threads = [threading.Thread(target=run) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.floats(0, 1), st.integers(0, 10_000))
def test_pruning_keeps_the_largest_entries(size: int, ratio: float, seed: int) -> None:
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    tau = (order + 1).float() * torch.where(order % 2 == 0, 1.0, -1.0)
    kept = magnitude_prune(tau, ratio)
    assert int((kept != 0).sum()) == size - 1 - int(ratio * (size - 1))
    assert torch.equal(kept[kept != 0], tau[kept != 0])
    assert kept.abs().sum() == tau.abs().sort().values[int(ratio * (size - 1)) + 1 :].sum()
    again = magnitude_prune(tau, ratio)
    assert torch.equal(again, kept)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_pruning_agrees_with_the_quantile(ratio: float) -> None:
    tau = torch.randn(37, 41, generator=torch.Generator().manual_seed(3))
    assert torch.equal(magnitude_prune(tau, ratio), prune(tau, ratio))


def test_pruning_its_own_result_at_the_same_density_changes_nothing() -> None:
    tau = torch.randn(1000, generator=torch.Generator().manual_seed(4))
    once = magnitude_prune(tau, 0.9)
    threshold_rank = 1 - (once != 0).sum().item() / 1000  # zeros now fill the places of what was dropped
    assert torch.equal(magnitude_prune(once, threshold_rank - 0.001), once)
    assert torch.equal(magnitude_prune(tau, 0.0) != 0, tau.abs() > tau.abs().min())
    assert not magnitude_prune(tau, 1.0).any()
    with pytest.raises(ManyoneError, match="prune ratio"):
        magnitude_prune(tau, 1.5)


def test_a_sparse_stack_takes_another_number_of_entries_from_a_state_dict() -> None:
    _, _, weight, _ = make(1, 1)
    few, many = weight.clone(), weight.clone()
    few[1:] = torch.stack([magnitude_prune(w, 0.9) for w in weight[1:]])
    stack = SparseStack(few)
    stack.tile(0, 7)
    stack.load_state_dict(SparseStack(many).state_dict())
    assert torch.equal(stack.member(2), weight[2])
