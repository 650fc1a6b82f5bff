"""Schedules, process and samplers against analytic cases."""

import math
from itertools import pairwise

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.nets.diffusion.guidance import guided
from manyone.nets.diffusion.process import Known, Process
from manyone.nets.diffusion.sampling import sample, timesteps
from manyone.nets.diffusion.schedules import make_schedule

NAMES = ("cosine", "linear", "vp")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", [1, 5, 200])
def test_alpha_bar_falls_within_0_and_1(name, steps):
    bar = make_schedule(name, steps).alpha_bar
    assert len(bar) == steps + 1
    assert bar[0] == 1
    assert (bar.diff() < 0).all()
    assert bar[-1] > 0


@pytest.mark.parametrize("steps", [1, 3, 10, 100])
def test_the_few_step_schedule_ends_alike_for_every_number_of_steps(steps):
    bar = make_schedule("vp", steps).alpha_bar
    assert float(bar[-1]) == pytest.approx(math.exp(-0.1 - 0.5 * 9.9), rel=1e-12)


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


def test_known_entries_are_kept_and_cost_nothing():
    process = Process(make_schedule("cosine", 20), clip=1.0)
    values = torch.full((2, 3, 4), 7.0)
    known = Known(torch.tensor([True, False, False])[:, None], values)
    seen = []

    def network(x, n):
        seen.append(x[:, 0].clone())
        return x

    found = sample(network, process, torch.randn(2, 3, 4), steps=5, known=known)
    assert all((s == 7).all() for s in seen)
    assert (found[:, 0] == 7).all()
    assert found[:, 1:].abs().max() <= 1
    n, noise = torch.tensor([3, 9]), torch.randn(2, 3, 4)
    plain = process.loss(lambda x, n: x * 0.5, values, noise, n, known)

    def louder(x, n):
        out = x * 0.5
        out[:, 0] = 1e3
        return out

    assert process.loss(louder, values, noise, n, known) == plain


def test_the_marginal_of_noising_has_its_moments():
    process = Process(make_schedule("vp", 10))
    x0 = torch.full((50_000, 1), 2.0)
    noise = torch.randn(50_000, 1, generator=torch.Generator().manual_seed(4))
    x = process.noisy(x0, noise, torch.full((50_000,), 6))
    bar = float(process.schedule.alpha_bar[6])
    assert float(x.mean()) == pytest.approx(2 * math.sqrt(bar), abs=0.02)
    assert float(x.var()) == pytest.approx(1 - bar, rel=0.02)


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


@pytest.mark.parametrize("scale", [0.0, 1.0, 1.2, 3.0])
def test_guidance_in_one_call_equals_two(scale):
    calls = []

    def denoiser(x, n, condition=None, present=None):
        calls.append(len(x))
        return torch.sin(x) + torch.where(present[:, None], condition, 0) * n[:, None]

    x, n, condition = torch.randn(6, 3), torch.randint(1, 9, (6,)), torch.randn(6, 1)
    found = guided(denoiser, condition, scale)(x, n)
    assert calls == [6 if scale in (0.0, 1.0) else 12]
    with_, without = (denoiser(x, n, condition, torch.full((6,), p)) for p in (True, False))
    assert torch.allclose(found, without + scale * (with_ - without), atol=1e-5)


@pytest.mark.parametrize("spacing", ["trailing", "leading", "linspace"])
def test_timesteps_fall_within_the_process(spacing):
    for count in (1, 3, 10, 200):
        steps = timesteps(200, count, spacing)
        assert len(steps) == count
        assert all(a > b for a, b in pairwise(steps))
        assert 1 <= steps[-1] <= steps[0] <= 200
    assert timesteps(200, 10) == list(range(200, 0, -20))
    assert timesteps(200, 10, "leading")[-1] == 1


def test_wrong_values_are_named():
    process = Process(make_schedule("vp", 4))
    with pytest.raises(ManyoneError, match="schedule 'warp'"):
        make_schedule("warp", 3)
    with pytest.raises(ManyoneError, match="5 sampling steps: must be 1 to 4"):
        sample(lambda x, n: x, process, torch.zeros(1, 1), steps=5)
    with pytest.raises(ManyoneError, match="needs draws"):
        sample(lambda x, n: x, process, torch.zeros(1, 1), sampler="ddpm")
