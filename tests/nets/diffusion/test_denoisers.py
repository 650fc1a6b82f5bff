"""Perceptrons as denoisers: sizes, members, conditions."""

import pytest
import torch

from manyone.errors import ManyoneError
from manyone.nets.diffusion.denoisers import MLPDenoiser, ResidualMLPDenoiser


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
