"""The process between data and noise: marginals, targets, estimates, known entries."""

import math

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.nets.diffusion.process import Known, Process
from manyone.nets.diffusion.schedules import make_schedule


def test_the_marginal_of_noising_has_its_moments():
    process = Process(make_schedule("vp", 10))
    x0 = torch.full((50_000, 1), 2.0)
    noise = torch.randn(50_000, 1, generator=torch.Generator().manual_seed(4))
    x = process.noisy(x0, noise, torch.full((50_000,), 6))
    bar = float(process.schedule.alpha_bar[6])
    assert float(x.mean()) == pytest.approx(2 * math.sqrt(bar), abs=0.02)
    assert float(x.var()) == pytest.approx(1 - bar, rel=0.02)


def test_known_entries_are_put_in_and_count_for_nothing_in_the_loss():
    process = Process(make_schedule("cosine", 20))
    x0, noise = torch.randn(2, 2, 3, 4, generator=torch.Generator().manual_seed(0)).unbind(0)
    n, known = torch.tensor([3, 9]), Known(torch.tensor([True, False, False])[:, None], x0)
    outputs = []

    def network(x, n, louder=0.0):
        assert torch.equal(x[:, 0], x0[:, 0])
        outputs.append(0.5 * x + louder * known.where)
        return outputs[-1]

    plain = process.loss(network, x0, noise, n, known)
    assert process.loss(lambda x, n: network(x, n, 1e3), x0, noise, n, known) == plain
    torch.testing.assert_close(plain, (outputs[0] - noise)[:, 1:].square().mean())
    torch.testing.assert_close(process.loss(lambda x, n: x0, x0, noise, n), (x0 - noise).square().mean())


@pytest.mark.parametrize("name", ["cosine", "linear", "vp"])
@pytest.mark.parametrize("total", ["few", 200, 1000])
def test_noising_and_velocity_are_those_of_diffusers(name, total, diffusers):
    theirs = diffusers.schedule(name, total)
    process = Process(make_schedule(name, theirs["total"]), "velocity")
    given = (diffusers.x0, diffusers.noise, torch.tensor(theirs["n"]))
    torch.testing.assert_close(process.noisy(*given), torch.tensor(theirs["noisy"]), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(process.target(*given), torch.tensor(theirs["velocity"]), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("prediction", ["noise", "data", "velocity"])
def test_estimates_undo_noising(prediction):
    process = Process(make_schedule("cosine", 30), prediction, dtype=torch.float64)
    x0, noise = torch.randn(2, 4, 3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind(0)
    n = torch.tensor([1, 7, 20, 29])
    data, found = process.estimates(process.noisy(x0, noise, n), process.target(x0, noise, n), n)
    torch.testing.assert_close(data, x0)
    torch.testing.assert_close(found, noise)
    one = process.estimates(x0, noise, 7)
    torch.testing.assert_close(one, process.estimates(x0, noise, torch.full((4,), 7)))


def test_estimates_are_clipped_to_a_number_or_to_bounds():
    schedule, data = make_schedule("cosine", 5), torch.tensor([[-3.0, 0.5, 3.0]])
    assert torch.equal(Process(schedule, clip=1.0).clipped(data), torch.tensor([[-1.0, 0.5, 1.0]]))
    bounds = (torch.tensor([-2.0, 1.0, 0.0]), torch.tensor([2.0, 2.0, 9.0]))
    assert torch.equal(Process(schedule, clip=bounds).clipped(data), torch.tensor([[-2.0, 1.0, 3.0]]))
    assert Process(schedule).clipped(data) is data


def test_members_may_have_an_axis_of_their_own():
    process = Process(make_schedule("cosine", 9), "velocity")
    x0, noise = torch.randn(2, 3, 4, 5, 2, generator=torch.Generator().manual_seed(0)).unbind(0)
    n = torch.randint(1, 10, (3, 4), generator=torch.Generator().manual_seed(1))
    for method in (process.noisy, process.target):
        flat = method(x0.flatten(0, 1), noise.flatten(0, 1), n.flatten())
        assert torch.equal(method(x0, noise, n), flat.view_as(x0))


def test_wrong_values_are_named():
    for words, message in (({"prediction": "score"}, "prediction 'score'"), ({"clip": 0.0}, "clip = 0.0")):
        with pytest.raises(ManyoneError, match=message):
            Process(make_schedule("vp", 3), **words)
