import math

import pytest
import torch
from tests.reference.minimax import gradient, pairwise_square_loss

from manyone.errors import ManyoneError
from manyone.minimax.client_data import ClientData
from manyone.minimax.method import DistributedSGDA
from manyone.minimax.problems.auc import AUC, positive_rate
from manyone.minimax.simulated import Simulated

F64 = torch.float64


def made(n: int = 40, d: int = 5, rate: float = 0.3, seed: int = 0) -> dict[str, torch.Tensor]:
    source = torch.Generator().manual_seed(seed)
    labels = torch.where(torch.arange(n) < round(rate * n), 1.0, -1.0).to(F64)
    return {"features": torch.randn(n, d, generator=source, dtype=F64) + 0.3 * labels[:, None], "labels": labels}


def state(problem: AUC, seed: int = 1) -> torch.Tensor:
    return torch.randn(problem.spec.size, generator=torch.Generator().manual_seed(seed), dtype=F64)


def score() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(5, 4), torch.nn.Tanh(), torch.nn.Linear(4, 1))


@pytest.mark.parametrize("module", [False, True])
def test_at_the_best_a_b_alpha_the_objective_is_the_pairwise_square_loss(module):
    data = made()
    p = positive_rate(data["labels"])
    problem = AUC(p, score=score()) if module else AUC(p, dim=5)
    z = state(problem)
    size = problem.spec.p
    a, b = problem.best_response_ab(z, data)
    z[size - 2], z[size - 1] = a, b
    z[size] = problem.best_response_y(z, data)
    x, y = problem.spec.unpack(z)
    h = problem.score(x, data["features"])
    assert float(a) == pytest.approx(float(h[data["labels"] > 0].mean()))
    assert float(b) == pytest.approx(float(h[data["labels"] < 0].mean()))
    assert float(y["alpha"]) == pytest.approx(float(b - a))
    f = problem.loss(x, y, data)
    expected = pairwise_square_loss(h, data["labels"])
    assert float(1 + f / (p * (1 - p))) == pytest.approx(float(expected), abs=1e-10)
    assert float(problem.primal_risk(z, data)) == pytest.approx(float(f), abs=1e-12)
    assert float(problem.value(z, data)) == pytest.approx(float(f), abs=1e-12)


@pytest.mark.parametrize("form", ["solam", "aucm"])
@pytest.mark.parametrize("ridge", [0.0, 0.3])
def test_the_closed_form_gradient_equals_autograd(form, ridge):
    data = made()
    problem = AUC(0.25, dim=5, form=form, ridge=ridge, ridge_y=2 * ridge, margin=0.8)
    states = torch.stack([state(problem, seed) for seed in range(6)])
    batch = {name: torch.stack([value[i : i + 3] for i in range(0, 30, 5)]) for name, value in data.items()}
    found = problem.stacked_gradient(states, batch)
    for i in range(6):
        one = {name: value[i] for name, value in batch.items()}
        assert torch.allclose(found[i], gradient(problem, states[i], one), atol=1e-13)


@pytest.mark.parametrize("form", ["solam", "aucm"])
def test_ascent_on_alpha_tends_to_its_best_response(form):
    data = made()
    problem = AUC(positive_rate(data["labels"]), dim=5, form=form)
    shards = ClientData.of_parts(data, [range(40)])
    run = Simulated(
        problem,
        shards,
        DistributedSGDA(steps=1, rounds=300, batch="full", step_sizes=(0.0, 0.5)),
        dtype=F64,
        start=state(problem),
    )
    z = run.run()[0, 0]
    assert float(z[-1]) == pytest.approx(float(problem.best_response_y(z, data)), abs=1e-12)
    assert form == "solam" or float(z[-1]) >= 0


@pytest.mark.parametrize("form", ["solam", "aucm"])
def test_the_exact_primal_dual_gap_is_zero_at_the_saddle_and_falls_along_the_run(form):
    data = made()
    problem = AUC(positive_rate(data["labels"]), dim=5, form=form, ridge=0.1)
    saddle = problem.saddle(data)
    assert float(problem.pd_gap(saddle, data)) == pytest.approx(0.0, abs=1e-13)
    if form == "solam":
        assert float(gradient(problem, saddle, data).abs().max()) <= 1e-13
    for seed in range(5):
        assert float(problem.pd_gap(state(problem, seed), data)) >= 0
    run = Simulated(
        problem,
        ClientData.of_parts(data, [range(40)]),
        DistributedSGDA(steps=1, rounds=40, batch="full", step_sizes=(0.1, 0.1)),
        dtype=F64,
    )
    gaps = [float(problem.pd_gap(run.round()[0, 0], data)) for _ in range(40)]
    assert gaps[-1] < gaps[0]
    assert min(gaps) >= -1e-14


def test_exact_quantities_of_a_stack_of_states_and_the_margin_form():
    data = made()
    problem = AUC(0.3, dim=5, form="aucm", ridge=0.2)
    states = torch.stack([state(problem, seed) for seed in range(4)])
    risks = problem.primal_risk(states, data)
    for z, risk in zip(states, risks, strict=True):
        alphas = torch.linspace(0, 5, 2001, dtype=F64)
        grid = problem.value(z.expand(2001, -1), data, alphas)
        assert float(risk) == pytest.approx(float(grid.max()), abs=1e-6)
        assert float(risk) >= float(grid.max())
        x, y = problem.spec.unpack(z)
        assert float(problem.value(z, data)) == pytest.approx(float(problem.loss(x, y, data)), abs=1e-12)


