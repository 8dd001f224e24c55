"""One box stage against a loop over images, heads and queries, and its initial weights."""

import math

import pytest
import torch
from torch import nn

from queryinst.modeling.box_head import DynamicBoxHead

SIZES = {
    "num_classes": 3,
    "embed_dim": 8,
    "num_heads": 2,
    "ffn_dim": 5,
    "dynamic_dim": 3,
    "roi_size": 2,
    "num_cls_fcs": 1,
    "num_reg_fcs": 3,
    "dropout": 0.0,
    "prior_prob": 0.01,
}


def make(**sizes) -> DynamicBoxHead:
    """A head in float64 whose norms and biases are random, so that none can stand for another."""
    torch.manual_seed(0)
    head = DynamicBoxHead(**SIZES | sizes).double()
    for name, parameter in head.named_parameters():
        if parameter.dim() == 1:
            is_scale = name.endswith("weight")
            nn.init.normal_(parameter, 1.0 if is_scale else 0.0, 0.3)
    return head


def layer_norm(row: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    mean = row.sum() / len(row)
    variance = ((row - mean) ** 2).sum() / len(row)
    return (row - mean) / (variance + 1e-5).sqrt() * norm.weight + norm.bias


def linear(row: torch.Tensor, layer: nn.Linear) -> torch.Tensor:
    out = layer.weight @ row
    return out if layer.bias is None else out + layer.bias


def attend(queries: torch.Tensor, attn: nn.MultiheadAttention) -> torch.Tensor:
    """Self-attention of one image's (Q, C), head by head and query by query."""
    embed_dim, dim = queries.shape[1], queries.shape[1] // attn.num_heads
    weights, biases = attn.in_proj_weight.split(embed_dim), attn.in_proj_bias.split(embed_dim)
    q, k, v = (queries @ weight.t() + bias for weight, bias in zip(weights, biases))
    rows = []
    for i in range(len(queries)):
        heads = []
        for head in range(attn.num_heads):
            part = slice(head * dim, (head + 1) * dim)
            energy = [float(q[i, part] @ k[j, part]) / math.sqrt(dim) for j in range(len(k))]
            total = sum(math.exp(e) for e in energy)
            heads.append(sum(math.exp(e) / total * v[j, part] for j, e in enumerate(energy)))
        rows.append(linear(torch.cat(heads), attn.out_proj))
    return torch.stack(rows)


def branch(row: torch.Tensor, fcs: nn.Sequential, last: nn.Linear) -> torch.Tensor:
    for fc in fcs:
        row = layer_norm(fc.linear.weight @ row, fc.norm).clamp(min=0)
    return linear(row, last)


def slow(head: DynamicBoxHead, query_feats: torch.Tensor, roi_feats: torch.Tensor):
    """Image by image, query by query; the paper's equations in order."""
    num_images, num_queries = query_feats.shape[:2]
    results = []
    for image in range(num_images):
        attended = attend(query_feats[image], head.self_attn)
        for query in range(num_queries):
            mask_query = layer_norm(
                query_feats[image, query] + attended[query], head.self_attn_norm
            )
            roi = roi_feats[image * num_queries + query]
            filtered = head.dynamic_conv(mask_query[None], roi[None])[0]
            # bin after bin, channels innermost
            bins = [filtered[:, y, x] for y in range(roi.shape[1]) for x in range(roi.shape[2])]
            row = layer_norm(linear(torch.cat(bins), head.roi_proj), head.roi_proj_norm).clamp(
                min=0
            )
            feats = layer_norm(mask_query + row, head.dynamic_conv_norm)
            hidden = linear(feats, head.ffn_in).clamp(min=0)
            feats = layer_norm(feats + linear(hidden, head.ffn_out), head.ffn_norm)
            logits = branch(feats, head.cls_fcs, head.cls_logits)
            deltas = branch(feats, head.reg_fcs, head.box_deltas)
            results.append((logits, deltas, feats, mask_query))
    return [torch.stack(x).unflatten(0, (num_images, num_queries)) for x in zip(*results)]


@pytest.mark.parametrize(
    "num_images, num_queries, sizes",
    [
        (2, 3, {}),
        (1, 1, {}),
        (3, 2, {"num_classes": 1, "num_heads": 8}),
        (1, 4, {"num_heads": 1, "roi_size": 1}),
        (2, 2, {"num_cls_fcs": 0, "num_reg_fcs": 0}),
        (1, 2, {"num_cls_fcs": 2, "num_reg_fcs": 1, "roi_size": 3}),
    ],
)
@torch.no_grad()
def test_dynamic_box_head_is_the_loop(num_images, num_queries, sizes):
    head = make(**sizes)
    query_feats = torch.randn(num_images, num_queries, 8).double()
    side = head.roi_proj.in_features // 8
    roi_feats = torch.randn(num_images * num_queries, 8, math.isqrt(side), math.isqrt(side))
    actual = head(query_feats, roi_feats.double())
    expected = slow(head, query_feats, roi_feats.double())
    for name, ours, theirs in zip(("logits", "deltas", "feats", "masks"), actual, expected):
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}")


