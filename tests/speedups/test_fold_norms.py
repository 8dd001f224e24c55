"""A convolution that folds its static batch norm computes what the two would, gradients too."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from queryinst.speedups.conv2d import FastConv2d, is_static
from queryinst.speedups.fold_norms import apply_to_model
from queryinst.testing import random_batch, tiny_cfg


def randomize(norm: nn.Module) -> nn.Module:
    for name, value in norm.state_dict().items():
        if value.is_floating_point():
            value.copy_(torch.rand_like(value) + 0.5 if "var" in name else torch.randn_like(value))
    return norm


def make_conv(norm: nn.Module | None, activation=F.relu, **kwargs) -> Conv2d:
    """(N, 4, H, W) -> (N, 6, H', W') in float64."""
    torch.manual_seed(0)
    if norm is not None:
        randomize(norm)
    conv = Conv2d(4, 6, 3, norm=norm, activation=activation, **{"padding": 1} | kwargs)
    return conv.double()


def gradients(conv: Conv2d, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Of an arbitrary loss, to the input and to all parameters; its output under "out"."""
    x = x.clone().requires_grad_()
    out = conv(x)
    conv.zero_grad()
    (out * torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)).sum().backward()
    grads = {name: p.grad for name, p in conv.named_parameters() if p.grad is not None}
    return grads | {"x": x.grad, "out": out.detach()}


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"bias": False, "stride": 2},
        {"groups": 2, "dilation": 2, "padding": 2},
        {"activation": None},
    ],
)
@pytest.mark.parametrize(
    "make_norm",
    [
        nn.BatchNorm2d,
        lambda n: nn.BatchNorm2d(n, affine=False),
        lambda n: nn.BatchNorm2d(n, eps=0.1),
        NaiveSyncBatchNorm,
        FrozenBatchNorm2d,
    ],
)
def test_folded_convolution_has_the_same_values_and_gradients(make_norm, kwargs):
    conv = make_conv(make_norm(6), **kwargs).eval()
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    expected = gradients(conv, x)
    apply_to_model(conv)
    ours = gradients(conv, x)
    assert is_static(conv.norm) and ours.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-9 * value.abs().max())


def test_folded_convolution_does_not_run_its_norm():
    conv = make_conv(nn.BatchNorm2d(6)).eval()
    apply_to_model(conv)
    conv.norm.register_forward_hook(lambda *args: pytest.fail("a pass too many"))
    conv(torch.randn(1, 4, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize("size", [(0, 4, 7, 9), (2, 4, 1, 1)])
def test_folded_convolution_takes_empty_and_smallest_inputs(size):
    conv = make_conv(nn.BatchNorm2d(6)).eval()
    x = torch.randn(size, dtype=torch.float64)
    expected = conv(x)
    apply_to_model(conv)
    torch.testing.assert_close(conv(x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_folded_convolution_keeps_half_precision(dtype):
    conv = make_conv(nn.BatchNorm2d(6)).eval()
    x = torch.randn(2, 4, 7, 9)
    expected = conv(x.double())
    apply_to_model(conv)
    ours = conv.to(dtype)(x.to(dtype))
    assert ours.dtype == dtype
    torch.testing.assert_close(ours.double(), expected, rtol=0.05, atol=0.1)


@pytest.mark.parametrize(
    "make_norm",
    [
        nn.BatchNorm2d,
        lambda n: nn.GroupNorm(2, n),
        lambda n: nn.BatchNorm2d(n, track_running_stats=False),
        lambda n: None,
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_is_static_leaves_norms_that_depend_on_the_batch_alone(make_norm, training):
    conv = make_conv(make_norm(6)).train(training)
    folding = make_conv(make_norm(6)).train(training)
    apply_to_model(folding)
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(folding(x), conv(x), rtol=1e-9, atol=1e-12)
    for name, value in conv.state_dict().items():
        torch.testing.assert_close(folding.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    if training and isinstance(conv.norm, nn.BatchNorm2d) and conv.norm.track_running_stats:
        assert not is_static(folding.norm) and folding.norm.num_batches_tracked == 1


def test_is_static_refuses_subclasses_which_may_compute_something_else():
    class Doubling(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    conv = make_conv(Doubling(6)).eval()
    assert not is_static(conv.norm)


def make_model(**overrides) -> nn.Module:
    return build_model(tiny_cfg(MODEL__QUERYINST__SPEEDUPS=("fold_norms",), **overrides))


def unfold(model: nn.Module) -> int:
    folding = [m for m in model.modules() if type(m) is FastConv2d]
    for module in folding:
        module.__class__ = Conv2d
    return len(folding)


def test_apply_to_model_folds_trunk_and_mask_heads_and_renames_nothing():
    model = make_model()
    names = list(model.state_dict())
    # The trunk, four lateral and four output convolutions, the masks'.
    assert unfold(model) == 53 + 4 + 4 + 2 * 4
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("norm_eval, freeze_at", [(True, 2), (True, 0), (False, 2)])
def test_apply_to_model_keeps_a_training_step(norm_eval, freeze_at):
    """Losses, gradients of all parameters, running statistics."""
    torch.manual_seed(0)
    model = make_model(
        MODEL__BACKBONE__NORM_EVAL=norm_eval, MODEL__BACKBONE__FREEZE_AT=freeze_at
    ).double()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm2d, FrozenBatchNorm2d)):
            module.running_var.uniform_(0.5, 1.5)
            module.running_mean.normal_(std=0.1)
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def step() -> dict[str, torch.Tensor]:
        model.load_state_dict(state)
        model.train().zero_grad()
        with EventStorage():
            losses = model(random_batch((2, 1)))
        sum(losses.values()).backward()
        grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        return losses | grads | {n: b.clone() for n, b in model.named_buffers()}

    ours = step()
    assert unfold(model)
    expected = step()
    assert ours.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1e-12, float(value.detach().abs().max()))
        torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-9 * scale, msg=name)


def test_folded_parameters_leave_other_norms_to_run():
    net = nn.Sequential(Conv2d(3, 4, 1, norm=nn.BatchNorm2d(4)), Conv2d(4, 4, 1, norm=nn.ReLU()))
    apply_to_model(net.eval())
    assert not (net(torch.randn(1, 3, 2, 2)) < 0).any()


def test_folded_parameters_are_not_used_by_tracers_and_autocast():
    conv = make_conv(nn.BatchNorm2d(6)).eval().float()
    passes = []
    conv.norm.register_forward_hook(lambda *args: passes.append(args))
    apply_to_model(conv)
    x = torch.randn(1, 4, 5, 5)
    with torch.autocast("cpu", torch.bfloat16):
        assert conv(x).dtype == torch.bfloat16
    assert len(passes) == 1
    torch.jit.trace(conv, x, check_trace=False)
    assert len(passes) == 2
