"""DynamicConv against a loop over RoIs, pixels and channels."""

import pytest
import torch
from torch import nn

from queryinst.modeling.dynamic_conv import DynamicConv


def make(embed_dim: int = 6, hidden_dim: int = 3, seed: int = 0) -> DynamicConv:
    torch.manual_seed(seed)
    conv = DynamicConv(embed_dim=embed_dim, hidden_dim=hidden_dim).double()
    for norm in (conv.norm_in, conv.norm_out):  # their initial ones and zeros would hide a mix-up
        nn.init.normal_(norm.weight, 1.0, 0.3)
        nn.init.normal_(norm.bias, 0.0, 0.3)
    return conv


def norm_and_relu(values: torch.Tensor, norm: nn.LayerNorm) -> torch.Tensor:
    mean = sum(values.tolist()) / len(values)
    variance = sum((value - mean) ** 2 for value in values.tolist()) / len(values)
    scaled = (values - mean) / (variance + 1e-5) ** 0.5
    return (scaled * norm.weight + norm.bias).clamp(min=0)


def slow(conv: DynamicConv, query_feats: torch.Tensor, roi_feats: torch.Tensor) -> torch.Tensor:
    num_rois, embed_dim, height, width = roi_feats.shape
    result = torch.zeros_like(roi_feats)
    for r in range(num_rois):
        params = conv.kernel_generator.weight @ query_feats[r] + conv.kernel_generator.bias
        # parameter c * D + d of the first half leads from channel c to hidden channel d,
        # d * C + c of the second half back
        half = embed_dim * conv.hidden_dim
        for y in range(height):
            for x in range(width):
                hidden = torch.zeros(conv.hidden_dim, dtype=roi_feats.dtype)
                for c in range(embed_dim):
                    for d in range(conv.hidden_dim):
                        hidden[d] += roi_feats[r, c, y, x] * params[c * conv.hidden_dim + d]
                hidden = norm_and_relu(hidden, conv.norm_in)
                out = torch.zeros(embed_dim, dtype=roi_feats.dtype)
                for d in range(conv.hidden_dim):
                    for c in range(embed_dim):
                        out[c] += hidden[d] * params[half + d * embed_dim + c]
                result[r, :, y, x] = norm_and_relu(out, conv.norm_out)
    return result


@pytest.mark.parametrize("num_rois, height, width", [(3, 2, 2), (2, 1, 3), (1, 1, 1), (0, 2, 2)])
@torch.no_grad()
def test_dynamic_conv_filters_each_roi_by_its_own_query(num_rois, height, width):
    conv = make()
    query_feats = torch.randn(num_rois, 6).double()
    roi_feats = torch.randn(num_rois, 6, height, width).double()
    actual = conv(query_feats, roi_feats)
    assert actual.shape == roi_feats.shape
    torch.testing.assert_close(actual, slow(conv, query_feats, roi_feats))
    assert (actual >= 0).all()


@pytest.mark.parametrize("embed_dim, hidden_dim", [(4, 4), (4, 8), (2, 1)])
@torch.no_grad()
def test_dynamic_conv_of_any_widths(embed_dim, hidden_dim):
    conv = make(embed_dim, hidden_dim)
    query_feats, roi_feats = torch.randn(2, embed_dim).double(), torch.randn(2, embed_dim, 2, 1)
    roi_feats = roi_feats.double()
    torch.testing.assert_close(conv(query_feats, roi_feats), slow(conv, query_feats, roi_feats))


def test_dynamic_conv_gradients():
    conv = make(2, 2)
    inputs = [torch.randn(2, 2).double(), torch.randn(2, 2, 2, 1).double()]
    inputs += [parameter.detach() for parameter in conv.parameters()]
    names = [name for name, _ in conv.named_parameters()]

    def run(query_feats, roi_feats, *parameters):
        named = dict(zip(names, parameters))
        return torch.func.functional_call(conv, named, (query_feats, roi_feats))

    assert torch.autograd.gradcheck(run, [x.requires_grad_() for x in inputs])


def test_generate_kernels_halves_what_the_linear_layer_gives():
    conv, query_feats = make(), torch.randn(2, 6).double()
    kernels = conv.generate_kernels(query_feats)
    assert [kernel.shape for kernel in kernels] == [(2, 18)] * 2
    torch.testing.assert_close(torch.cat(kernels, dim=1), conv.kernel_generator(query_feats))
    kernels[1].sum().backward()
    grad = conv.kernel_generator.weight.grad
    assert not grad[:18].any() and grad[18:].any()


def test_generate_kernels_takes_autocasts_precision():
    conv = make().float()
    with torch.autocast("cpu", torch.bfloat16):
        kernels = conv.generate_kernels(torch.randn(2, 6))
    assert [kernel.dtype for kernel in kernels] == [torch.bfloat16] * 2
    sum(kernel.sum() for kernel in kernels).backward()
    assert conv.kernel_generator.weight.grad.dtype == torch.float32


def test_dynamic_conv_keeps_rois_apart():
    conv = make()
    query_feats = torch.randn(2, 6).double().requires_grad_()
    roi_feats = torch.randn(2, 6, 2, 2).double().requires_grad_()
    conv(query_feats, roi_feats)[1].sum().backward()
    assert query_feats.grad[0].abs().sum() == 0 and roi_feats.grad[0].abs().sum() == 0
    assert query_feats.grad[1].abs().sum() > 0 and roi_feats.grad[1].abs().sum() > 0


def test_dynamic_conv_keeps_the_graph_without_rois():
    conv = make()
    conv(torch.zeros(0, 6).double(), torch.zeros(0, 6, 7, 7).double()).sum().backward()
    grads = {name: p.grad for name, p in conv.named_parameters()}
    assert {name: grad is not None and not grad.any() for name, grad in grads.items()} == (
        dict.fromkeys(grads, True)
    )


@pytest.mark.parametrize("queries, rois", [((2, 6), (3, 6, 2, 2)), ((2, 5), (2, 6, 2, 2))])
def test_dynamic_conv_refuses_queries_and_rois_that_do_not_agree(queries, rois):
    with pytest.raises(ValueError, match=r"queries \(.*\), RoIs \(.*\)"):
        make()(torch.zeros(queries).double(), torch.zeros(rois).double())
