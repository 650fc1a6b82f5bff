"""Mish: the library's values and slopes, over its whole range."""

import pytest
import torch
import torch.nn.functional as F

from manyone.nets.diffusion.activation import mish, mish_with_slope


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
def test_values_and_slopes_are_the_library_s(dtype, tolerance):
    x = torch.cat((torch.linspace(-120, 120, 4001), torch.linspace(-5, 5, 4001))).to(dtype).requires_grad_()
    found, wanted = mish(x), F.mish(x.double())
    torch.testing.assert_close(found.double(), wanted, atol=tolerance, rtol=tolerance)
    ours, theirs = (torch.autograd.grad(y.sum(), x)[0] for y in (found, wanted))
    torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    value, slope = mish_with_slope(x.detach())
    torch.testing.assert_close((value, slope), (found.detach(), ours))
    with torch.no_grad():
        torch.testing.assert_close(mish(x).double(), wanted, atol=tolerance, rtol=tolerance)


def test_small_tensors_other_types_and_autocast_take_the_library_s():
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mish(x), F.mish(x))
    large = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    assert torch.equal(mish(large.bfloat16()), F.mish(large.bfloat16()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(mish(large), F.mish(large))
