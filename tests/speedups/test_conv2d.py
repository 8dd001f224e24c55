"""A convolution that other ways can be added to: who is asked, and who is not."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d
from torch import nn

from queryinst.speedups.conv2d import (
    Conv2dWay,
    FastConv2d,
    Geometry,
    convolve,
    share_with_gradient,
    speed_up_convolutions,
)

AT = Geometry((1, 1), (1, 1))


class Recorder(Conv2dWay):
    """Notes what it is asked; answers in the methods that it is told to, with torch's results."""

    def __init__(self, *answers: str):
        self.answers = answers
        self.asked: list[str] = []

    def _note(self, name: str) -> bool:
        self.asked.append(name)
        return name in self.answers

    def whole(self, x, weight, bias, at):
        return F.conv2d(x, weight, bias, *at) if self._note("whole") else None

    def forward(self, x, weight, bias, at):
        return F.conv2d(x, weight, bias, *at) if self._note("forward") else None

    def input_grad(self, grad, x, weight, at):
        if self._note("input_grad"):
            return torch.nn.grad.conv2d_input(x.shape, weight, grad, *at)
        return None

    def weight_grad(self, grad, x, weight, at):
        if self._note("weight_grad"):
            return torch.nn.grad.conv2d_weight(x, weight.shape, grad, *at)
        return None

    def supports_backward(self, x, weight, at):
        return self._note("supports_backward")


