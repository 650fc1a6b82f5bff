"""Perceptrons as denoisers: sizes, members, conditions."""

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.nets.diffusion.denoisers import MLPDenoiser, ResidualMLPDenoiser
from manyone.nets.diffusion.process import Process
from manyone.nets.diffusion.sampling import sample
from manyone.nets.diffusion.schedules import make_schedule
from manyone.randomness import generator_for


def count(module):
    return sum(p.numel() for p in module.parameters())


def test_sizes_are_those_of_the_specification():
    assert count(MLPDenoiser(44, 5, 2, layout="per_step", embedding=32)) == 167_308
    assert count(MLPDenoiser(5, 5, 10, embedding=16)) == 152_393


def test_per_step_is_equivariant_to_the_order_of_steps_and_flat_is_not():
    order = torch.tensor([2, 0, 1])
    x, n, y = torch.randn(4, 3, 5), torch.tensor([1, 2, 3, 4]), torch.randn(4, 3, 2)
    one = MLPDenoiser(5, 3, 2, layout="per_step")
    assert torch.allclose(one(x, n, y)[:, order], one(x[:, order], n, y[:, order]), atol=1e-6)
    other = MLPDenoiser(5, 3, 6)
    assert not torch.allclose(other(x, n, y.flatten(1))[:, order], other(x[:, order], n, y[:, order].flatten(1)))


@pytest.mark.parametrize("layout", ["flat", "per_step"])
def test_members_are_as_each_alone(layout):
    nets = [MLPDenoiser(3, 4, 2, layout=layout, width=16, seed=seed) for seed in range(3)]
    stacked = {name: torch.stack([dict(net.named_parameters())[name] for net in nets])
               for name, _ in nets[0].named_parameters()}  # fmt: skip
    x, n = torch.randn(6, 4, 3), torch.randint(1, 9, (6,))
    y = torch.randn(6, 2) if layout == "flat" else torch.randn(6, 4, 2)
    together = nets[0].run(stacked, x, n, y)
    for i, net in enumerate(nets):
        rows = slice(2 * i, 2 * i + 2)
        assert torch.allclose(together[rows], net(x[rows], n[rows], y[rows]), atol=1e-6)


@pytest.mark.parametrize("net", [MLPDenoiser(3, 4, 2), ResidualMLPDenoiser(3, 4, 2, width=32)])
def test_rows_without_a_condition_do_not_see_it(net):
    x, n, y = torch.randn(4, 4, 3), torch.tensor([1, 5, 9, 9]), torch.randn(4, 2)
    present = torch.tensor([True, False, True, False])
    found = net(x, n, y, present)
    assert torch.allclose(found[~present], net(x, n)[~present])
    assert torch.allclose(found[present], net(x, n, y)[present])
    assert not torch.allclose(found[present], net(x, n)[present])


@pytest.mark.parametrize("make", [lambda s: MLPDenoiser(3, 4, seed=s), lambda s: ResidualMLPDenoiser(3, 4, seed=s)])
def test_weights_come_from_the_seed_and_config_makes_the_same_shape(make):
    a, b, c = make(0), make(0), make(1)
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert not all(torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters()))
    type(a)(**a.config()).load_state_dict(a.state_dict())


def test_wrong_sizes_are_named():
    with pytest.raises(ManyoneError, match="width = 0"):
        MLPDenoiser(3, 4, width=0)
    with pytest.raises(ManyoneError, match="condition of 3 numbers"):
        MLPDenoiser(3, 4, 2)(torch.zeros(1, 4, 3), torch.ones(1, dtype=torch.int64), torch.zeros(1, 3))


def trained(net, steps, x0, condition=None, seed=0):
    """``net`` after ``steps`` of Adam on the noise of ``x0`` rows [n, T, C], and its process."""
    process, optimiser = Process(make_schedule("vp", 10), clip=3.0), torch.optim.Adam(net.parameters(), lr=3e-3)
    for step in range(steps):
        draw = generator_for(seed, "step", step)
        rows = torch.randint(len(x0), (64,), generator=draw)
        noise, n = torch.randn(64, *x0.shape[1:], generator=draw), torch.randint(1, 11, (64,), generator=draw)
        told = None if condition is None else condition[rows]
        loss = process.loss(lambda x, n, told=told: net(x, n, told), x0[rows], noise, n)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return process


@torch.no_grad()
def sampled(net, process, condition, rows, shape):
    def drawn(k):
        return torch.randn(rows, *shape, generator=generator_for(1, "sample", k))

    return sample(lambda x, n: net(x, n, condition), process, drawn("start"), sampler="ddpm", draws=drawn)


def test_trained_on_one_constant_it_gives_this_constant_from_any_noise():
    x0 = torch.tensor([[[0.5, -1.0], [1.2, 0.3]]])
    net = MLPDenoiser(2, 2, width=64, seed=0)
    found = sampled(net, trained(net, 300, x0), None, 32, (2, 2))
    assert float((found - x0).abs().mean()) < 0.05


def test_trained_on_two_constants_it_selects_by_the_condition():
    x0 = torch.tensor([[[0.5, -1.0], [1.2, 0.3]], [[-0.7, 0.4], [0.1, -1.5]]])
    condition = torch.tensor([[0.0], [1.0]])
    net = MLPDenoiser(2, 2, 1, width=64, seed=0)
    process = trained(net, 400, x0, condition)
    which = torch.arange(32) % 2
    found = sampled(net, process, condition[which], 32, (2, 2))
    assert float((found - x0[which]).abs().mean()) < 0.05


@pytest.mark.parametrize("layout", ["flat", "per_step"])
@pytest.mark.parametrize("members", [0, 3])
@pytest.mark.parametrize("told", [True, False])
def test_the_network_of_a_chain_is_run_at_every_step(layout, members, told):
    nets = [MLPDenoiser(3, 4, 2, layout=layout, width=16, seed=seed).double() for seed in range(max(members, 1))]
    each = [dict(net.named_parameters()) for net in nets]
    weights = {name: torch.stack([one[name] for one in each]) if members else each[0][name] for name in each[0]}
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(6, 4, 3, generator=draw, dtype=torch.float64)
    shape = (6, 2) if layout == "flat" else (6, 4, 2)
    y = torch.randn(shape, generator=draw, dtype=torch.float64) if told else None
    network, outputs = nets[0].chain(weights, y, 5), []
    for step in (5, 3, 1):
        n = torch.full((6,), step)
        outputs.append((network(x, n), nets[0].run(weights, x, n, y)))
        torch.testing.assert_close(*outputs[-1])
    parameters = [p for one in each for p in one.values()]
    ours, theirs = (torch.autograd.grad(sum(o.square().sum() for o in side), parameters) for side in zip(*outputs))
    torch.testing.assert_close(ours, theirs)
