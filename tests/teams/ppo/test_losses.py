"""The losses against their definitions, entry by entry, and what dead agents contribute: nothing."""

from __future__ import annotations

import math

import pytest
import torch

from manyone.teams.ppo.losses import huber, masked_mean, normalise_advantages, policy_loss, value_loss


def draw(*shape, seed=0, scale=1.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_clipped_surrogate_agrees_with_its_definition():
    new, old, advantages = draw(20, 3, seed=1), draw(20, 3, seed=2), draw(20, 3, seed=3)
    loss, error = policy_loss(new, old, advantages, 0.2)
    terms, errors = [], []
    for a, b, gain in zip(new.flatten().tolist(), old.flatten().tolist(), advantages.flatten().tolist()):
        ratio = math.exp(a - b)
        terms.append(min(ratio * gain, min(max(ratio, 0.8), 1.2) * gain))
        errors.append(abs(ratio - 1))
    assert float(loss) == pytest.approx(-sum(terms) / len(terms))
    assert float(error) == pytest.approx(sum(errors) / len(errors))


@pytest.mark.parametrize("delta", [0.5, 10.0])
def test_the_huber_loss_is_linear_on_both_sides(delta):
    error = torch.linspace(-20, 20, 81, dtype=torch.float64, requires_grad=True)
    loss = huber(error, delta)
    expected = [e * e / 2 if abs(e) <= delta else delta * (abs(e) - delta / 2) for e in error.tolist()]
    assert torch.allclose(loss, torch.tensor(expected, dtype=torch.float64))
    (slope,) = torch.autograd.grad(loss.sum(), error)
    assert torch.allclose(slope, error.detach().clamp(-delta, delta))


def test_the_value_loss_takes_the_worse_of_the_clipped_and_the_plain_error():
    values, old, targets = draw(30, seed=1, scale=2), draw(30, seed=2), draw(30, seed=3, scale=15)
    found = float(value_loss(values, old, targets, clip=0.3, delta=10.0))

    def h(e):
        return e * e / 2 if abs(e) <= 10 else 10 * (abs(e) - 5)

    terms = [max(h(r - v), h(r - (o + min(max(v - o, -0.3), 0.3))))
             for v, o, r in zip(values.tolist(), old.tolist(), targets.tolist())]  # fmt: skip
    assert found == pytest.approx(sum(terms) / len(terms))


def test_dead_agents_contribute_nothing_to_the_losses_nor_to_their_gradients():
    alive = torch.rand(20, 3, generator=torch.Generator().manual_seed(5)) < 0.6
    new, values = draw(20, 3, seed=1).requires_grad_(), draw(20, 3, seed=2).requires_grad_()
    old, advantages, targets = draw(20, 3, seed=3), draw(20, 3, seed=4), draw(20, 3, seed=6)

    def losses(advantages, targets):
        return policy_loss(new, old, advantages, 0.2, alive)[0], value_loss(values, old, targets, 0.2, 1.0, alive)

    plain = losses(advantages, targets)
    other = losses(advantages + 1e6 * ~alive, targets - 1e6 * ~alive)
    for a, b in zip(plain, other):
        assert torch.equal(a, b)
    for loss, leaf in zip(plain, (new, values)):
        (gradient,) = torch.autograd.grad(loss, leaf)
        assert (gradient[~alive] == 0).all()
        assert (gradient[alive] != 0).any()
    kept = policy_loss(new[alive], old[alive], advantages[alive], 0.2)[0]
    assert plain[0].item() == pytest.approx(float(kept))


def test_the_distance_from_the_acting_policy_is_a_figure_and_carries_no_gradient():
    new = draw(20, 3, seed=1).requires_grad_()
    loss, error = policy_loss(new, draw(20, 3, seed=3), draw(20, 3, seed=4), 0.2)
    assert loss.requires_grad
    assert not error.requires_grad
    assert float(error) > 0


def test_advantages_are_normalised_over_living_agents():
    alive = torch.rand(40, 3, generator=torch.Generator().manual_seed(5)) < 0.6
    raw = torch.where(alive, 3 + draw(40, 3, scale=4), 1e9)
    found = normalise_advantages(raw, alive)[alive]
    assert float(found.mean()) == pytest.approx(0, abs=1e-9)
    assert float(found.std(correction=0)) == pytest.approx(1, abs=1e-4)


def test_the_mean_over_nobody_is_zero():
    assert float(masked_mean(torch.ones(3), torch.zeros(3, dtype=torch.bool))) == 0
