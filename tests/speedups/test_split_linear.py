"""The two kernels of a DynamicConv generated separately, against one layer for both."""

import copy

import pytest
import torch
from torch import nn

from queryinst.modeling.dynamic_conv import DynamicConv
from queryinst.speedups.split_linear import SplitDynamicConv, apply_to_model


def make_pair(dtype=torch.float64) -> tuple[DynamicConv, DynamicConv]:
    """Split and plain."""
    torch.manual_seed(0)
    plain = DynamicConv(embed_dim=8, hidden_dim=3).to(dtype)
    split = copy.deepcopy(plain)
    apply_to_model(split)
    assert type(split) is SplitDynamicConv
    return split, plain


@pytest.mark.parametrize("num_rois", [5, 1, 0])
@pytest.mark.parametrize("frozen", [(), ("queries",), ("kernel_generator",)])
def test_SplitDynamicConv_has_the_values_and_gradients_of_DynamicConv(num_rois, frozen):
    queries, rois = torch.randn(num_rois, 8).double(), torch.randn(num_rois, 8, 2, 3).double()
    queries.requires_grad_("queries" not in frozen)
    results = []
    for conv in make_pair():
        conv.kernel_generator.requires_grad_("kernel_generator" not in frozen)
        out = conv(queries, rois)
        inputs = [x for x in (queries, *conv.parameters()) if x.requires_grad]
        grad = torch.linspace(-1, 1, out.numel(), dtype=out.dtype).view_as(out)
        results.append([out, *torch.autograd.grad(out, inputs, grad)])
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_SplitDynamicConv_passes_gradcheck():
    split, _ = make_pair()
    queries = torch.randn(2, 8).double().requires_grad_()
    assert torch.autograd.gradcheck(split.generate_kernels, (queries,))


def test_SplitDynamicConv_cuts_one_result_where_nothing_learns_or_halves_are_used(entries):
    split, plain = make_pair(torch.float32)
    queries = torch.randn(2, 8)
    with entries() as counts:
        with torch.no_grad():
            for ours, theirs in zip(
                split.generate_kernels(queries), plain.generate_kernels(queries)
            ):
                assert torch.equal(ours, theirs)
        with torch.autocast("cpu", torch.bfloat16):
            assert split.generate_kernels(queries)[0].dtype == torch.bfloat16
    assert counts["split_linear.SplitDynamicConv.generate_kernels"] == 2
    assert counts["split_linear._SplitLinear.forward"] == 0


def test_apply_to_model_leaves_subclasses_which_may_compute_something_else():
    class Other(DynamicConv):
        pass

    net = nn.Sequential(Other(embed_dim=8, hidden_dim=3), DynamicConv(embed_dim=8, hidden_dim=3))
    apply_to_model(net)
    assert [type(module) for module in net] == [Other, SplitDynamicConv]
