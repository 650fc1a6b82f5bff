"""The receive gate: its draw, its gradients, its budget losses and when they act."""

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.randomness import generator_for
from manyone.teams.network.gate import ReceiveGate, gate_loss, gate_noise, gate_schedule


def test_it_starts_open_with_probability_88_percent():
    gate = ReceiveGate(8)
    torch.nn.init.zeros_(gate.out.weight)
    assert torch.sigmoid(gate(torch.randn(2, 3, 8))).mean().item() == pytest.approx(0.88, abs=0.01)


def test_the_mean_of_the_drawn_gate_is_the_sigmoid():
    gate, draws = ReceiveGate(4), 20_000
    u = torch.tensor([-3.0, -0.5, 0.0, 1.0, 2.5])
    mean = gate.sampled(u.expand(draws, 5), gate_noise(generator_for("gate"), draws, 5)).mean(0)
    wanted = torch.sigmoid(u)
    assert ((mean - wanted).abs() < 5 * (wanted * (1 - wanted) / draws).sqrt()).all()


def test_the_drawn_gate_is_binary_with_the_gradient_of_the_soft_one():
    gate, u = ReceiveGate(4), torch.randn(6, 3, requires_grad=True)
    noise = gate_noise(generator_for(1), 6, 3)
    drawn = gate.sampled(u, noise)
    assert torch.equal(drawn, (u + noise > 0).float())
    (gradient,) = torch.autograd.grad(drawn.sum(), u)
    soft = torch.sigmoid(u + noise)
    assert torch.allclose(gradient, soft * (1 - soft))


def test_budget_losses():
    even = torch.tensor([[0.2, 0.8], [0.5, 0.5]])
    assert gate_loss(even, budget="ratio", target=0.5).item() == pytest.approx(0)
    assert gate_loss(even, budget="ratio", target=0.4).item() == pytest.approx(0.01)
    assert gate_loss(even, budget="ratio", target=0.6).item() == pytest.approx(0.01)
    assert gate_loss(even, budget="hinge", target=0.6).item() == 0
    assert gate_loss(even, budget="hinge", target=0.4).item() == pytest.approx(0.01)
    assert gate_loss(even, budget="cost").item() == pytest.approx(0.5)
    alive = torch.tensor([[True, False], [False, False]])
    assert gate_loss(even, budget="cost", alive=alive).item() == pytest.approx(0.2)
    assert gate_loss(even, budget="cost", alive=torch.zeros_like(alive)).item() == 0
    with pytest.raises(ManyoneError, match="gate budget 'none'"):
        gate_loss(even, budget="none")


def test_the_schedule_opens_then_ramps():
    assert gate_schedule(0.0) == (True, 0.0)
    assert gate_schedule(0.59) == (True, 0.0)
    assert gate_schedule(0.6) == (False, 0.0)
    assert gate_schedule(0.675) == (False, pytest.approx(0.1))
    assert gate_schedule(0.9) == (False, pytest.approx(0.2))
    assert gate_schedule(0.5, open_until=0.5, ramp=0.0, weight=0.3) == (False, 0.3)