def make_inputs(dtype=torch.float64, **changes):
    torch.manual_seed(0)
    x = torch.randn(2, 4, 7, 9, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(6, 4, 3, 3, dtype=dtype, requires_grad=True)
    return x.requires_grad_(), weight, torch.randn(6, dtype=dtype, requires_grad=True)


def make_conv(way: Conv2dWay, **kwargs) -> FastConv2d:
    torch.manual_seed(0)
    conv = Conv2d(4, 6, 3, **{"padding": 1} | kwargs)
    speed_up_convolutions(conv, way=way)
    assert type(conv) is FastConv2d
    return conv


@pytest.mark.parametrize(
    "answers",
    [
        (),
        ("whole",),
        ("forward",),
        ("supports_backward",),
        ("supports_backward", "input_grad"),
        ("supports_backward", "weight_grad"),
        ("supports_backward", "forward", "input_grad", "weight_grad"),
    ],
)
@pytest.mark.parametrize(
    "learning, has_bias",
    [(pair, has) for pair in ((True, True), (False, True), (True, False)) for has in (True, False)]
    + [((False, False), True)],
)
def test_convolve_has_torchs_values_and_gradients_whatever_a_way_answers(
    answers, has_bias, learning
):
    x, weight, bias = make_inputs()
    x.requires_grad_(learning[0]), weight.requires_grad_(learning[1])
    inputs = [t for t in (x, weight, *([bias] if has_bias else [])) if t.requires_grad]
    way = Recorder(*answers)
    y = convolve((Recorder(), way), x, weight, bias if has_bias else None, AT)
    expected = F.conv2d(x, weight, bias if has_bias else None, padding=1)
    torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
    grad = torch.randn_like(y)
    pairs = torch.autograd.grad(y, inputs, grad), torch.autograd.grad(expected, inputs, grad)
    for ours, theirs in zip(*pairs, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    if "input_grad" in answers:
        assert ("input_grad" in way.asked) == learning[0]
    if "weight_grad" in answers:
        assert ("weight_grad" in way.asked) == learning[1]


def test_convolve_asks_in_order_and_no_more_than_it_needs():
    x, weight, bias = make_inputs()
    first, second, third = Recorder(), Recorder("whole"), Recorder("whole")
    convolve((first, second, third), x, weight, bias, AT)
    assert (first.asked, second.asked, third.asked) == (["whole"], ["whole"], [])
    first, second = Recorder("forward"), Recorder("forward")
    with torch.no_grad():
        convolve((first, second), x, weight, bias, AT)
    assert (first.asked, second.asked) == (["whole", "forward"], ["whole"])


def test_convolve_without_ways_or_support_leaves_autograd_to_torch():
    x, weight, bias = make_inputs()
    for ways in ((), (Recorder(),)):
        assert "_Convolve" not in type(convolve(ways, x, weight, bias, AT).grad_fn).__name__


def test_convolve_passes_gradcheck():
    x, weight, bias = make_inputs()
    x = x.detach()[:1, :, :3, :3].requires_grad_()
    ways = (Recorder("supports_backward", "weight_grad"),)
    assert torch.autograd.gradcheck(lambda *args: convolve(ways, *args, AT), (x, weight, bias))


def unsupported():
    x = make_inputs(torch.float32)[0].detach()
    yield "channels first", x.contiguous(), {}
    yield "dilated", x, {"dilation": 2, "padding": 2}
    yield "groups", x, {"groups": 2}
    yield "padding by name", x, {"padding": "same"}
    yield "no images", x[:0], {}
    yield "half", x.bfloat16(), {}


@pytest.mark.parametrize(
    "x, kwargs", [pytest.param(*args, id=name) for name, *args in unsupported()]
)
def test_FastConv2d_leaves_what_ways_do_not_support_to_torch(x, kwargs):
    way = Recorder("whole")
    conv = make_conv(way, **kwargs).to(x.dtype)
    plain = Conv2d(4, 6, 3, **{"padding": 1} | kwargs).to(x.dtype)
    plain.load_state_dict(conv.state_dict())
    y = conv(x)
    assert torch.equal(y, plain(x)) and way.asked == []
    y.sum().backward()
    assert conv.weight.grad.shape == conv.weight.shape
    assert len(x) or not conv.weight.grad.any()


class Run(nn.Module):
    """Of a type of its own: a compiler's cache goes by code."""

    def __init__(self, conv):
        super().__init__()
        self.conv = conv

    def forward(self, x):
        return self.conv(x)


def test_FastConv2d_is_torchs_for_tracers_compilers_and_autocast():
    way = Recorder("whole")
    conv, x = make_conv(way), make_inputs(torch.float32)[0].detach()
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    traced = torch.jit.trace(Run(conv), x, check_trace=False)
    exported = torch.export.export(Run(conv), (x,)).module()
    compiled = torch.compile(Run(conv), backend="eager")
    expected = F.conv2d(x, conv.weight, conv.bias, padding=1)
    for run in (traced, exported, compiled):
        assert torch.equal(run(x), expected)
    assert way.asked == []
    conv(x)
    assert way.asked == ["whole"], "which proves nothing of the others"


@pytest.mark.parametrize("activation", [None, F.relu])
@pytest.mark.parametrize("norm", [None, nn.BatchNorm2d])
def test_FastConv2d_runs_norm_and_activation_as_detectron2(norm, activation):
    way = Recorder("whole")
    conv = make_conv(way, norm=norm and norm(6), activation=activation)
    plain = Conv2d(4, 6, 3, padding=1, norm=norm and norm(6), activation=activation)
    plain.load_state_dict(conv.state_dict())
    x = make_inputs(torch.float32)[0]
    torch.testing.assert_close(conv(x), plain(x))
    for ours, theirs in zip(conv.buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert way.asked == ["whole"]


def test_speed_up_convolutions_changes_detectron2s_own_alone():
    class Other(Conv2d):
        pass

    net = nn.Sequential(Other(3, 4, 1), Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    names = list(net.state_dict())
    first, second = Recorder(), Recorder("whole")
    speed_up_convolutions(net, way=first)
    speed_up_convolutions(net, way=second)
    assert [type(m) for m in net] == [Other, FastConv2d, nn.Conv2d]
    assert net[1].ways == (first, second) and list(net.state_dict()) == names
    x = torch.randn(1, 3, 2, 2).contiguous(memory_format=torch.channels_last)
    assert net(x).shape == (1, 4, 2, 2) and (first.asked, second.asked) == (["whole"], ["whole"])


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_share_with_gradient_is_that_of_the_pixels(share):
    grad = torch.zeros(1, 3, 8, 8)
    grad[:, 1].view(-1)[: int(64 * share)] = -1
    assert share_with_gradient(grad) == share
