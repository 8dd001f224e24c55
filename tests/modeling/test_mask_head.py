"""One mask head against a loop over pixels and channels, and its initial weights."""

import itertools
import math

import pytest
import torch
from torch import nn

from queryinst.modeling.mask_head import DynamicMaskHead
from queryinst.testing import tiny_cfg

SIZES = {
    "num_classes": 3,
    "embed_dim": 4,
    "dynamic_dim": 2,
    "num_conv": 2,
    "conv_dim": 3,
    "norm": "BN",
}


def make(**sizes) -> DynamicMaskHead:
    """A head in float64 whose norms, biases and statistics are random."""
    torch.manual_seed(0)
    head = DynamicMaskHead(**SIZES | sizes).double()
    for name, parameter in head.named_parameters():
        if parameter.dim() == 1:
            nn.init.normal_(parameter, 1.0 if name.endswith("weight") else 0.0, 0.3)
    for name, buffer in head.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2)
    return head


def make_inputs(num_rois: int, side: int = 2, channels: int = 4):
    generator = torch.Generator().manual_seed(1)
    queries = torch.randn(num_rois, channels, generator=generator, dtype=torch.float64)
    shape = (num_rois, channels, side, side)
    return queries, torch.randn(shape, generator=generator, dtype=torch.float64)


def conv3x3(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    num_rois, _, height, width = x.shape
    out = x.new_zeros(num_rois, len(weight), height, width)
    for r, y, col in itertools.product(range(num_rois), range(height), range(width)):
        for dy, dx in itertools.product(range(3), range(3)):
            row, column = y + dy - 1, col + dx - 1
            if 0 <= row < height and 0 <= column < width:
                out[r, :, y, col] += weight[:, :, dy, dx] @ x[r, :, row, column]
    return out if bias is None else out + bias[:, None, None]


def batch_norm(x: torch.Tensor, norm: nn.BatchNorm2d, training: bool) -> torch.Tensor:
    out = torch.empty_like(x)
    for c in range(x.shape[1]):
        values = x[:, c].flatten().tolist()
        mean, variance = norm.running_mean[c], norm.running_var[c]
        if training:
            mean = sum(values) / len(values)
            variance = sum((value - mean) ** 2 for value in values) / len(values)
        scale = norm.weight[c] / (variance + 1e-5) ** 0.5
        out[:, c] = (x[:, c] - mean) * scale + norm.bias[c]
    return out


def deconv2x2(x: torch.Tensor, deconv: nn.ConvTranspose2d) -> torch.Tensor:
    """Each pixel becomes 2x2 pixels, which no other one touches."""
    num_rois, _, height, width = x.shape
    out = x.new_zeros(num_rois, deconv.out_channels, 2 * height, 2 * width)
    for r, y, col in itertools.product(range(num_rois), range(height), range(width)):
        for dy, dx in itertools.product(range(2), range(2)):
            value = x[r, :, y, col] @ deconv.weight[:, :, dy, dx]
            out[r, :, 2 * y + dy, 2 * col + dx] = value + deconv.bias
    return out


def slow(head: DynamicMaskHead, queries: torch.Tensor, roi_feats: torch.Tensor) -> torch.Tensor:
    x = head.dynamic_conv(queries, roi_feats)  # has a loop of its own
    for conv in head.convs:
        x = conv3x3(x, conv.weight, conv.bias)
        if conv.norm is not None:
            x = batch_norm(x, conv.norm, head.training)
        x = x.clamp(min=0)
    x = deconv2x2(x, head.deconv).clamp(min=0)
    weight, bias = head.mask_logits.weight[:, :, 0, 0], head.mask_logits.bias
    return torch.stack(
        [
            torch.stack([(w[:, None, None] * roi).sum(0) + b for w, b in zip(weight, bias)])
            for roi in x
        ]
    )


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "num_rois, side, sizes",
    [
        (2, 2, {}),
        (1, 3, {"num_classes": 1}),
        (2, 1, {"num_conv": 0}),
        (2, 2, {"norm": "", "num_conv": 1, "conv_dim": 4}),
    ],
)
@torch.no_grad()
def test_dynamic_mask_head_is_the_loop(num_rois, side, sizes, training):
    head = make(**sizes).train(training)
    queries, roi_feats = make_inputs(num_rois, side)
    expected = slow(head, queries, roi_feats)
    actual = head(queries, roi_feats)
    assert actual.shape == (num_rois, sizes.get("num_classes", 3), 2 * side, 2 * side)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("num_classes", [1, 3])
