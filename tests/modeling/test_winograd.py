"""3x3 convolutions by Winograd's filtering, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from queryinst.modeling import convolution, winograd
from queryinst.modeling.convolution import convolve

SHAPES = {  # images, height, width, channels in and out
    "RoIs": (5, 14, 14, 6, 4),
    "odd height and width": (2, 15, 13, 3, 5),
    "odd width": (1, 8, 11, 2, 3),
    "one pixel": (2, 1, 1, 3, 2),
    "one row": (1, 1, 7, 2, 2),
    "an image in many parts": (2, 40, 36, 4, 2),
    "no image": (0, 6, 6, 2, 3),
}


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 1)
    monkeypatch.setattr(winograd, "MIN_PRODUCTS", 0)
    # One RoI at once, and five rows of tiles of the largest image.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    monkeypatch.setattr(winograd, "FLOATS_PER_THREAD", 6 * 16 * 60)


def make(name: str, dtype=torch.float64):
    torch.manual_seed(0)
    images, height, width, channels, num_out = SHAPES[name]
    x = torch.randn(images, channels, height, width, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(num_out, channels, 3, 3, dtype=dtype, requires_grad=True)
    bias = torch.randn(num_out, dtype=dtype, requires_grad=True)
    return x, weight, bias


def run(x, weight, bias):
    return convolve(x, weight, bias, (1, 1), (1, 1), (1, 1), 1)


@pytest.fixture
def calls(monkeypatch):
    """Names of the functions of `winograd` that ran."""
    names = []
    for name in ("convolve_3x3", "weight_gradient", "input_gradient"):

        def record(*args, name=name, function=getattr(winograd, name)):
            names.append(name)
            return function(*args)

        monkeypatch.setattr(winograd, name, record)
    return names


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("name", SHAPES)
def test_values_and_gradients_are_torchs(name, has_bias, calls):
    x, weight, bias = make(name)
    inputs = (x, weight, bias) if has_bias else (x, weight)
    found = run(x, weight, bias if has_bias else None)
    expected = F.conv2d(*inputs, padding=1)
    assert found.shape == expected.shape
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(found)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    if name != "no image":
        assert set(calls) == {"convolve_3x3", "weight_gradient", "input_gradient"}


def test_gradcheck():
    x, weight, bias = make("odd width")
    assert torch.autograd.gradcheck(run, (x, weight, bias))


def test_no_more_tiles_at_once_than_fit_the_cache(monkeypatch):
    shapes = []
    transform = winograd._transform_patches
    monkeypatch.setattr(
        winograd, "_transform_patches", lambda x: shapes.append(x.shape) or transform(x)
    )
    x, weight, bias = make("RoIs")
    monkeypatch.setattr(winograd, "FLOATS_PER_THREAD", 2 * 49 * 16 * 6)
    run(x, weight, bias)
    assert [tuple(shape) for shape in shapes] == [(2, 16, 16, 6)] * 2 + [(1, 16, 16, 6)]


def test_single_precision_is_as_exact_as_torchs():
    torch.manual_seed(0)
    x = torch.randn(2, 64, 20, 20).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, requires_grad=True)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    theirs = (F.conv2d(x, weight, padding=1) - exact).abs().max()
    y = run(x, weight, None)
    assert (y - exact).abs().max() < 2 * theirs
    grad = torch.randn_like(y)
    (found,) = torch.autograd.grad(y, weight, grad)
    (exact,) = torch.autograd.grad(exact, weight, grad.double())
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 1e-5 * exact.abs().max()


def test_result_may_be_changed_in_place():
    x, weight, bias = make("odd width")
    y = F.relu_(run(x, weight, bias))
    expected = F.relu(F.conv2d(x, weight, bias, padding=1))
    grads = torch.autograd.grad(y.sum(), (x, weight)), torch.autograd.grad(
        expected.sum(), (x, weight)
    )
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_sparse_gradients_go_by_the_pixels_that_have_one(calls, monkeypatch):
    x, weight, bias = make("an image in many parts")
    y = run(x, weight, bias)
    expected = F.conv2d(x, weight, bias, padding=1)
    grad = torch.randn_like(y) * (torch.rand_like(y[:, :1]) < 0.2)
    monkeypatch.setattr(convolution, "SAMPLE", grad.numel())  # all, for a share that is sure
    for ours, theirs in zip(
        torch.autograd.grad(y, (x, weight), grad), torch.autograd.grad(expected, (x, weight), grad)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    assert "weight_gradient" not in calls


def test_frozen_weights_get_no_gradient(calls):
    x, weight, bias = make("RoIs")
    run(x, weight.detach(), bias.detach()).sum().backward()
    (expected,) = torch.autograd.grad(F.conv2d(x, weight, bias, padding=1).sum(), x)
    torch.testing.assert_close(x.grad, expected, rtol=1e-11, atol=1e-11)
    assert "weight_gradient" not in calls


def test_few_channels_and_few_tiles_are_torchs(calls, monkeypatch):
    """Tiles, channels in and channels out."""
    x, weight, bias = make("RoIs")
    num_products = 5 * 7 * 7 * 6 * 4
    with torch.no_grad():
        monkeypatch.setattr(winograd, "MIN_PRODUCTS", num_products + 1)
        run(x, weight, bias)
        monkeypatch.setattr(winograd, "MIN_PRODUCTS", num_products)
        monkeypatch.setattr(winograd, "MIN_CHANNELS", 5)
        run(x, weight, bias)
        assert calls == []
        monkeypatch.setattr(winograd, "MIN_CHANNELS", 4)
        run(x, weight, bias)
        assert calls == ["convolve_3x3"]


@pytest.mark.parametrize(
    "stride, padding, dilation, kernel",
    [
        ((2, 2), (1, 1), (1, 1), 3),
        ((1, 1), (0, 0), (1, 1), 3),
        ((1, 1), (2, 2), (2, 2), 3),
        ((1, 1), (1, 1), (1, 1), 2),
    ],
)
def test_other_convolutions_are_torchs(stride, padding, dilation, kernel, calls):
    x, weight, bias = make("RoIs")
    weight = weight[:, :, :kernel, :kernel]
    args = (x, weight, bias, stride, padding, dilation)
    assert torch.equal(convolve(*args, 1), F.conv2d(*args)) and calls == []


def test_tracers_and_autocast_see_torchs_own(calls):
    x, weight, bias = make("RoIs", torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        assert run(x, weight, bias).dtype == torch.bfloat16
    frozen = weight.detach(), bias.detach()
    torch.jit.trace(lambda x: run(x, *frozen), x.detach(), check_trace=False)
    assert calls == []
