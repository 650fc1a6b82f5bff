"""EWC, L2 and MAS beside the plain formulation, and their limits."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.policies.vqcd.strategies.toy import Toy, run
from tests.reference import continual as plain

from manyone.policies.vqcd.strategies.quadratic import fisher, sensitivity
from manyone.policies.vqcd.strategy import make_strategy


def parameters(toy: Toy) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in toy.network.parameters()])


def linear(toy: Toy) -> tuple[np.ndarray, np.ndarray]:
    return tuple(p.detach().numpy() for p in toy.network.parameters())


def windows(toy: Toy, task: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first ``count`` windows that importance is measured on."""
    found = [toy.batch(task, k, "importance") for k in range(-(-count // 4))]
    parts = (torch.cat([getattr(b, key) for b in found])[:count].flatten(1) for key in ("states", "actions"))
    return tuple(part.numpy() for part in parts)


@pytest.mark.parametrize("name", ["ewc", "l2", "mas"])
def test_without_protection_it_is_fine_tuning_bit_for_bit(name):
    ours, theirs = Toy(), Toy()
    run(name, ours, protection=0.0, importance_windows=5)
    run("finetune", theirs)
    assert torch.equal(parameters(ours), parameters(theirs))


def test_fisher_is_the_mean_of_single_windows_squared_gradients():
    toy = Toy(layers=False)
    expected = plain.fisher(*linear(toy), *windows(toy, 1, 10))
    for ours, theirs in zip(fisher(toy, 1, 10).values(), expected):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9)


def test_sensitivity_is_the_mean_size_of_single_windows_output_gradients():
    toy = Toy(layers=False)
    expected = plain.sensitivity(*linear(toy), windows(toy, 2, 7)[0])
    for ours, theirs in zip(sensitivity(toy, 2, 7).values(), expected):
        np.testing.assert_allclose(ours.numpy(), theirs, rtol=1e-9)


@pytest.mark.parametrize("name", ["ewc", "l2", "mas"])
def test_the_penalty_is_that_of_the_plain_formulation_over_all_tasks_so_far(name):
    toy, places, importances = Toy(layers=False), [], []

    def measure(task, strategy):
        if name == "l2":
            each = np.ones(len(parameters(toy)))
        else:
            xs, ys = windows(toy, task, 6)
            found = plain.fisher(*linear(toy), xs, ys) if name == "ewc" else plain.sensitivity(*linear(toy), xs)
            each = np.concatenate([part.ravel() for part in found])
        importances.append(each)
        places.append(parameters(toy).numpy())

    strategy = run(name, toy, after=measure, protection=0.3, importance_windows=6)
    with torch.no_grad():
        for p in toy.network.parameters():
            p.add_(0.1 * torch.arange(p.numel(), dtype=p.dtype).view_as(p))
    total = importances[-1] if name == "l2" else sum(importances)
    expected = plain.penalty(parameters(toy).tolist(), places[-1].tolist(), list(total), 0.3)
    assert strategy.penalty().item() == pytest.approx(expected, rel=1e-9)


def test_l2_is_ewc_where_everything_matters_once():
    ours, theirs = Toy(), Toy()
    run("l2", ours, protection=0.7)

    def level(task, strategy):
        strategy.importance = {name: torch.ones_like(value) for name, value in strategy.importance.items()}

    run("ewc", theirs, protection=0.7, importance_windows=2, after=level)
    assert torch.equal(parameters(ours), parameters(theirs))


def test_the_first_task_is_not_penalised_and_more_protection_moves_less():
    def moved(protection: float) -> float:
        toy, places = Toy(steps=20), []
        run("ewc", toy, protection=protection, importance_windows=8, after=lambda *_: places.append(parameters(toy)))
        return float((places[1] - places[0]).norm())

    assert moved(0.0) > moved(1.0) > moved(1e3)
    strategy = make_strategy("ewc", Toy(), {})
    strategy.begin(0)
    assert strategy.penalty() is None
