"""Samplers: against analytic laws, against diffusers, known entries, gradients through whole chains."""

from itertools import pairwise

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.nets.diffusion.denoisers import MLPDenoiser
from manyone.nets.diffusion.process import Known, Process
from manyone.nets.diffusion.sampling import sample, timesteps
from manyone.nets.diffusion.schedules import make_schedule
from manyone.randomness import generator_for

SAMPLERS = [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 1.0), ("dpm-solver++", 0.0)]


@pytest.mark.parametrize("sampler", ["ddim", "dpm-solver++", "ddpm"])
@pytest.mark.parametrize("steps", [1, 2, 7, 50])
@pytest.mark.parametrize("prediction", ["noise", "data", "velocity"])
def test_a_point_mass_is_found_at_any_stride(sampler, steps, prediction):
    process = Process(make_schedule("cosine", 50), prediction, dtype=torch.float64)
    point = torch.tensor([0.3, -1.2, 2.0], dtype=torch.float64)

    def oracle(x, n):
        noise = (x - process.signal[n, None] * point) / process.spread[n, None]
        return process.target(point.expand_as(x), noise, n)

    draw = torch.Generator().manual_seed(0)
    noise = torch.randn(4, 3, generator=draw, dtype=torch.float64)
    found = sample(
        oracle,
        process,
        noise,
        sampler=sampler,
        steps=steps,
        draws=lambda k: torch.randn(4, 3, generator=draw, dtype=torch.float64),
    )
    assert torch.allclose(found, point.expand(4, 3), atol=1e-9)


@pytest.mark.parametrize(("sampler", "eta"), [("ddpm", 0.0), ("ddim", 0.0), ("ddim", 1.0), ("dpm-solver++", 0.0)])
def test_a_normal_law_comes_out_with_its_moments(sampler, eta):
    mean, deviation = 1.5, 0.5
    process = Process(make_schedule("cosine", 200), dtype=torch.float64)

    def oracle(x, n):  # E[eps | x_n] for x_0 ~ N(mean, deviation^2)
        signal, spread = process.signal[n, None], process.spread[n, None]
        return spread * (x - signal * mean) / (signal**2 * deviation**2 + spread**2)

    draw = torch.Generator().manual_seed(1)
    noise = torch.randn(20_000, 1, generator=draw, dtype=torch.float64)
    found = sample(
        oracle,
        process,
        noise,
        sampler=sampler,
        eta=eta,
        draws=lambda k: torch.randn(20_000, 1, generator=draw, dtype=torch.float64),
    )
    assert float(found.mean()) == pytest.approx(mean, abs=0.02)
    assert float(found.std()) == pytest.approx(deviation, rel=0.03)


