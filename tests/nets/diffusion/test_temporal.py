"""Convolutions as products: values and gradients of the library's own."""

import pytest
import torch
import torch.nn.functional as F

from manyone.nets.diffusion.temporal import conv_norm_mish, convolve, convolve_up


def leaves(*shapes, dtype=torch.float64):
    draw = torch.Generator().manual_seed(0)
    return [torch.randn(s, generator=draw, dtype=dtype).requires_grad_() for s in shapes]


def agree(found, wanted, inputs):
    torch.testing.assert_close(found, wanted)
    weights = torch.randn(found.shape, dtype=found.dtype, generator=torch.Generator().manual_seed(1))
    ours, theirs = (torch.autograd.grad((out * weights).sum(), inputs, allow_unused=True) for out in (found, wanted))
    torch.testing.assert_close(ours, theirs)


def library(x, weight, bias, stride=1):
    return F.conv1d(x.mT, weight.permute(2, 1, 0), bias, stride=stride, padding=len(weight) // 2).mT


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 8, 9, 13])
@pytest.mark.parametrize("taps", [1, 3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_convolution_is_the_library_s(steps, taps, stride):
    inputs = leaves((3, steps, 6), (taps, 6, 16), (16,))
    agree(convolve(*inputs, stride), library(*inputs, stride), inputs)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_a_transposed_convolution_is_the_library_s(steps):
    x, weight, bias = inputs = leaves((3, steps, 6), (4, 16, 6), (16,))
    wanted = F.conv_transpose1d(x.mT, weight.permute(2, 1, 0), bias, stride=2, padding=1).mT
    agree(convolve_up(*inputs), wanted, inputs)


@pytest.mark.parametrize("steps", [2, 3, 4, 8, 9])
@pytest.mark.parametrize("rows", [1, 5, 40])  # 40: more rows than channels, where the kernel is mirrored instead
def test_a_block_is_convolution_then_group_norm_then_mish(steps, rows):
    inputs = leaves((rows, steps, 6), (5, 6, 16), (16,), (16,), (16,))
    wanted = F.mish(F.group_norm(library(*inputs[:3]).mT, 8, *inputs[3:])).mT
    agree(conv_norm_mish(*inputs, 8), wanted, inputs)
    with torch.no_grad():
        torch.testing.assert_close(conv_norm_mish(*inputs, 8), wanted)


@pytest.mark.parametrize("steps", [1, 4])
@pytest.mark.parametrize("added", ["vector", "window"])
def test_what_is_added_to_a_block_has_its_gradient(steps, added):
    *inputs, plus = leaves((3, steps, 6), (5, 6, 16), (16,), (16,), (16,), (3, steps if added == "window" else 1, 16))
    found, wanted = conv_norm_mish(*inputs, 8, plus), conv_norm_mish(*inputs, 8) + plus
    agree(found, wanted, [*inputs, plus])
    with torch.no_grad():
        torch.testing.assert_close(conv_norm_mish(*inputs, 8, plus), wanted)


def test_only_what_is_asked_for_has_a_gradient():
    inputs = leaves((3, 4, 6), (5, 6, 16), (16,), (16,), (16,))
    every = torch.autograd.grad(conv_norm_mish(*inputs, 8).square().sum(), inputs)
    for place, one in enumerate(inputs):
        rest = [v if i == place else v.detach() for i, v in enumerate(inputs)]
        (alone,) = torch.autograd.grad(conv_norm_mish(*rest, 8).square().sum(), [one])
        torch.testing.assert_close(alone, every[place])


def test_views_of_other_layouts_are_taken_as_they_are():
    x, *rest = leaves((3, 8, 16), (5, 16, 16), (16,), (16,), (16,))
    other = x.detach().mT.contiguous().mT.requires_grad_()  # as the block before gives it
    found, wanted = (conv_norm_mish(v, *rest, 8) for v in (other, x))
    torch.testing.assert_close(found, wanted)
    grads = [torch.autograd.grad(out.square().sum(), [v, *rest]) for out, v in ((found, other), (wanted, x))]
    torch.testing.assert_close(*grads)


def test_autocast_reaches_the_blocks():
    inputs = [
        v.detach().requires_grad_() for v in leaves((3, 8, 6), (5, 6, 16), (16,), (16,), (16,), dtype=torch.float32)
    ]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = conv_norm_mish(*inputs, 8), convolve(*inputs[:3], 2), convolve_up(inputs[0], inputs[1][:4].mT, inputs[2])
    whole = conv_norm_mish(*inputs, 8), convolve(*inputs[:3], 2), convolve_up(inputs[0], inputs[1][:4].mT, inputs[2])
    assert half[1].dtype == half[2].dtype == torch.bfloat16
    for found, wanted in zip(half, whole):
        torch.testing.assert_close(found.float(), wanted, atol=0.2, rtol=0.1)
    sum(v.float().sum() for v in half).backward()
    assert all(v.grad is not None and v.grad.dtype == torch.float32 for v in inputs)
