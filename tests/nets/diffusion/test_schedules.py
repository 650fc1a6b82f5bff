"""Noise schedules: they fall, end where they should, and are those of diffusers."""

import math

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.nets.diffusion.schedules import Schedule, make_schedule

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


@pytest.mark.parametrize("name", NAMES)
def test_beta_is_what_alpha_bar_is_made_of(name):
    schedule = make_schedule(name, 20)
    assert schedule.beta[0] == 0
    assert ((schedule.beta[1:] > 0) & (schedule.beta[1:] < 1)).all()
    torch.testing.assert_close((1 - schedule.beta).cumprod(0), schedule.alpha_bar)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("total", ["few", 200, 1000])
def test_alpha_bar_is_that_of_diffusers(name, total, diffusers):
    theirs = diffusers.schedule(name, total)
    ours = make_schedule(name, theirs["total"]).alpha_bar[theirs["n"]]
    torch.testing.assert_close(ours, torch.tensor(theirs["alpha_bar"], dtype=torch.float64), atol=1e-6, rtol=1e-3)


def test_limits_can_be_given_where_a_schedule_has_them():
    bar = make_schedule("vp", 7, beta_min=0.2, beta_max=4.0).alpha_bar
    assert float(bar[-1]) == pytest.approx(math.exp(-0.2 - 0.5 * 3.8), rel=1e-12)
    assert float(make_schedule("linear", 1000, beta_max=0.01).beta[-1]) == pytest.approx(0.01)


def test_wrong_values_are_named():
    for call, message in ((lambda: make_schedule("warp", 3), "schedule 'warp'"),
                          (lambda: make_schedule("vp", 0), "diffusion steps = 0"),
                          (lambda: make_schedule("cosine", 3, beta_min=0.1), "has no beta_min"),
                          (lambda: make_schedule("linear", 3, beta_min=-1.0), "must be above 0"),
                          (lambda: Schedule("mine", torch.ones(3)), "must start at 1 and fall")):  # fmt: skip
        with pytest.raises(ManyoneError, match=message):
            call()
