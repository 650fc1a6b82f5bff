"""The wave game: closed forms against brute force, and the constants of the published example."""

import math

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.minimax.client_data import ClientData
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.problems.wave import WaveGame
from manyone.minimax.simulated import Simulated
from manyone.minimax.stability.measures import weak_pd_gap

F64 = torch.float64
GRID = torch.linspace(-6, 6, 6001, dtype=F64)


def samples(n: int = 20, dim: int = 2, seed: int = 0) -> dict[str, torch.Tensor]:
    return {"g": 0.4 * torch.randn(n, 2 * dim, generator=torch.Generator().manual_seed(seed), dtype=F64)}


def state(dim: int = 2, seed: int = 1) -> torch.Tensor:
    return torch.randn(2 * dim, generator=torch.Generator().manual_seed(seed), dtype=F64)


def test_the_closed_form_gradient_equals_autograd():
    game, data, z = WaveGame(2, a=1.5, b=0.7, c=2.0, wave=1.2), samples(), state().requires_grad_()
    x, y = game.spec.unpack(z)
    (expected,) = torch.autograd.grad(game.loss(x, y, data), z)
    found = game.stacked_gradient(z.detach()[None], {"g": data["g"][None]})
    assert torch.allclose(found[0], expected, atol=1e-12)


def test_risks_and_gaps_equal_a_brute_force_search():
    game, data, z = WaveGame(2, a=1.0, b=0.8, c=1.3), samples(), state()
    x, y = z[:2], z[2:]
    g = data["g"].mean(0)

    def value(u, v):  # one coordinate each, summed: the game does not couple them
        parts = 0.5 * game.a * u**2 + game.wave * u.sin() ** 2 + game.b * u * v - 0.5 * game.c * v**2
        return (parts + g[:2] * u - g[2:] * v).sum(-1)

    best_y = sum(
        (0.5 * game.a * x[j] ** 2 + game.wave * x[j].sin() ** 2 + g[j] * x[j]
         + (game.b * x[j] - g[2 + j]) * GRID - 0.5 * game.c * GRID**2).max() for j in range(2)
    )  # fmt: skip
    best_x = sum(
        (0.5 * game.a * GRID**2 + game.wave * GRID.sin() ** 2 + (game.b * y[j] + g[j]) * GRID
         - 0.5 * game.c * y[j] ** 2 - g[2 + j] * y[j]).min() for j in range(2)
    )  # fmt: skip
    assert float(game.value(z, data)) == pytest.approx(float(value(x, y)))
    assert float(game.primal_risk(z, data)) == pytest.approx(float(best_y), abs=1e-5)
    assert float(game.pd_gap(z, data)) == pytest.approx(float(best_y - best_x), abs=1e-5)
    t, k = g[:2] - game.b / game.c * g[2:], game.a + game.b**2 / game.c
    lowest = sum((0.5 * k * GRID**2 + game.wave * GRID.sin() ** 2 + t[j] * GRID).min() for j in range(2))
    assert float(game.least_risk(data)) == pytest.approx(float(lowest + (g[2:] ** 2).sum() / (2 * game.c)), abs=1e-5)


def test_the_weak_gap_is_at_most_the_mean_strong_gap_and_equal_for_one_replica():
    game = WaveGame(2)
    data, z = [samples(seed=s) for s in range(3)], torch.stack([state(seed=s) for s in range(3)])
    strong = torch.stack([game.pd_gap(one, d) for one, d in zip(z, data)])
    assert weak_pd_gap(game, z, data) <= float(strong.mean()) + 1e-12
    assert weak_pd_gap(game, z[:1], data[:1]) == pytest.approx(float(strong[0]), abs=1e-9)


def test_the_published_example_is_not_convex_and_satisfies_the_inequality():
    """x^2 + 3 sin^2 x satisfies it with mu = 1/32 (Karimi, Nutini, Schmidt 2016): the largest such mu is not less."""
    known = WaveGame(1).constants({"g": torch.zeros(1, 2, dtype=F64)})
    assert known.curvature == pytest.approx(-4)
    assert 1 / 32 <= known.pl < 8
    assert (known.mu, known.rho) == (0, 1)
    x = torch.linspace(-20, 20, 40001, dtype=F64)
    slope, above = 2 * x + 3 * torch.sin(2 * x), x**2 + 3 * x.sin() ** 2
    assert float((slope**2 - 2 * known.pl * above).min()) >= -1e-3  # the grid is finer here


def test_without_a_wave_it_is_a_quadratic_whose_pl_constant_is_its_curvature():
    known = WaveGame(3, a=0.5, b=2.0, c=4.0, wave=0.0).constants(samples(dim=3))
    assert known.pl == pytest.approx(0.5 + 4 / 4, abs=1e-6)
    assert (known.curvature, known.mu) == pytest.approx((1.5, 0.5))
    assert known.lipschitz == pytest.approx(
        float(torch.linalg.matrix_norm(torch.tensor([[0.5, 2.0], [2.0, -4.0]], dtype=F64), 2))
    )


def test_descent_ascent_leaves_the_nonconvex_start_and_ends_at_the_best_point():
    game, data = WaveGame(2), samples(8)
    method = DistributedSGDA(steps=5, rounds=60, batch="full", step_sizes=(0.02, 0.02))
    parts = ClientData.of_parts(data, [range(4), range(4, 8)])
    z = Simulated(game, parts, method, dtype=F64).run()[0, 0]
    assert math.cos(2 * game.origin) < -1 / 3  # R'' = 2 + 6 cos 2x < 0 where it starts
    assert float(game.primal_risk(z, data)) == pytest.approx(float(game.least_risk(data)), abs=1e-3)


def test_errors():
    with pytest.raises(ManyoneError, match="must be above 0"):
        WaveGame(2, c=0.0)