@torch.no_grad()
def test_class_scores_are_one_channel_for_each_detection(num_classes):
    head = make(num_classes=num_classes).eval()
    queries, roi_feats = make_inputs(3)
    rows, classes = torch.tensor([2, 0, 2, 2, 1]), torch.tensor([0, 2, 1, 2, 0])
    actual = head.class_scores(head.mask_features(queries, roi_feats), rows, classes)
    logits = head(queries, roi_feats)
    channels = classes if num_classes > 1 else torch.zeros_like(classes)
    for detection, (row, channel) in enumerate(zip(rows, channels)):
        torch.testing.assert_close(actual[detection], 1 / (1 + (-logits[row, channel]).exp()))


@torch.no_grad()
def test_dynamic_mask_head_of_no_rois_and_no_detections():
    head = make().eval()
    queries, roi_feats = make_inputs(0, side=5)
    features = head.mask_features(queries, roi_feats)
    assert features.shape == (0, 3, 10, 10)
    assert head(queries, roi_feats).shape == (0, 3, 10, 10)
    nothing = torch.zeros(0, dtype=torch.int64)
    assert head.class_scores(features, nothing, nothing).shape == (0, 10, 10)
    some = head.mask_features(*make_inputs(2))
    assert head.class_scores(some, nothing, nothing).shape == (0, 4, 4)


@pytest.mark.parametrize("num_classes", [1, 4, 64, 256])
def test_dynamic_mask_head_initializes_by_name(num_classes):
    torch.manual_seed(0)
    head = DynamicMaskHead(
        **SIZES | {"num_classes": num_classes, "embed_dim": 64, "conv_dim": 64, "num_conv": 4}
    )
    assert len(head.convs) == 4
    for conv in head.convs:  # Kaiming normal, by the number of outputs
        std = math.sqrt(2 / (9 * 64))
        assert conv.weight.std().item() == pytest.approx(std, rel=0.03)
        assert conv.weight.abs().max() > 3 * std, "a normal distribution has tails"
        assert conv.bias is None
        assert (conv.norm.weight == 1).all() and not conv.norm.bias.any()
    # torch's own: uniform, by the number of inputs; a transposed convolution's weight counts its
    # second dimension as inputs
    for weight, bias, fan_in in [
        (head.mask_logits.weight, head.mask_logits.bias, 64),
        (head.deconv.weight, head.deconv.bias, 64 * 4),
        (head.dynamic_conv.kernel_generator.weight, head.dynamic_conv.kernel_generator.bias, 64),
    ]:
        bound = 1 / math.sqrt(fan_in)
        assert 0.9 * bound < weight.abs().max().item() <= bound
        assert 0 < bias.abs().max().item() <= bound


@pytest.mark.parametrize(
    "norm, kind",
    [
        ("BN", "BatchNorm2d"),
        ("GN", "GroupNorm"),
        ("LN", "LayerNorm"),
        ("naiveSyncBN", "NaiveSyncBatchNorm"),
    ],
)
def test_dynamic_mask_head_builds_norms_by_name(norm, kind):
    cfg = tiny_cfg(MODEL__ROI_MASK_HEAD__NORM=norm, MODEL__ROI_MASK_HEAD__CONV_DIM=32)
    head = DynamicMaskHead(cfg).eval()
    assert [type(conv.norm).__name__ for conv in head.convs] == [kind] * 4
    assert all(conv.bias is None for conv in head.convs)
    torch.manual_seed(0)
    assert head(torch.randn(2, 16), torch.randn(2, 16, 3, 3)).isfinite().all()


def test_dynamic_mask_head_weighs_processes_by_their_number_of_rois():
    head = DynamicMaskHead(tiny_cfg(MODEL__ROI_MASK_HEAD__NORM="naiveSyncBN"))
    assert {conv.norm._stats_mode for conv in head.convs} == {"N"}


def test_dynamic_mask_head_without_a_norm_has_biases():
    head = DynamicMaskHead(tiny_cfg(MODEL__ROI_MASK_HEAD__NORM=""))
    assert all(conv.norm is None and not conv.bias.any() for conv in head.convs)


def test_dynamic_mask_head_has_one_channel_if_class_agnostic():
    head = DynamicMaskHead(tiny_cfg(MODEL__ROI_MASK_HEAD__CLS_AGNOSTIC_MASK=True))
    assert head.mask_logits.out_channels == 1
