"""Guidance: one call of twice the rows is two calls."""

import pytest
import torch

from manyone.nets.diffusion.guidance import guided
from manyone.nets.diffusion.unet import TemporalUNet


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


@pytest.mark.parametrize("condition", [None, torch.rand(3, 1)])
def test_without_a_condition_or_scale_a_network_is_unconditional(condition):
    net = TemporalUNet(4, dim=16)
    x, n = torch.randn(3, 4, 4), torch.tensor([1, 5, 9])
    found = guided(net, condition, 0.0 if condition is not None else 1.2)(x, n)
    torch.testing.assert_close(found, net(x, n), atol=1e-6, rtol=1e-5)