def test_a_client_with_one_class_is_fine_because_p_is_global():
    data = made()
    order = data["labels"].argsort()
    shards = ClientData.of_parts(data, order.view(4, 10))
    run = Simulated(AUC(0.3, dim=5), shards, DistributedSGDA(topology="ring", rounds=20), dtype=F64)
    assert bool(torch.isfinite(run.run()).all())


@pytest.mark.parametrize("kind", ["simultaneous", "extragradient-two-samples"])
def test_running_p_counts_each_clients_own_samples(kind):
    data = made()
    shards = ClientData.of_parts(data, torch.arange(40).view(4, 10))
    problem = AUC(0.3, dim=5, running_p=True)
    run = Simulated(
        problem, shards, DistributedSGDA(topology="ring", steps=4, rounds=5, batch=2, local_step=kind), dtype=F64
    )
    run.run()
    seen, positives = run.local.buffers["memory/seen"], run.local.buffers["memory/positives"]
    assert seen.tolist() == [40.0] * 4
    assert positives[0] == 40  # the first client holds positives only
    assert 0 <= float(positives.min()) < 40
    fixed = Simulated(
        AUC(0.3, dim=5),
        shards,
        DistributedSGDA(topology="ring", steps=4, rounds=5, batch=2, local_step=kind),
        dtype=F64,
    ).run()
    assert not torch.allclose(run.consensus(), fixed)


def test_errors():
    with pytest.raises(ManyoneError, match="both classes"):
        positive_rate(torch.ones(3))
    with pytest.raises(ManyoneError, match=r"two classes are needed, these labels hold 3: 0, 1, 2"):
        positive_rate([0, 1, 2, 1])
    with pytest.raises(ManyoneError, match="these labels are all yes"):
        positive_rate(["yes", "yes"])
    with pytest.raises(ManyoneError, match=r"AUC needs the fields 'features' and 'labels', this data has \['x'\]"):
        Simulated(AUC(0.3, dim=2), ClientData.of_parts({"x": [[1.0, 2.0]]}, [[0]]))
    with pytest.raises(ManyoneError, match="one of them"):
        AUC(0.3)
    with pytest.raises(ManyoneError, match="in \\(0, 1\\)"):
        AUC(0.0, dim=2)
    with pytest.raises(ManyoneError, match="linear score"):
        AUC(0.3, score=score()).pd_gap(torch.zeros(32), made())


def primal_hessian(problem, data):
    """Of R at a point by automatic differentiation of max_alpha F, alpha's best response found by Newton's step."""
    size = problem.spec.p

    def risk(x):
        def inner(alpha):
            a, b = problem.spec.unpack(torch.cat([x, alpha]))
            return problem.loss(a, b, data)

        zero = torch.zeros(1, dtype=F64)
        slope, curve = torch.func.grad(inner)(zero), torch.func.hessian(inner)(zero)
        return inner(zero - slope / curve[0])

    return torch.func.hessian(risk)(torch.zeros(size, dtype=F64))


@pytest.mark.parametrize(("features", "ridges"), [(5, (0.0, 0.0)), (5, (0.3, 0.2)), (60, (0.0, 0.0))])
def test_the_constants_are_those_of_the_second_derivatives(features, ridges):
    data = made(d=features)
    problem = AUC(0.3, dim=features, ridge=ridges[0], ridge_y=ridges[1])
    known = problem.constants(data)
    spectrum = torch.linalg.eigvalsh(primal_hessian(problem, data))
    assert known.pl == pytest.approx(float(spectrum[spectrum > 1e-9][0]), rel=1e-6)
    assert known.curvature == pytest.approx(max(0.0, float(spectrum[0])), abs=1e-9)
    assert known.mu == min(ridges[0], known.rho)
    if features > len(data["labels"]):
        assert known.curvature < 1e-9 < known.pl  # PL, not strongly convex
    z, norms = state(problem), []
    for i in range(len(data["labels"])):
        one = {k: v[i : i + 1] for k, v in data.items()}
        second = torch.func.hessian(lambda at, one=one: problem.loss(*problem.spec.unpack(at), one))(z)
        norms.append(float(torch.linalg.matrix_norm(second, 2)))
        assert float(torch.linalg.eigvalsh(-second[-1:, -1:])[0]) >= known.rho - 1e-9
    assert known.lipschitz == pytest.approx(max(norms), rel=1e-9)


def test_the_pl_inequality_holds_at_random_points_of_an_overparameterised_score():
    data = made(d=60)
    problem = AUC(0.3, dim=60)
    pl, least = problem.constants(data).pl, float(problem.least_risk(data))
    hessian, slope = problem.quadratic_form(data)
    whole = hessian + torch.outer(slope, slope) / problem.rho
    for seed in range(20):
        z = state(problem, seed)
        above = float(problem.primal_risk(z, data)) - least
        assert above >= -1e-9
        assert float((whole @ z[:-1] + slope).square().sum()) >= 2 * pl * above - 1e-9


def test_without_a_ridge_more_features_than_samples_leave_no_primal_dual_gap():
    data, problem = made(d=60), AUC(0.3, dim=60)
    z = state(problem)
    assert math.isinf(float(problem.pd_gap(z, data)))  # F(., alpha) falls without end unless alpha = -1
    far = problem.best_response_x(z[-1], data)
    hessian, slope = problem.quadratic_form(data)
    flat = slope - hessian @ torch.linalg.pinv(hessian) @ slope
    values = [problem.value(torch.cat([far - s * (1 + z[-1]) * flat, z[-1:]]), data) for s in (0.0, 1e4, 1e5)]
    assert values[0] > values[1] > values[2]
    assert math.isinf(float(problem.weak_pd_gap(z[None], [data])))
    assert math.isfinite(float(AUC(0.3, dim=60, ridge=0.1).pd_gap(z, data)))
