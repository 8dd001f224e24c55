"""Convolutions of few pixels with many weights as one product, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from queryinst.speedups import conv2d_im2col
from queryinst.speedups.conv2d import Geometry, convolve
from queryinst.speedups.conv2d_im2col import MAX_PIXELS, MIN_WEIGHTS, Im2col

CASES = {  # height, width, kernel, stride, padding
    "3x3": ((4, 5), (3, 3), (1, 1), (1, 1)),
    "3x3, stride 2": ((7, 6), (3, 3), (2, 2), (1, 1)),
    "unequal": ((6, 9), (2, 3), (1, 2), (0, 1)),
    "one pixel": ((1, 1), (3, 3), (1, 1), (1, 1)),
    "unpadded": ((3, 5), (3, 3), (1, 1), (0, 0)),
}


@pytest.fixture
def seen(monkeypatch):
    """Shapes that went by im2col."""
    shapes = []
    original = conv2d_im2col.conv2d_im2col

    def note(x, weight, *args):
        shapes.append((tuple(x.shape), tuple(weight.shape)))
        return original(x, weight, *args)

    monkeypatch.setattr(conv2d_im2col, "conv2d_im2col", note)
    return shapes


def convolve_by_im2col(x, weight, bias, stride, padding):
    return convolve((Im2col(),), x, weight, bias, Geometry(stride, padding))


def make(size, kernel, *, images=2, channels=(3, 5), dtype=torch.float64):
    torch.manual_seed(0)
    x = torch.randn(images, channels[0], *size, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(channels[1], channels[0], *kernel, dtype=dtype, requires_grad=True)
    return x, weight, torch.randn(channels[1], dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_Im2col_has_torchs_values_and_gradients(seen, monkeypatch, case, has_bias):
    monkeypatch.setattr(conv2d_im2col, "MIN_WEIGHTS", 0)
    size, kernel, stride, padding = CASES[case]
    x, weight, bias = make(size, kernel)
    inputs = (x, weight, bias) if has_bias else (x, weight)
    y = convolve_by_im2col(x, weight, bias if has_bias else None, stride, padding)
    expected = F.conv2d(*inputs, stride=stride, padding=padding)
    assert seen and y.shape == expected.shape
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    assert y.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, inputs, grad)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def run(size, kernel=(3, 3), *, images=1, channels=(342, 342)) -> None:
    x, weight, _ = make(size, kernel, images=images, channels=channels, dtype=torch.float32)
    padding = (kernel[0] // 2, kernel[1] // 2)
    with torch.no_grad():
        y = convolve_by_im2col(x, weight, None, (1, 1), padding)
        expected = F.conv2d(x, weight, None, 1, padding)
    torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-3)


def test_Im2col_takes_few_pixels_and_many_weights(seen):
    assert 9 * 342 * 342 >= MIN_WEIGHTS > 9 * 341 * 341
    run((MAX_PIXELS // 32, 16), images=2)
    assert len(seen) == 1
    run((MAX_PIXELS // 32, 16), images=2, channels=(341, 341))
    run((MAX_PIXELS // 32, 17), images=2)
    run((2, 2), (1, 1), channels=(1024, 1024))
    run((2, 2), images=0)
    assert len(seen) == 1
