"""A convolution that folds its static batch norm computes what the two would, gradients too."""

import pytest
import torch
import torch.nn.functional as F
from detectron2.layers import Conv2d, FrozenBatchNorm2d, NaiveSyncBatchNorm
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import nn

from queryinst.modeling.deferred_level import DeferringConv2d
from queryinst.modeling.folding import FoldingConv2d, is_static, speed_up_convolutions
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
def test_values_and_gradients_of_the_folded_convolution(make_norm, kwargs):
    conv = make_conv(make_norm(6), **kwargs).eval()
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    expected = gradients(conv, x)
    conv.__class__ = FoldingConv2d
    found = gradients(conv, x)
    assert is_static(conv.norm) and found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9 * value.abs().max())


def test_the_norm_itself_is_not_run():
    conv = make_conv(nn.BatchNorm2d(6)).eval()
    conv.__class__ = FoldingConv2d
    conv.norm.register_forward_hook(lambda *args: pytest.fail("a pass too many"))
    conv(torch.randn(1, 4, 5, 5, dtype=torch.float64))


@pytest.mark.parametrize("size", [(0, 4, 7, 9), (2, 4, 1, 1)])
def test_empty_and_smallest_inputs(size):
    conv = make_conv(nn.BatchNorm2d(6)).eval()
    x = torch.randn(size, dtype=torch.float64)
    expected = conv(x)
    conv.__class__ = FoldingConv2d
    torch.testing.assert_close(conv(x), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays(dtype):
    conv = make_conv(nn.BatchNorm2d(6)).eval()
    x = torch.randn(2, 4, 7, 9)
    expected = conv(x.double())
    conv.__class__ = FoldingConv2d
    found = conv.to(dtype)(x.to(dtype))
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0.05, atol=0.1)


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
def test_norms_that_depend_on_the_batch_are_left_alone(make_norm, training):
    conv = make_conv(make_norm(6)).train(training)
    folding = make_conv(make_norm(6)).train(training)
    folding.__class__ = FoldingConv2d
    x = torch.randn(2, 4, 7, 9, dtype=torch.float64)
    torch.testing.assert_close(folding(x), conv(x), rtol=1e-9, atol=1e-12)
    for name, value in conv.state_dict().items():
        torch.testing.assert_close(folding.state_dict()[name], value, rtol=1e-9, atol=1e-12)
    if training and isinstance(conv.norm, nn.BatchNorm2d) and conv.norm.track_running_stats:
        assert not is_static(folding.norm) and folding.norm.num_batches_tracked == 1


def test_a_subclass_of_a_batch_norm_may_compute_something_else():
    class Doubling(nn.BatchNorm2d):
        def forward(self, x):
            return 2 * super().forward(x)

    conv = make_conv(Doubling(6)).eval()
    assert not is_static(conv.norm)


def unfold(model: nn.Module) -> int:
    folding = [m for m in model.modules() if type(m) is FoldingConv2d]
    for module in folding:
        module.__class__ = Conv2d
    return len(folding)


def test_the_model_folds_its_trunk_and_mask_heads_and_nothing_is_renamed():
    model = build_model(tiny_cfg())
    names = list(model.state_dict())
    # The trunk, four lateral and three output convolutions, the masks'; p2's may wait as well.
    assert unfold(model) == 53 + 4 + 3 + 2 * 4
    assert type(model.backbone.output_convs[-1]) is DeferringConv2d
    assert list(model.state_dict()) == names


@pytest.mark.parametrize("norm_eval, freeze_at", [(True, 2), (True, 0), (False, 2)])
def test_a_training_step_is_the_same(norm_eval, freeze_at):
    """Losses, gradients of all parameters, running statistics."""
    cfg = tiny_cfg(MODEL__BACKBONE__NORM_EVAL=norm_eval, MODEL__BACKBONE__FREEZE_AT=freeze_at)
    torch.manual_seed(0)
    model = build_model(cfg).double()
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

    found = step()
    assert unfold(model)
    expected = step()
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = max(1e-12, float(value.detach().abs().max()))
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-9 * scale, msg=name)


def test_only_detectron2s_own_convolutions_change():
    class Other(Conv2d):
        pass

    net = nn.Sequential(
        Other(3, 4, 1, norm=nn.BatchNorm2d(4)), Conv2d(4, 4, 1), Conv2d(4, 4, 1, norm=nn.ReLU())
    )
    speed_up_convolutions(net)
    assert [type(m) for m in net] == [Other, FoldingConv2d, FoldingConv2d]
    x = torch.randn(1, 3, 2, 2)
    assert net(x).shape == (1, 4, 2, 2)