@torch.no_grad()
def test_dynamic_box_head_gives_queries_no_position_and_images_no_contact():
    head = make()
    query_feats, roi_feats = torch.randn(2, 4, 8).double(), torch.randn(8, 8, 2, 2).double()
    order = torch.tensor([2, 0, 3, 1])
    actual = head(query_feats, roi_feats)
    permuted_rois = roi_feats.unflatten(0, (2, 4))[:, order].flatten(0, 1)
    for ours, moved in zip(actual, head(query_feats[:, order], permuted_rois)):
        torch.testing.assert_close(ours[:, order], moved)
    for ours, alone in zip(actual, head(query_feats[1:], roi_feats[4:])):
        torch.testing.assert_close(ours[1:], alone)


# Widths that a number of classes equals in turn: an initialisation that told layers apart by shape
# would take one for another.
@pytest.mark.parametrize("num_classes", [1, 4, 64, 256])
@pytest.mark.parametrize("prior_prob", [0.01, 0.3])
def test_dynamic_box_head_initializes_by_name(num_classes, prior_prob):
    torch.manual_seed(0)
    head = DynamicBoxHead(
        **SIZES
        | {"num_classes": num_classes, "embed_dim": 64, "num_heads": 8, "ffn_dim": 256}
        | {"dynamic_dim": 4, "prior_prob": prior_prob}
    )
    expected = -math.log(1 / prior_prob - 1)  # -4.595 for 0.01
    torch.testing.assert_close(head.cls_logits.bias, torch.full((num_classes,), expected))
    torch.testing.assert_close(
        head.cls_logits.bias.sigmoid(), torch.full((num_classes,), prior_prob)
    )
    assert not head.box_deltas.bias.any()
    for name, parameter in head.named_parameters():
        if parameter.dim() > 1:
            bound = math.sqrt(6 / sum(parameter.shape))
            largest = parameter.abs().max().item()
            assert 0.5 * bound < largest <= bound, f"{name} is not Xavier uniform"
            if parameter.numel() >= 1024:
                assert largest > 0.98 * bound, name
                assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.05)
        elif "norm" in name:
            assert (parameter == (1 if name.endswith("weight") else 0)).all(), name


def test_normed_fc_has_no_bias_but_its_norm():
    names = {name for name, _ in make().named_parameters() if "_fcs." in name}
    kinds = {name.split(".", 2)[2] for name in names}
    assert kinds == {"linear.weight", "norm.weight", "norm.bias"}
    assert {name.split(".")[1] for name in names if name.startswith("reg")} == {"0", "1", "2"}
    assert {name.split(".")[1] for name in names if name.startswith("cls")} == {"0"}


def test_dynamic_box_head_drops_out_in_training_only():
    head = make(dropout=0.5)
    query_feats, roi_feats = torch.randn(1, 3, 8).double(), torch.randn(3, 8, 2, 2).double()
    assert head.self_attn.dropout == 0.5
    first, second = head(query_feats, roi_feats), head(query_feats, roi_feats)
    assert not torch.equal(first[2], second[2])
    head.eval()
    without = make()
    without.load_state_dict(head.state_dict())
    for ours, theirs in zip(head(query_feats, roi_feats), without(query_feats, roi_feats)):
        torch.testing.assert_close(ours, theirs)
