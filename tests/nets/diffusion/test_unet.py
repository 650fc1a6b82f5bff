"""The temporal U-Net: its published sizes, any horizon, conditions, and a plain formulation with the same weights."""

import pytest
import torch
import torch.nn.functional as F

from manyone.errors import ManyoneError
from manyone.nets.diffusion.unet import TemporalUNet


def inputs(rows=4, steps=8, channels=20):
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(rows, steps, channels, generator=draw)
    return x, torch.randint(1, 201, (rows,), generator=draw), torch.rand(rows, 1, generator=draw)


@pytest.mark.parametrize(
    ("dim", "multipliers", "millions"),
    [(32, (1, 2), 0.27), (64, (1, 2), 1.07), (64, (1, 2, 4), 4.1), (128, (1, 4, 8), 59.5), (256, (1, 2, 4), 65.4)],
)
def test_sizes_are_those_of_the_specification(dim, multipliers, millions, monkeypatch):
    monkeypatch.setattr("manyone.nets.diffusion.unet.draw_weights", lambda *_: None)  # takes a while for so many
    net = TemporalUNet(20, dim=dim, multipliers=multipliers)
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(millions * 1e6, rel=0.01)


@pytest.mark.parametrize("steps", [1, 2, 5, 7, 8, 12])
def test_any_horizon_works(steps):
    net = TemporalUNet(6, dim=16, multipliers=(1, 2, 2))
    x, n, condition = inputs(3, steps, 6)
    assert net(x, n, condition).shape == x.shape
    assert net(x, n, condition).isfinite().all()


def plain(w, x, n, condition, present):
    """The network of two levels, written down with the library's layers."""

    def linear(name, v):
        return F.linear(v, w[f"{name}.weight"], w[f"{name}.bias"])

    def block(name, v):  # [B, C, T]
        v = F.conv1d(v, w[f"{name}.weight"].permute(2, 1, 0), w[f"{name}.bias"], padding=2)
        return F.mish(F.group_norm(v, 8, w[f"{name}.gain"], w[f"{name}.shift"]))

    def residual(name, v):
        nonlocal used
        outputs = w[f"{name}.first.bias"].numel()
        h = block(f"{name}.first", v) + vectors[:, used : used + outputs, None]
        used += outputs
        around = linear(f"{name}.around", v.mT).mT if f"{name}.around.weight" in w else v
        return block(f"{name}.second", h) + around

    used, half = 0, w["step.first.weight"].shape[1] // 2
    angle = n[:, None] * torch.exp(torch.arange(half) * -(torch.log(torch.tensor(10000.0)) / (half - 1)))
    step = linear("step.second", F.mish(linear("step.first", torch.cat((angle.sin(), angle.cos()), 1))))
    told = linear("told.third", F.mish(linear("told.second", F.mish(linear("told.first", condition)))))
    vectors = linear("embed", F.mish(torch.cat((step, told * present[:, None]), 1)))
    h0 = residual("down.0.second", residual("down.0.first", x.mT))
    v = F.conv1d(h0, w["shorten.0.weight"].permute(2, 1, 0), w["shorten.0.bias"], stride=2, padding=1)
    h1 = residual("down.1.second", residual("down.1.first", v))
    v = residual("middle.second", residual("middle.first", h1))
    v = residual("up.0.second", residual("up.0.first", torch.cat((v, h1), 1)))
    v = F.conv_transpose1d(v, w["lengthen.0.weight"].permute(2, 1, 0), w["lengthen.0.bias"], stride=2, padding=1)
    return linear("out", block("end", v).mT)


def test_it_is_the_plain_formulation():
    net = TemporalUNet(20).double()
    x, n, condition = inputs()
    x, n, condition, present = x.double(), n.double(), condition.double(), torch.tensor([True, False, True, False])
    names, values = zip(*net.named_parameters())
    found = net(x, n, condition, present)
    wanted = plain(dict(zip(names, values)), x, n, condition, present)
    torch.testing.assert_close(found, wanted, atol=1e-6, rtol=1e-6)
    ours, theirs = (torch.autograd.grad(out.square().sum(), values) for out in (found, wanted))
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_rows_without_a_condition_do_not_see_it():
    net = TemporalUNet(20)
    x, n, condition = inputs()
    present = torch.tensor([True, False, True, False])
    found = net(x, n, condition, present)
    assert torch.allclose(found[~present], net(x, n)[~present], atol=1e-5)
    assert torch.allclose(found[present], net(x, n, condition)[present], atol=1e-5)
    assert not torch.allclose(found[present], net(x, n)[present], atol=1e-3)


def test_weights_come_from_the_seed_and_config_makes_the_same_shape():
    a, b, c = (TemporalUNet(6, dim=16, seed=s) for s in (0, 0, 1))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters()))
    assert not all(torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters()))
    TemporalUNet(**a.config()).load_state_dict(a.state_dict())


def test_wrong_sizes_are_named():
    for words, message in (({"dim": 20}, "dim = 20: must be even and a multiple of groups = 8"),
                           ({"kernel": 4}, "kernel = 4: must be odd"),
                           ({"multipliers": ()}, "levels = 0"),
                           ({"multipliers": (1, 0)}, r"multipliers\[1\] = 0")):  # fmt: skip
        with pytest.raises(ManyoneError, match=message):
            TemporalUNet(6, **words)
    net, (x, n, condition) = TemporalUNet(6, 0, dim=16), inputs(channels=6)
    assert net(x, n).shape == x.shape
    with pytest.raises(ManyoneError, match="was built for 0"):
        net(x, n, condition)
    with pytest.raises(ManyoneError, match="x has 20 channels"):
        net(inputs()[0], n)
