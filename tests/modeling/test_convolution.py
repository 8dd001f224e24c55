"""Convolutions whose weight gradients are matrix products, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from queryinst.modeling import convolution
from queryinst.modeling.convolution import MIN_PIXELS, convolve

CASES = {  # height, width, channels in and out, kernel, stride, padding
    "3x3": ((19, 16), (3, 5), (3, 3), (1, 1), (1, 1)),
    "3x3, stride 2": ((17, 18), (3, 5), (3, 3), (2, 2), (1, 1)),
    "3x3, unequal strides": ((23, 18), (2, 3), (3, 3), (2, 3), (1, 0)),
    "1x2": ((16, 16), (4, 2), (1, 2), (1, 1), (0, 0)),
    "2x1, stride 3": ((17, 16), (4, 2), (2, 1), (3, 3), (0, 0)),
    "unpadded": ((16, 18), (3, 2), (3, 3), (1, 1), (0, 0)),
    "2x3, much padding": ((16, 17), (2, 2), (2, 3), (1, 1), (3, 2)),
}


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    monkeypatch.setattr(convolution, "MIN_PRODUCTS", 0)


def make(case: str, dtype=torch.float64):
    torch.manual_seed(0)
    size, channels, kernel, stride, padding = CASES[case]
    x = torch.randn(2, channels[0], *size, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(channels[1], channels[0], *kernel, dtype=dtype, requires_grad=True)
    bias = torch.randn(channels[1], dtype=dtype, requires_grad=True)
    return x, weight, bias, stride, padding


def is_own(y: torch.Tensor) -> bool:
    return "_Convolve" in type(y.grad_fn).__name__


@pytest.mark.parametrize("share", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_torchs(case, share):
    """Whether all, a few or no pixels of the result have a gradient."""
    x, weight, bias, stride, padding = make(case)
    found = convolve(x, weight, bias, stride, padding, (1, 1), 1)
    expected = F.conv2d(x, weight, bias, stride, padding)
    assert is_own(found) and torch.equal(found, expected)
    grad = torch.randn_like(found) * (torch.rand_like(found[:, :1]) < share)
    inputs = (x, weight, bias)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["3x3", "3x3, stride 2", "1x2"])
def test_gradcheck(case):
    x, weight, bias, stride, padding = make(case)

    def run(weight, bias):
        return convolve(x.detach(), weight, bias, stride, padding, (1, 1), 1)

    assert torch.autograd.gradcheck(run, (weight, bias))


def test_single_precision_sums_as_exactly_as_torch():
    x, weight, _, stride, padding = make("3x3", torch.float32)
    y = convolve(x, weight, None, stride, padding, (1, 1), 1)
    grad = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, weight, grad)
    exact = F.conv2d(x.double(), weight.double(), None, stride, padding)
    (exact,) = torch.autograd.grad(exact, weight, grad.double())
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


def test_frozen_weights_are_torchs_business():
    x, weight, bias, stride, padding = make("3x3")
    y = convolve(x, weight.detach(), bias, stride, padding, (1, 1), 1)
    assert y.requires_grad and not is_own(y)


def other_cases():
    x, weight, bias, stride, padding = make("3x3")
    common = (stride, padding)
    yield "channels first", (x.detach().contiguous(), weight, bias, *common, (1, 1), 1)
    yield "dilated", (x, weight, bias, *common, (2, 2), 1)
    yield "groups", (torch.cat([x, x], 1), torch.cat([weight] * 2), None, *common, (1, 1), 2)
    side = int(MIN_PIXELS**0.5) - 1
    yield "small map", (x[:, :, :side, :side], weight, bias, *common, (1, 1), 1)
    yield "one tap", (x, weight[:, :, :1, :1], bias, *common, (1, 1), 1)
    yield "large kernel", (x, weight.repeat(1, 1, 2, 1), bias, *common, (1, 1), 1)
    yield "no images", (x[:0], weight, bias, *common, (1, 1), 1)
    yield "half", (x.bfloat16(), weight.bfloat16(), bias.bfloat16(), *common, (1, 1), 1)


@pytest.mark.parametrize(
    "name, args", [pytest.param(name, args, id=name) for name, args in other_cases()]
)
def test_all_else_is_torchs(name, args):
    y = convolve(*args)
    assert torch.equal(y, F.conv2d(*args))
    if name == "no images":
        y.sum().backward()
        assert args[1].grad.abs().sum() == 0
    else:
        assert not is_own(y)


def test_tracers_and_autocast_see_torchs_own():
    x, weight, bias, stride, padding = make("3x3", torch.float32)
    args = (x, weight, bias, stride, padding, (1, 1), 1)
    with torch.autocast("cpu", torch.bfloat16):
        y = convolve(*args)
    assert y.dtype == torch.bfloat16 and not is_own(y)
    with torch.no_grad():
        assert torch.equal(convolve(*args), F.conv2d(*args[:5]))


def test_small_convolutions_are_torchs(monkeypatch):
    """Products of numbers: images, pixels of the result, channels in and out, taps."""
    x, weight, bias, stride, padding = make("3x3, stride 2")
    args = (x, weight, bias, stride, padding, (1, 1), 1)
    num_products = (2 * 17 * 18 // 4) * 3 * 5 * 9
    monkeypatch.setattr(convolution, "MIN_PRODUCTS", num_products)
    assert is_own(convolve(*args))
    monkeypatch.setattr(convolution, "MIN_PRODUCTS", num_products + 3 * 5 * 9)
    assert not is_own(convolve(*args))


def test_images_are_taken_a_few_at_a_time(monkeypatch):
    x, weight, _, stride, padding = make("3x3")
    grad = torch.randn(2, 5, 19, 16, dtype=torch.float64)
    args = (x.detach(), grad, weight.shape, stride, padding)
    whole = convolution.weight_gradient(*args)
    monkeypatch.setattr(convolution, "MAX_TABLE", 1)
    torch.testing.assert_close(convolution.weight_gradient(*args), whole)
