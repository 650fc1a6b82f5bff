"""Passes by hand: the weights' layout, and products with second derivatives against autograd's."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from manyone.behavior.derivatives.passes import Layout, Passes, Point
from manyone.behavior.students.network import StudentSpec, make_student

S, A, N, K = 5, 3, 7, 2
SPECS = {
    "mlp-2": StudentSpec(layers=2, width=6),
    "mlp-4": StudentSpec(width=6),
    "residual": StudentSpec("residual", width=6),
    "softmax": StudentSpec(layers=3, width=6, output="softmax"),
}


def drawn(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("noisy", [False, True])
def test_weights_survive_the_layout(noisy):
    student, generator = make_student(SPECS["mlp-4"], S, A), torch.Generator().manual_seed(0)
    stack = {name: drawn(generator, *value.shape) for name, value in student.init([0, 1]).items()}
    layout = Layout(student, K, noisy)
    flat = torch.zeros(layout.length(), dtype=torch.float64)
    layout.pack(stack, flat)
    other = {name: drawn(generator, *value.shape) for name, value in stack.items()}
    found = layout.unpack(flat, other)
    assert list(found) == list(stack)
    for name, value in stack.items():
        whole = noisy or not name.startswith(("log_std", "layers.3"))
        if whole:
            assert found[name].equal(value)
        elif name.startswith("log_std"):
            assert found[name].equal(other[name])
        else:  # the last map's rows for log-deviations are left out
            assert found[name][:, :A].equal(value[:, :A])
            assert found[name][:, A:].equal(other[name][:, A:])
    assert flat.count_nonzero() == sum(v.numel() for v in stack.values()) - (0 if noisy else K * (A * 7 + 2))


@pytest.mark.parametrize(("name", "noisy"), [*((n, False) for n in SPECS), ("mlp-2", True), ("residual", True)])
def test_first_and_second_derivatives(name, noisy):
    """The gradient, and its derivative along a direction, of the sum of squares; ``own`` parameters included."""
    spec = SPECS[name]
    student, generator = make_student(spec, S, A), torch.Generator().manual_seed(1)
    stack = {n: v.double() + 0.1 * drawn(generator, *v.shape) for n, v in student.init([0, 1]).items()}
    direction = {n: drawn(generator, *v.shape) for n, v in stack.items()}
    states, actions = drawn(generator, N, S), drawn(generator, N, A)
    noise = drawn(generator, 1, K, N, A) if noisy else None

    layout = Layout(student, K, noisy)
    at, along, gradient, second = (
        Point(layout, torch.zeros(layout.length(), dtype=torch.float64)) for _ in range(4)
    )  # fmt: skip
    layout.pack(stack, at.flat)
    layout.pack(direction, along.flat)
    passes = Passes(layout, states, actions, length=1)
    passes.load(states, actions, noise)
    passes.forward(0, 0, at)
    passes.backward(0, at)
    passes.gradient(0, gradient, 0.0)
    passes.second(0, at, along, second, rate=-1.0)

    leaves = {n: v.clone().requires_grad_() for n, v in stack.items()}
    data = [states.clone().requires_grad_(), actions.clone().requires_grad_()]
    loss = (student.plain(leaves, data[0], None if noise is None else noise[0]) - data[1]).square().sum() / 2
    words = {"allow_unused": True, "materialize_grads": True}
    first = torch.autograd.grad(loss, list(leaves.values()), create_graph=True, **words)
    product = sum((g * v).sum() for g, v in zip(first, direction.values(), strict=True))
    by_data = torch.autograd.grad(product, [*data, *leaves.values()], **words)

    def same(found: Point, wanted: tuple[Tensor, ...]) -> None:
        values = layout.unpack(found.flat, {n: torch.zeros_like(v) for n, v in stack.items()})
        for value, one in zip(values.values(), wanted, strict=True):
            torch.testing.assert_close(value, one.detach(), rtol=1e-10, atol=1e-11)

    same(gradient, first)
    same(second, by_data[2:])
    torch.testing.assert_close(passes.by_states.T, by_data[0], rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(-passes.head.by_target.sum(0).T, by_data[1], rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(passes.head.by_rate.sum(), product.detach(), rtol=1e-10, atol=1e-11)


def test_log_deviations_beyond_their_bounds_get_no_gradient():
    student, generator = make_student(SPECS["mlp-2"], S, A), torch.Generator().manual_seed(1)
    stack = {n: v.double() for n, v in student.init([0, 1]).items()}
    stack["log_std_offset"] = torch.tensor([5.0, -1.0], dtype=torch.float64)
    layout = Layout(student, K, noisy=True)
    at, gradient = (Point(layout, torch.zeros(layout.length(), dtype=torch.float64)) for _ in range(2))
    layout.pack(stack, at.flat)
    states, actions = 0.1 * drawn(generator, N, S), drawn(generator, N, A)
    passes = Passes(layout, states, actions, length=1)
    passes.load(states, actions, drawn(generator, 1, 1, N, A))
    passes.forward(0, 0, at)
    passes.gradient(0, gradient, 0.0)
    assert gradient.own is not None
    assert not gradient.own[:, 0].any()
    assert gradient.own[:, 1].all()