def test_ddim_with_eta_1_at_stride_1_is_the_ddpm_step():
    process = Process(make_schedule("linear", 30), dtype=torch.float64)
    noise = torch.randn(5, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    draws = torch.randn(30, 5, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def network(x, n):
        return torch.tanh(x) * 0.3 + 0.1

    one = sample(network, process, noise, sampler="ddim", eta=1.0, draws=draws.__getitem__)
    other = sample(network, process, noise, sampler="ddpm", draws=draws.__getitem__)
    assert torch.allclose(one, other, atol=1e-10)


def test_gradients_pass_through_the_chain():
    process = Process(make_schedule("vp", 3), dtype=torch.float64)
    weight = torch.tensor(0.7, dtype=torch.float64, requires_grad=True)
    noise = torch.randn(3, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    draws = torch.randn(3, 3, 2, generator=torch.Generator().manual_seed(6), dtype=torch.float64)

    def value(w):
        return sample(lambda x, n: torch.tanh(w * x), process, noise, sampler="ddpm", draws=draws.__getitem__).sum()

    (slope,) = torch.autograd.grad(value(weight), weight)
    with torch.no_grad():
        near = (value(weight + 1e-6) - value(weight - 1e-6)) / 2e-6
    assert float(slope) == pytest.approx(float(near), rel=1e-6)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_timesteps_fall_within_the_process(spacing):
    for count in (1, 3, 10, 200):
        steps = timesteps(200, count, spacing)
        assert len(steps) == count
        assert all(a > b for a, b in pairwise(steps))
        assert 1 <= steps[-1] <= steps[0] <= 200
    assert timesteps(200, 10) == list(range(200, 0, -20))
    assert timesteps(200, 10, "leading")[-1] == 1


@pytest.mark.parametrize("name", ["cosine", "linear", "vp"])
@pytest.mark.parametrize(("sampler", "eta"), SAMPLERS)
def test_chains_end_where_those_of_diffusers_end(name, sampler, eta, diffusers):
    """In every prediction, at stride 1, 10 and 20, with clipping where the library's sampler clips."""
    given = diffusers.chains(schedule=name, sampler=sampler, eta=eta)
    assert len(given) == 9
    for case in given:
        total = case["total"]
        process = Process(make_schedule(name, total), case["prediction"], case["clip"], dtype=torch.float64)
        assert timesteps(total, case["steps"], case["spacing"]) == case["n"]
        found = sample(
            lambda x, n, total=total: 0.4 * torch.tanh(1.5 * x + n[:, None] / total) - 0.2 * x,
            process, diffusers.start.double(), sampler=sampler, steps=case["steps"], eta=eta,
            draws=diffusers.draws.double().__getitem__, spacing=case["spacing"],
        )  # fmt: skip
        torch.testing.assert_close(found, torch.tensor(case["x"], dtype=torch.float64), atol=2e-4, rtol=2e-4)


def test_one_exact_step_is_the_data():
    process = Process(make_schedule("vp", 1), dtype=torch.float64)
    x0, noise = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    x = process.noisy(x0, noise, torch.ones(5, dtype=torch.int64))
    for sampler, eta in SAMPLERS:
        torch.testing.assert_close(sample(lambda *_: noise, process, x, sampler=sampler, eta=eta), x0)


@pytest.mark.parametrize(("sampler", "eta"), SAMPLERS)
def test_the_first_state_is_set_before_every_call_and_at_the_end(sampler, eta):
    process = Process(make_schedule("cosine", 20), clip=1.0)
    values, seen = torch.full((2, 3, 4), 7.0), []

    def network(x, n):
        seen.append(x[:, 0].clone())
        return torch.sin(x)

    draws = torch.randn(5, 2, 3, 4, generator=torch.Generator().manual_seed(0))
    known = Known(torch.tensor([True, False, False])[:, None], values)
    words = {"sampler": sampler, "eta": eta, "steps": 5, "draws": draws.__getitem__}
    found = sample(network, process, draws[0], known=known, **words)
    assert len(seen) == 5
    assert all((s == 7).all() for s in seen)
    assert (found[:, 0] == 7).all()
    assert found[:, 1:].abs().max() <= 1


def test_gradients_through_a_chain_of_a_perceptron_are_finite_differences():
    net = MLPDenoiser(2, 2, 1, width=5, embedding=4, layers=2, seed=3).double()
    process = Process(make_schedule("vp", 3), clip=3.0, dtype=torch.float64)
    draw = torch.Generator().manual_seed(0)
    noise, *draws = torch.randn(4, 6, 2, 2, generator=draw, dtype=torch.float64).unbind(0)
    condition = torch.randn(6, 1, generator=draw, dtype=torch.float64)
    weights = {name: value.detach() for name, value in net.named_parameters()}

    def value(weights):
        plans = sample(lambda x, n: net.run(weights, x, n, condition), process, noise, sampler="ddpm",
                       draws=draws.__getitem__)  # fmt: skip
        return (plans * draws[0]).sum()

    wanted = {name: w.clone().requires_grad_() for name, w in weights.items()}
    slopes = dict(zip(wanted, torch.autograd.grad(value(wanted), list(wanted.values()))))
    for name, slope in slopes.items():
        for place in range(0, slope.numel(), max(1, slope.numel() // 5)):
            moved = [
                {
                    **weights,
                    name: weights[name]
                    .flatten()
                    .scatter_add(0, torch.tensor([place]), torch.tensor([d], dtype=torch.float64))
                    .view_as(slope),
                }
                for d in (1e-6, -1e-6)
            ]
            near = (value(moved[0]) - value(moved[1])) / 2e-6
            assert float(slope.flatten()[place]) == pytest.approx(float(near), rel=1e-5, abs=1e-8)


def test_a_chain_is_a_function_of_its_seeds():
    net, process = MLPDenoiser(3, 4, seed=0), Process(make_schedule("vp", 5), clip=1.0)

    def plans(seed):
        def drawn(k):
            return torch.randn(2, 4, 3, generator=generator_for(seed, "step", k))

        with torch.no_grad():
            return sample(net, process, drawn("start"), sampler="ddpm", draws=drawn)

    assert torch.equal(plans(0), plans(0))
    assert not torch.equal(plans(0), plans(1))
    assert plans(0).isfinite().all()
    assert plans(0).abs().max() <= 1


def test_wrong_values_are_named():
    process = Process(make_schedule("vp", 4))
    for words, message in (({"steps": 5}, "5 sampling steps: must be 1 to 4"), ({"sampler": "ddpm"}, "needs draws"),
                           ({"eta": 0.5}, "needs draws"), ({"sampler": "euler"}, "sampler 'euler'"),
                           ({"eta": 2.0}, "eta = 2.0"), ({"steps": [1, 3]}, "must fall"), ({"steps": []}, "must fall"),
                           ({"steps": 2, "spacing": "odd"}, "spacing 'odd'")):  # fmt: skip
        with pytest.raises(ManyoneError, match=message):
            sample(lambda x, n: x, process, torch.zeros(1, 1), **words)
