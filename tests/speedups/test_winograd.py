"""3x3 convolutions by Winograd's filtering, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from queryinst.speedups import conv2d, winograd
from queryinst.speedups.conv2d import Geometry, convolve
from queryinst.speedups.conv2d_weight_grad import WeightGradByProducts
from queryinst.speedups.winograd import Winograd

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


def run(x, weight, bias, stride=(1, 1), padding=(1, 1)):
    return convolve((Winograd(),), x, weight, bias, Geometry(stride, padding))


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
def test_Winograd_has_torchs_values_and_gradients(name, has_bias, calls):
    x, weight, bias = make(name)
    inputs = (x, weight, bias) if has_bias else (x, weight)
    y = run(x, weight, bias if has_bias else None)
    expected = F.conv2d(*inputs, padding=1)
    assert y.shape == expected.shape
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(y)
    for ours, theirs in zip(
        torch.autograd.grad(y, inputs, grad),
        torch.autograd.grad(expected, inputs, grad),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    if name != "no image":
        assert set(calls) == {"convolve_3x3", "weight_gradient", "input_gradient"}


def test_Winograd_passes_gradcheck():
    x, weight, bias = make("odd width")
    assert torch.autograd.gradcheck(run, (x, weight, bias))


def test_convolve_3x3_takes_no_more_tiles_at_once_than_fit_the_cache(monkeypatch):
    shapes = []
    transform = winograd._transform_patches
    monkeypatch.setattr(
        winograd, "_transform_patches", lambda x: shapes.append(x.shape) or transform(x)
    )
    x, weight, bias = make("RoIs")
    monkeypatch.setattr(winograd, "FLOATS_PER_THREAD", 2 * 49 * 16 * 6)
    run(x, weight, bias)
    assert [tuple(shape) for shape in shapes] == [(2, 16, 16, 6)] * 2 + [(1, 16, 16, 6)]


def test_Winograd_is_as_exact_as_torch_in_single_precision():
    torch.manual_seed(0)
    x = torch.randn(2, 64, 20, 20).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 64, 3, 3, requires_grad=True)
    exact = F.conv2d(x.double(), weight.double(), padding=1)
    theirs = (F.conv2d(x, weight, padding=1) - exact).abs().max()
    y = run(x, weight, None)
    assert (y - exact).abs().max() < 2 * theirs
    grad = torch.randn_like(y)
    (weight_grad,) = torch.autograd.grad(y, weight, grad)
    (exact,) = torch.autograd.grad(exact, weight, grad.double())
    assert weight_grad.dtype == torch.float32
    assert (weight_grad - exact).abs().max() < 1e-5 * exact.abs().max()


def test_convolve_3x3_gives_a_result_that_may_be_changed_in_place():
    x, weight, bias = make("odd width")
    y = F.relu_(run(x, weight, bias))
    expected = F.relu(F.conv2d(x, weight, bias, padding=1))
    grads = torch.autograd.grad(y.sum(), (x, weight)), torch.autograd.grad(
        expected.sum(), (x, weight)
    )
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)


def test_Winograd_leaves_weights_of_sparse_gradients_to_other_ways(calls, monkeypatch):
    x, weight, bias = make("an image in many parts")
    ways = (Winograd(), WeightGradByProducts())
    y = convolve(ways, x, weight, bias, Geometry((1, 1), (1, 1)))
    expected = F.conv2d(x, weight, bias, padding=1)
    grad = torch.randn_like(y) * (torch.rand_like(y[:, :1]) < 0.2)
    monkeypatch.setattr(conv2d, "SAMPLE", grad.numel())  # all, for a share that is sure
    for ours, theirs in zip(
        torch.autograd.grad(y, (x, weight), grad), torch.autograd.grad(expected, (x, weight), grad)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-11, atol=1e-11)
    assert "weight_gradient" not in calls


def test_Winograd_gives_frozen_weights_no_gradient(calls):
    x, weight, bias = make("RoIs")
    run(x, weight.detach(), bias.detach()).sum().backward()
    (expected,) = torch.autograd.grad(F.conv2d(x, weight, bias, padding=1).sum(), x)
    torch.testing.assert_close(x.grad, expected, rtol=1e-11, atol=1e-11)
    assert "weight_gradient" not in calls


def test_Winograd_gives_the_only_bias_that_learns_its_gradient(calls):
    x, weight, bias = make("RoIs")
    y = run(x.detach(), weight.detach(), bias)
    (grad,) = torch.autograd.grad(y.square().sum(), bias)
    expected = F.conv2d(x, weight, bias, padding=1).square().sum()
    torch.testing.assert_close(grad, *torch.autograd.grad(expected, bias), rtol=1e-11, atol=1e-11)
    assert calls == ["convolve_3x3"]


def test_is_worthwhile_leaves_few_channels_and_few_tiles_to_torch(calls, monkeypatch):
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
    "stride, padding, kernel", [((2, 2), (1, 1), 3), ((1, 1), (0, 0), 3), ((1, 1), (1, 1), 2)]
)
def test_use_winograd_leaves_other_convolutions_to_torch(stride, padding, kernel, calls):
    x, weight, bias = make("RoIs")
    args = (x, weight[:, :, :kernel, :kernel], bias, stride, padding)
    y = run(*args)
    assert torch.equal(y, F.conv2d(*args)) and calls == []
    assert "_Convolve" not in type(y.grad_fn).__name__
