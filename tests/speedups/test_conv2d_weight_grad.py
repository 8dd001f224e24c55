"""Convolutions whose weight gradients are matrix products, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from queryinst.speedups import conv2d_weight_grad
from queryinst.speedups.conv2d import Geometry, convolve
from queryinst.speedups.conv2d_weight_grad import MIN_PIXELS, WeightGradByProducts

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
    monkeypatch.setattr(conv2d_weight_grad, "MIN_PRODUCTS", 0)


def make(case: str, dtype=torch.float64):
    torch.manual_seed(0)
    size, channels, kernel, stride, padding = CASES[case]
    x = torch.randn(2, channels[0], *size, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(channels[1], channels[0], *kernel, dtype=dtype, requires_grad=True)
    bias = torch.randn(channels[1], dtype=dtype, requires_grad=True)
    return x, weight, bias, stride, padding


def run(x, weight, bias, stride, padding):
    return convolve((WeightGradByProducts(),), x, weight, bias, Geometry(stride, padding))


def is_own(y: torch.Tensor) -> bool:
    return "_Convolve" in type(y.grad_fn).__name__


@pytest.mark.parametrize("share", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("case", CASES)
def test_WeightGradByProducts_has_torchs_values_and_gradients(case, share):
    """Whether all, a few or no pixels of the result have a gradient."""
    x, weight, bias, stride, padding = make(case)
    y = run(x, weight, bias, stride, padding)
    expected = F.conv2d(x, weight, bias, stride, padding)
    assert is_own(y) and torch.equal(y, expected)
    grad = torch.randn_like(y) * (torch.rand_like(y[:, :1]) < share)
    inputs = (x, weight, bias)
    for ours, theirs in zip(
        torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, inputs, grad)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", ["3x3", "3x3, stride 2", "1x2"])
def test_WeightGradByProducts_passes_gradcheck(case):
    x, weight, bias, stride, padding = make(case)

    def run_frozen(weight, bias):
        return run(x.detach(), weight, bias, stride, padding)

    assert torch.autograd.gradcheck(run_frozen, (weight, bias))


def test_weight_gradient_sums_as_exactly_as_torch_in_single_precision():
    x, weight, _, stride, padding = make("3x3", torch.float32)
    y = run(x, weight, None, stride, padding)
    grad = torch.randn_like(y)
    (weight_grad,) = torch.autograd.grad(y, weight, grad)
    exact = F.conv2d(x.double(), weight.double(), None, stride, padding)
    (exact,) = torch.autograd.grad(exact, weight, grad.double())
    assert weight_grad.dtype == torch.float32
    assert (weight_grad - exact).abs().max() < 1e-5 * exact.abs().max()


def test_WeightGradByProducts_leaves_frozen_weights_to_torch():
    x, weight, bias, stride, padding = make("3x3")
    y = run(x, weight.detach(), bias, stride, padding)
    assert y.requires_grad and not is_own(y)


def other_cases():
    x, weight, bias, stride, padding = make("3x3")
    side = int(MIN_PIXELS**0.5) - 1
    yield "small map", (x[:, :, :side, :side], weight, bias, stride, padding)
    yield "one tap", (x, weight[:, :, :1, :1], bias, stride, padding)
    yield "large kernel", (x, weight.repeat(1, 1, 2, 1), bias, stride, padding)


@pytest.mark.parametrize("args", [pytest.param(args, id=name) for name, args in other_cases()])
def test_WeightGradByProducts_leaves_all_else_to_torch(args):
    y = run(*args)
    assert torch.equal(y, F.conv2d(*args)) and not is_own(y)


def test_WeightGradByProducts_leaves_the_result_to_torch():
    x, weight, bias, stride, padding = make("3x3", torch.float32)
    args = (x, weight, bias, stride, padding)
    with torch.no_grad():
        assert torch.equal(run(*args), F.conv2d(*args))


def test_MIN_PRODUCTS_leaves_small_convolutions_to_torch(monkeypatch):
    """Products of numbers: images, pixels of the result, channels in and out, taps."""
    x, weight, bias, stride, padding = make("3x3, stride 2")
    args = (x, weight, bias, stride, padding)
    num_products = (2 * 17 * 18 // 4) * 3 * 5 * 9
    monkeypatch.setattr(conv2d_weight_grad, "MIN_PRODUCTS", num_products)
    assert is_own(run(*args))
    monkeypatch.setattr(conv2d_weight_grad, "MIN_PRODUCTS", num_products + 3 * 5 * 9)
    assert not is_own(run(*args))


def test_weight_gradient_takes_a_few_images_at_a_time(monkeypatch):
    x, weight, _, stride, padding = make("3x3")
    grad = torch.randn(2, 5, 19, 16, dtype=torch.float64)
    args = (x.detach(), grad, weight.shape, stride, padding)
    whole = conv2d_weight_grad.weight_gradient(*args)
    monkeypatch.setattr(conv2d_weight_grad, "MAX_TABLE", 1)
    torch.testing.assert_close(conv2d_weight_grad.weight_gradient(*args), whole)
