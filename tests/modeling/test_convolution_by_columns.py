"""Convolutions of few pixels with many weights as one product, against torch's own."""

import pytest
import torch
import torch.nn.functional as F

from queryinst.modeling import convolution
from queryinst.modeling.convolution import MAX_PIXELS, MIN_WEIGHTS, convolve

CASES = {  # height, width, kernel, stride, padding
    "3x3": ((4, 5), (3, 3), (1, 1), (1, 1)),
    "3x3, stride 2": ((7, 6), (3, 3), (2, 2), (1, 1)),
    "unequal": ((6, 9), (2, 3), (1, 2), (0, 1)),
    "one pixel": ((1, 1), (3, 3), (1, 1), (1, 1)),
    "unpadded": ((3, 5), (3, 3), (1, 1), (0, 0)),
}


@pytest.fixture
def seen(monkeypatch):
    """Shapes that went by columns."""
    found = []
    original = convolution.convolve_by_columns

    def note(x, weight, *args):
        found.append((tuple(x.shape), tuple(weight.shape)))
        return original(x, weight, *args)

    monkeypatch.setattr(convolution, "convolve_by_columns", note)
    return found


def make(size, kernel, *, images=2, channels=(3, 5), dtype=torch.float64):
    torch.manual_seed(0)
    x = torch.randn(images, channels[0], *size, dtype=dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    weight = torch.randn(channels[1], channels[0], *kernel, dtype=dtype, requires_grad=True)
    return x, weight, torch.randn(channels[1], dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize("case", CASES)
def test_values_and_gradients_are_torchs(seen, monkeypatch, case, has_bias):
    monkeypatch.setattr(convolution, "MIN_WEIGHTS", 0)
    size, kernel, stride, padding = CASES[case]
    x, weight, bias = make(size, kernel)
    inputs = (x, weight, bias) if has_bias else (x, weight)
    found = convolve(x, weight, bias if has_bias else None, stride, padding, (1, 1), 1)
    expected = F.conv2d(*inputs, stride=stride, padding=padding)
    assert seen and found.shape == expected.shape
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert found.is_contiguous(memory_format=torch.channels_last)
    grad = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad(found, inputs, grad), torch.autograd.grad(expected, inputs, grad)
    ):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def run(size, kernel=(3, 3), *, images=1, channels=(342, 342)) -> None:
    x, weight, _ = make(size, kernel, images=images, channels=channels, dtype=torch.float32)
    padding = (kernel[0] // 2, kernel[1] // 2)
    with torch.no_grad():
        found = convolve(x, weight, None, (1, 1), padding, (1, 1), 1)
        expected = F.conv2d(x, weight, None, 1, padding)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-3)


def test_it_takes_few_pixels_and_many_weights(seen):
    assert 9 * 342 * 342 >= MIN_WEIGHTS > 9 * 341 * 341
    run((MAX_PIXELS // 32, 16), images=2)
    assert len(seen) == 1
    run((MAX_PIXELS // 32, 16), images=2, channels=(341, 341))
    run((MAX_PIXELS // 32, 17), images=2)
    run((2, 2), (1, 1), channels=(1024, 1024))
    run((2, 2), images=0)
    assert len(seen) == 1


def test_tracers_and_other_layouts_see_torchs_own(seen):
    x, weight, _ = make((2, 2), (3, 3), channels=(342, 342), dtype=torch.float32)
    settings = ((1, 1), (1, 1), (1, 1), 1)
    convolve(x.contiguous(), weight, None, *settings)
    with torch.autocast("cpu", torch.bfloat16):
        convolve(x, weight, None, *settings)
    convolve(x, weight, None, (1, 1), (2, 2), (2, 2), 1)
    assert not seen
    convolve(x, weight, None, *settings)
    assert len(seen) == 1
