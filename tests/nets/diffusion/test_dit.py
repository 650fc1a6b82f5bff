"""The diffusion transformer: it starts as nothing, learns, takes any horizon, and is the plain formulation."""

import pytest
import torch
import torch.nn.functional as F

from manyone.errors import ManyoneError
from manyone.nets.diffusion.dit import DiT


def given(steps=6, channels=5):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(4, steps, channels, generator=draw)
    return x, torch.tensor([1, 4, 9, 200]), torch.rand(4, 2, generator=draw)


def filled(net):
    """Weights that the zeros at the start do not hide."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if name.startswith(("modulate.", "last.")):
                value.copy_(0.1 * torch.randn(value.shape, generator=draw))
    return net


def test_a_fresh_network_gives_zero_and_its_blocks_let_everything_pass():
    net = DiT(5, 2, width=16, layers=2, heads=2)
    x, n, condition = given()
    assert torch.equal(net(x, n, condition), torch.zeros_like(x))
    h, vectors = torch.randn(4, 6, 16), torch.zeros(6, 4, 1, 16).unbind(0)
    assert torch.equal(net.blocks[0](h, vectors), h)


def plain(w, x, n, condition, heads):
    def linear(name, v):
        return F.linear(v, w[f"{name}.weight"], w[f"{name}.bias"])

    def waves(at):
        half = width // 2
        angle = at[:, None] * torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
        return torch.cat((angle.sin(), angle.cos()), 1)

    def norm(v, shift, scale):
        v = (v - v.mean(-1, keepdim=True)) / (v.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        return v * (1 + scale) + shift

    width = w["first.bias"].numel()
    e = linear("step.second", F.mish(linear("step.first", waves(n))))
    e = e + linear("told.third", F.mish(linear("told.second", F.mish(linear("told.first", condition)))))
    parts = linear("modulate", F.silu(e))[:, None].split(width, -1)
    h = linear("first", x) + waves(torch.arange(x.shape[1]))
    layers = (len(parts) - 2) // 6
    for k in range(layers):
        b1, s1, g1, b2, s2, g2 = parts[6 * k : 6 * k + 6]
        q, k_, v = linear(f"blocks.{k}.qkv", norm(h, b1, s1)).split(width, -1)
        mixed = []
        for i in range(heads):
            own = slice(i * width // heads, (i + 1) * width // heads)
            weights = (q[..., own] @ k_[..., own].mT / (width // heads) ** 0.5).softmax(-1)
            mixed.append(weights @ v[..., own])
        h = h + g1 * linear(f"blocks.{k}.project", torch.cat(mixed, -1))
        inner = F.gelu(linear(f"blocks.{k}.wide", norm(h, b2, s2)), approximate="tanh")
        h = h + g2 * linear(f"blocks.{k}.narrow", inner)
    return linear("last", norm(h, *parts[-2:]))


def test_it_is_the_plain_formulation():
    net = filled(DiT(5, 2, width=16, layers=2, heads=2))
    x, n, condition = given()
    wanted = plain(dict(net.named_parameters()), x, n, condition, 2)
    torch.testing.assert_close(net(x, n, condition), wanted, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("steps", [1, 3, 8])
def test_any_horizon_works_and_the_order_of_steps_matters(steps):
    net = filled(DiT(5, 2, width=16, layers=2, heads=2))
    x, n, condition = given(steps)
    found = net(x, n, condition)
    assert found.shape == x.shape
    if steps > 1:
        assert not torch.allclose(net(x.flip(1), n, condition).flip(1), found, atol=1e-3)


def test_rows_without_a_condition_do_not_see_it():
    net = filled(DiT(5, 2, width=16, layers=2, heads=2))
    x, n, condition = given()
    present = torch.tensor([True, False, True, False])
    found = net(x, n, condition, present)
    assert torch.allclose(found[~present], net(x, n)[~present], atol=1e-6)
    assert torch.allclose(found[present], net(x, n, condition)[present], atol=1e-6)
    assert not torch.allclose(found[present], net(x, n)[present], atol=1e-3)


def test_it_learns():
    net = DiT(3, 0, width=16, layers=1, heads=2)
    optimiser = torch.optim.Adam(net.parameters(), lr=1e-2)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(64, 4, 3, generator=draw)
    n = torch.ones(64, dtype=torch.int64)
    losses = []
    for _ in range(100):
        loss = (net(x, n) - x.flip(1)).square().mean()  # a token must read another
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]


def test_weights_come_from_the_seed_and_config_makes_the_same_shape():
    a, b, c = (DiT(5, 2, width=16, layers=2, heads=2, seed=s) for s in (0, 0, 1))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert not all(torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters()))
    DiT(**a.config()).load_state_dict(a.state_dict())


def test_wrong_sizes_are_named():
    with pytest.raises(ManyoneError, match="width = 18: must be even and a multiple of heads = 4"):
        DiT(5, width=18)
    x, n, condition = given()
    with pytest.raises(ManyoneError, match="was built for 0"):
        DiT(5, 0, width=16)(x, n, condition)
    with pytest.raises(ManyoneError, match="x has 5 channels"):
        DiT(4, 2, width=16)(x, n, condition)
