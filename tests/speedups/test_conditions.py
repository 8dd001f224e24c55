"""Where speed-ups fall back: under autocast, and where operations are recorded."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from queryinst.modeling import QueryInst
from queryinst.speedups import SPEEDUPS, speed_up_model
from queryinst.speedups.conditions import is_channels_last, is_cpu_float, is_plain, is_traced
from queryinst.testing import random_batch, tiny_cfg

ALL = tuple(row.name for row in SPEEDUPS)
CPU = torch.device("cpu")
SIZES = torch.tensor([[64, 96], [60, 90]])

# The work of those that fall back under autocast.
IN_FULL_PRECISION = {
    "conv2d.convolve",
    "conv2d.folded",
    "conv2d_im2col.conv2d_im2col",
    "winograd.convolve_3x3",
    "conv2d_weight_grad.weight_gradient",
    "lazy_fpn.LazyLevel.wait",
}
# And of the others, all of which fall back where operations are recorded.
WORK = IN_FULL_PRECISION | {
    "roi_bags.find_bags",
    "roi_bags.pool_bags",
    "roi_bags.collect_gradients",
    "separable_paste.paste_separably",
}


def make_models() -> tuple[QueryInst, QueryInst]:
    """The plain model and the same with all speed-ups."""
    torch.manual_seed(0)
    cfg = tiny_cfg(MODEL__QUERYINST__SPEEDUPS=(), MODEL__QUERYINST__NUM_STAGES=1)
    plain = build_model(cfg).eval()
    nn.init.uniform_(plain.initial_queries.boxes_cxcywh_norm, 0.2, 0.6)
    fast = copy.deepcopy(plain)
    speed_up_model(fast, ALL)
    return plain, fast


def make_images(dtype=torch.float32) -> Tensor:
    return torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0)).to(dtype)


class Core(nn.Module):
    def __init__(self, model: QueryInst):
        super().__init__()
        self.model = model

    def forward(self, images, sizes):
        return self.model.forward_core(images, sizes)


def names_of(graph: torch.fx.Graph) -> list[str]:
    return [str(node.target) for node in graph.nodes if node.op == "call_function"]


def test_is_plain_and_is_traced_see_who_takes_part():
    assert is_plain(CPU) and not is_traced()
    with torch.autocast("cpu", torch.bfloat16):
        assert not is_plain(CPU) and is_plain(torch.device("cuda")) and not is_traced()
    seen = []

    class Look(nn.Module):
        def forward(self, x):
            seen.append((is_plain(x.device), is_traced()))
            return x + 1

    torch.jit.trace(Look(), torch.ones(1), check_trace=False)
    torch.export.export(Look(), (torch.ones(1),), strict=False)
    assert len(seen) >= 2 and set(seen) == {(False, True)}
    plus = torch.compile(lambda x: x + 10 if is_traced() else x, backend="eager", fullgraph=True)
    assert plus(torch.ones(1)) == 11


def test_is_cpu_float_wants_one_precision_on_the_cpu():
    single, double = torch.ones(1), torch.ones(1).double()
    assert is_cpu_float(single, single) and is_cpu_float(double)
    for others in ((single, double), (single.half(),), (single.int(),), (single.to("meta"),)):
        assert not is_cpu_float(*others)


def test_is_channels_last_reads_the_memory():
    x = torch.ones(2, 3, 4, 5)
    assert not is_channels_last(x)
    assert is_channels_last(x.contiguous(memory_format=torch.channels_last))


@pytest.mark.parametrize("training", [True, False])
def test_is_plain_lets_convolutions_and_linear_layers_fall_back_under_autocast(
    entries, small_ones_too, training
):
    plain, fast = make_models()
    results = []
    for model in (plain, fast):
        model.train(training)
        with torch.set_grad_enabled(training), entries() as counts:
            with torch.autocast("cpu", torch.bfloat16), EventStorage():
                if training:
                    out = model(random_batch((2, 1)))
                    sum(out.values()).backward()
                    grads = [p.grad for p in model.parameters() if p.grad is not None]
                    results.append(
                        [*out.values(), *(g.norm() for g in grads if g.dtype == torch.float32)]
                    )
                else:
                    features, outputs = model._run_cascade(make_images(), model._whwh(SIZES))
                    results.append([*features, *(x for output in outputs for x in output)])
    assert {name for name in counts if name in IN_FULL_PRECISION} == set()
    assert counts["conv2d.FastConv2d.forward"] > 0 and counts["roi_bags.pool_bags"] > 0
    for ours, theirs in zip(*reversed(results), strict=True):
        assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
        error = (ours - theirs).abs().max() / theirs.abs().max().clamp(min=1e-2)
        assert error < 0.05


def record_trace(model: nn.Module, args: tuple) -> nn.Module:
    return torch.jit.trace(model, args, check_trace=False)


def record_export(model: nn.Module, args: tuple) -> nn.Module:
    return torch.export.export(model, args, strict=False).module()


@pytest.mark.filterwarnings("ignore")  # of tracing
@pytest.mark.parametrize("record", [record_trace, record_export])
@torch.no_grad()
def test_is_traced_lets_all_speed_ups_fall_back(record, entries, small_ones_too):
    plain, fast = (model.double() for model in make_models())
    args = make_images(torch.float64), SIZES
    with entries() as counts:
        recorded = record(Core(fast), args)
    assert len(counts) > 5 and {name for name in counts if name in WORK} == set()
    for ours, theirs in zip(recorded(*args), plain.forward_core(*args), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.filterwarnings("ignore")
@torch.no_grad()
def test_is_traced_leaves_the_same_graph_as_the_plain_model(small_ones_too):
    args = make_images(), SIZES
    graphs = [record_trace(Core(model), args).inlined_graph for model in make_models()]
    plain, fast = ([node.kind() for node in graph.nodes()] for graph in graphs)
    assert fast == plain and len(plain) > 100


@torch.no_grad()
def test_is_traced_lets_a_compiled_backbone_fall_back(small_ones_too):
    graphs: list[list[str]] = []

    def backend(module, inputs):
        graphs[-1] += names_of(module.graph)
        return module

    plain, fast = make_models()
    results = []
    for model in (plain, fast):
        graphs.append([])
        torch._dynamo.reset()
        results.append(torch.compile(model.backbone, backend=backend)(make_images()))
    assert graphs[0] == graphs[1] and len(graphs[0]) > 50
    for name, level in results[0].items():
        assert torch.equal(results[1][name], level) and type(results[1][name]) is Tensor
