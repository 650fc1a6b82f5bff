"""Games whose every step can be computed by hand."""

import math

import pytest
import torch

from manyone.minimax.client_data import ClientData
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.mixing.mixture import Mixer
from manyone.minimax.mixing.topology import Topology
from manyone.minimax.problems.auc import AUC, positive_rate
from manyone.minimax.problems.quadratic import QuadraticGame, bilinear
from manyone.minimax.sampling import sample_indices
from manyone.minimax.simulated import Simulated

F64 = torch.float64


def symmetric(count: int, size: int, source: torch.Generator, shift: float) -> torch.Tensor:
    half = torch.randn(count, size, size, generator=source, dtype=F64) * 0.3
    return half @ half.mT + shift * torch.eye(size, dtype=F64)


def common_game(p: int = 3, q: int = 2, seed: int = 0) -> QuadraticGame:
    source = torch.Generator().manual_seed(seed)
    b = torch.randn(p, q, generator=source, dtype=F64)
    return QuadraticGame(symmetric(1, p, source, 0.5)[0], b, symmetric(1, q, source, 0.5)[0])


@pytest.mark.parametrize("topology", ["server", "exponential", "ring", "star", "one-peer-exponential", "isolated"])
def test_twin_distance_of_the_common_jacobian_game_is_the_closed_form_for_every_topology(topology):
    m, n, k, rounds, eta, i0, j0, seed = 6, 4, 3, 7, 0.1, 2, 1, 11
    game = common_game()
    g = torch.randn(m * n + 1, 5, generator=torch.Generator().manual_seed(1), dtype=F64)
    data = ClientData.of_parts({"g": g}, [range(i * n, (i + 1) * n) for i in range(m)]).with_twin([i0], [j0], [m * n])
    run = Simulated(
        game,
        data,
        DistributedSGDA(topology=topology, steps=k, rounds=rounds, step_sizes=(eta, eta)),
        seed=seed,
        dtype=F64,
        backend="stacked",
    )
    run.run()

    draws = sample_indices(seed, 0, [i0], range(k * rounds), n, 1)[:, 0, 0]
    hits = [s for s in range(k * rounds) if int(draws[s]) == j0]
    assert hits
    b = torch.eye(5, dtype=F64) - eta * game.jacobian()
    difference = g[i0 * n + j0] - g[m * n]
    expected = torch.zeros(m, 5, dtype=F64)
    for s in hits:
        product = torch.eye(m, dtype=F64)
        for t in range(s // k, rounds):
            product = Topology(topology).weights(t, m) @ product
        effect = torch.linalg.matrix_power(b, k * rounds - 1 - s) @ difference
        expected -= eta * product[:, i0, None] * effect
    found = run.state()[0, 0] - run.state()[0, 1]
    assert float((found - expected).abs().max()) <= 1e-15 * 20
    mean = -(eta / m) * sum(torch.linalg.matrix_power(b, k * rounds - 1 - s) @ difference for s in hits)
    assert float((found.mean(0) - mean).abs().max()) <= 1e-15 * 20


def test_twins_on_equal_data_stay_exactly_equal_and_twins_are_symmetric():
    m, n = 5, 6
    source = torch.Generator().manual_seed(0)
    fields = {"features": torch.randn(m * n + 1, 4, generator=source), "labels": torch.ones(m * n + 1)}
    fields["labels"][::2] = -1
    data = ClientData.of_parts(fields, [range(i * n, (i + 1) * n) for i in range(m)])
    same = data.with_twin([1], [2], [n + 2])
    score = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    for problem in (AUC(0.5, dim=4), AUC(0.5, score=score)):
        for backend in ("stacked", "vmap"):
            run = Simulated(
                problem,
                same,
                DistributedSGDA(topology="ring", steps=3, rounds=5, step_sizes=(0.2, 0.2)),
                backend=backend,
            )
            run.run()
            assert torch.equal(run.state()[:, 0], run.state()[:, 1])
    forward = data.with_twin([1], [2], [m * n])
    backward = ClientData(fields, forward.table.flip(1), forward.sizes)
    states = [
        Simulated(AUC(0.5, dim=4), d, DistributedSGDA(topology="ring", steps=3, rounds=9), dtype=F64)
        for d in (forward, backward)
    ]
    for run in states:
        run.run()
    assert not torch.equal(states[0].state()[:, 0], states[0].state()[:, 1])
    assert torch.allclose(states[0].state(), states[1].state().flip(1), atol=1e-14)


@pytest.mark.parametrize(("eta", "mu", "sigma"), [(0.1, 0.5, 2.0), (0.03, 0.0, 1.0)])
def test_one_step_contracts_by_the_closed_form(eta, mu, sigma):
    a = torch.randn(4, 4, generator=torch.Generator().manual_seed(3), dtype=F64)
    a *= sigma / torch.linalg.matrix_norm(a, ord=2)
    eye = torch.eye(4, dtype=F64)
    jacobian = QuadraticGame(mu * eye, a, mu * eye).jacobian()
    norm = torch.linalg.matrix_norm(torch.eye(8, dtype=F64) - eta * jacobian, ord=2)
    assert float(norm) == pytest.approx(math.sqrt((1 - eta * mu) ** 2 + eta**2 * sigma**2), abs=1e-12)


@pytest.mark.parametrize("topology", ["server", "ring", "exponential", "star", "random-matching"])
def test_a_mixing_step_never_increases_the_sum_of_twin_distances(topology):
    z = torch.randn(2, 9, 4, generator=torch.Generator().manual_seed(5), dtype=F64)
    mixer = Mixer(Topology(topology), 9, F64, "cpu")
    for t in range(5):
        mixed = mixer(z, t)
        before, after = (float((v[0] - v[1]).norm(dim=-1).sum()) for v in (z, mixed))
        assert after <= before * (1 + 1e-14)
        z = mixed.clone()


def test_strongly_convex_concave_steps_without_a_hit_never_expand_the_twins():
    from sklearn.datasets import load_digits

    digits = load_digits()
    x = torch.tensor(digits.data, dtype=F64)[:400]
    x = x / x.norm(dim=1, keepdim=True)
    y = torch.where(torch.tensor(digits.target[:400]) == 8, 1.0, -1.0).to(F64)
    p, ridge, m, n, rounds = positive_rate(y), 0.1, 4, 20, 30
    strong = min(ridge, 2 * p * (1 - p))
    problem, biggest = AUC(p, dim=64, ridge=ridge), 0.0
    for i in range(0, 400, 7):  # the smoothness constant: the largest norm of a sample's Jacobian
        batch = {"features": x[None, i : i + 1].expand(67, -1, -1), "labels": y[None, i : i + 1].expand(67, -1)}
        one = {name: value[:1] for name, value in batch.items()}
        constant = problem.stacked_gradient(torch.zeros(1, 67, dtype=F64), one)
        hessian = problem.stacked_gradient(torch.eye(67, dtype=F64), batch) - constant
        biggest = max(biggest, float(torch.linalg.matrix_norm(hessian, ord=2)))
    eta = strong / biggest**2
    data = ClientData.of_parts({"features": x, "labels": y}, [range(i * n, (i + 1) * n) for i in range(m)])
    run = Simulated(
        problem,
        data.with_twin([1], [3], [399]),
        DistributedSGDA(topology="isolated", steps=1, rounds=rounds, step_sizes=(eta, eta)),
        dtype=F64,
        seed=2,
        start=0.1 * torch.randn(2 * m, 67, generator=torch.Generator().manual_seed(0)),
    )
    before = (run.state()[0, 0] - run.state()[0, 1]).norm(dim=-1)
    hits = sample_indices(2, 0, range(m), range(rounds), n, 1)[..., 0]
    worst = 0.0
    for s in range(rounds):
        run.advance(s + 1)
        after = (run.state()[0, 0] - run.state()[0, 1]).norm(dim=-1)
        for i in range(m):
            if not (i == 1 and int(hits[s, i]) == 3):
                worst = max(worst, float(after[i] / before[i]))
        before = after
    assert worst <= 1 - strong * eta / 2


def test_bilinear_simultaneous_diverges_extragradient_converges_alternating_conserves():
    start = torch.ones(1, dtype=F64), torch.zeros(1, dtype=F64)
    game, eta, steps = bilinear(torch.ones(1, 1, dtype=F64), start), 0.2, 200

    def end(kind: str, rounds: int = steps) -> torch.Tensor:
        run = Simulated(
            game, None, DistributedSGDA(steps=1, rounds=rounds, local_step=kind, step_sizes=(eta, eta)), dtype=F64
        )
        return run.run()[0, 0]

    with pytest.warns(UserWarning, match="extragradient"):  # it has grown a lot: the user is told
        Simulated(game, None, DistributedSGDA(steps=1, rounds=400, step_sizes=(eta, eta)), dtype=F64).run()
    assert float(end("simultaneous").norm()) == pytest.approx((1 + eta**2) ** (steps / 2), rel=1e-12)
    assert float(end("extragradient").norm()) == pytest.approx((1 - eta**2 + eta**4) ** (steps / 2), rel=1e-12)
    assert float(end("optimistic").norm()) < 0.2
    x, y = end("alternating", 5000).tolist()
    assert x * x + y * y - eta * x * y == pytest.approx(1.0, abs=1e-12)


def heterogeneous(m: int, p: int = 2, q: int = 2) -> tuple[QuadraticGame, torch.Tensor]:
    source = torch.Generator().manual_seed(7)
    game = QuadraticGame(
        symmetric(m, p, source, 1.0), torch.randn(m, p, q, generator=source, dtype=F64), symmetric(m, q, source, 1.0)
    )
    return game, torch.randn(m, p + q, generator=source, dtype=F64)


@pytest.mark.parametrize(("k", "topology"), [(1, "server"), (5, "server"), (20, "server"), (1, "ring"), (5, "ring")])
def test_heterogeneous_games_reach_the_fixed_point_of_local_steps(k, topology):
    m, eta = 5, 0.1
    game, g = heterogeneous(m)
    data = ClientData.of_shards({"g": g[:, None]})
    rounds = 400 if k == 1 else 80
    run = Simulated(
        game,
        data,
        DistributedSGDA(topology=topology, steps=k, rounds=rounds, batch="full", step_sizes=(eta, eta)),
        dtype=F64,
    )
    run.run()
    eye = torch.eye(4, dtype=F64)
    b = [eye - eta * game.jacobian(i) for i in range(m)]
    powers = torch.block_diag(*[torch.linalg.matrix_power(v, k) for v in b])
    c = torch.cat([-eta * sum(torch.linalg.matrix_power(b[i], j) @ g[i] for j in range(k)) for i in range(m)])
    w = torch.kron(Topology(topology).weights(0, m), eye)
    fixed = torch.linalg.solve(torch.eye(4 * m, dtype=F64) - w @ powers, w @ c).view(m, 4)
    assert float((run.state()[0, 0] - fixed).abs().max()) <= 1e-12
    bias = float((run.consensus()[0, 0] - game.saddle(g)).norm())
    if (k, topology) == (1, "server"):
        assert bias <= 1e-14
    else:
        assert bias > 1e-3  # local steps and sparse graphs bias the fixed point under heterogeneity


def test_gradient_tracking_removes_the_bias_of_twenty_local_steps():
    game, g = heterogeneous(5)
    data = ClientData.of_shards({"g": g[:, None]})
    run = Simulated(
        game,
        data,
        DistributedSGDA(
            topology="server",
            steps=20,
            rounds=80,
            batch="full",
            local_step="gradient-tracking",
            step_sizes=(0.02, 0.02),
        ),
        dtype=F64,
    )
    run.run()
    assert float((run.consensus()[0, 0] - game.saddle(g)).abs().max()) <= 1e-14


def test_the_distance_halves_when_clients_or_samples_double():
    replicas, eye = 2500, torch.eye(1, dtype=F64)
    game = QuadraticGame(0.5 * eye, 0.1 * eye, 0.5 * eye)
    pool = {"g": torch.tensor([[0.0, 0.0], [1.0, -2.0]], dtype=F64)}

    def data(m: int, n: int) -> ClientData:
        table = torch.zeros(replicas, 1, m, n, dtype=torch.int64)
        return ClientData(pool, table, torch.full((m,), n)).with_twin([0], [1], [1])

    points = [{"data": data(m, n)} for m, n in ((2, 4), (4, 4), (2, 8))]
    run = Simulated(
        game,
        None,
        DistributedSGDA(topology="ring", steps=4, rounds=10, step_sizes=(0.1, 0.1)),
        points=points,
        dtype=F64,
    )
    run.run(record_every=10)
    base, clients, samples = (
        float((run.consensus(i)[:, 0] - run.consensus(i)[:, 1]).norm(dim=-1).mean()) for i in range(3)
    )
    assert clients / base == pytest.approx(0.5, rel=0.05)
    assert samples / base == pytest.approx(0.5, rel=0.05)
