"""Which queries and boxes the mask heads see, and which of them are run."""

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.utils import comm
from torch import nn

from queryinst.modeling.mask_head import MaskBranch
from queryinst.structures import MatchedIndices, StageOutput
from queryinst.testing import tiny_cfg

SHAPES = {f"p{i}": ShapeSpec(channels=16, stride=2**i) for i in range(2, 6)}


def make(**overrides) -> MaskBranch:
    torch.manual_seed(0)
    keys = {"MODEL__ROI_MASK_HEAD__POOLER_RESOLUTION": 3} | overrides
    return MaskBranch(tiny_cfg(**keys), SHAPES).double().eval()


def randn(*shape: int, seed: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def make_inputs(num_images: int = 2, num_queries: int = 4, num_stages: int = 2):
    features = [randn(num_images, 16, 32 >> i, 32 >> i) for i in range(4)]
    outputs = []
    for stage in range(num_stages):
        corner = randn(num_images, num_queries, 2, seed=10 + stage).abs() * 30
        size = 10 + randn(num_images, num_queries, 2, seed=20 + stage).abs() * 40
        boxes = torch.cat([corner, corner + size], -1)
        feats = randn(num_images, num_queries, 16, seed=30 + stage)
        outputs.append(StageOutput(feats[..., :3], boxes, feats + 1, feats))
    return features, outputs


def match(*query_idx: int) -> MatchedIndices:
    return MatchedIndices(torch.tensor(query_idx, dtype=torch.int64), torch.arange(len(query_idx)))


def run_slowly(branch: MaskBranch, stage: int, features, output: StageOutput, row: int):
    """One query's logits: its own box, its own image alone."""
    image, query = divmod(row, output.boxes.shape[1])
    roi = torch.cat([torch.zeros(1).double(), output.boxes[image, query]])[None]
    roi_feats = branch.pooler([x[[image]] for x in features], roi)
    return branch.stages[stage](output.mask_queries[image, query][None], roi_feats)[0]


@torch.no_grad()
def test_mask_branch_gives_each_stage_its_own_queries_and_boxes():
    branch = make()
    features, outputs = make_inputs()
    matches = [match(1, 3, 4), match(0, 2, 7)]
    actual = branch(features, outputs, matches)
    for stage, (logits, rows) in enumerate(zip(actual, matches)):
        assert logits.shape == (3, 3, 6, 6)
        for ours, row in zip(logits, rows.query_idx.tolist()):
            expected = run_slowly(branch, stage, features, outputs[stage], row)
            torch.testing.assert_close(ours, expected)


def test_mask_branch_teaches_queries_and_not_boxes():
    branch = make()
    features, outputs = make_inputs()
    for output in outputs:
        output.boxes.requires_grad_()
        output.mask_queries.requires_grad_()
    sum(x.sum() for x in branch(features, outputs, [match(1, 4), match(2, 5)])).backward()
    for output, rows in zip(outputs, [(1, 4), (2, 5)]):
        assert output.boxes.grad is None
        touched = output.mask_queries.grad.flatten(0, 1).any(1).nonzero()[:, 0]
        assert tuple(touched.tolist()) == rows


@pytest.mark.parametrize("norm", ["BN", "GN", ""])
def test_mask_branch_without_matches_keeps_all_parameters_in_the_graph(norm):
    branch = make(MODEL__ROI_MASK_HEAD__NORM=norm, MODEL__ROI_MASK_HEAD__CONV_DIM=32).train()
    features, outputs = make_inputs()
    before = {name: x.clone() for name, x in branch.named_buffers()}
    actual = branch(features, outputs, [match(), match()])
    assert [tuple(x.shape) for x in actual] == [(0, 3, 6, 6)] * 2
    sum(x.sum() for x in actual).backward()
    for name, parameter in branch.named_parameters():
        assert parameter.grad is not None and not parameter.grad.any(), name
    for name, x in branch.named_buffers():
        assert torch.equal(x, before[name]) and x.isfinite().all(), f"{name} counted nothing"


@pytest.mark.parametrize("norm, waits", [("naiveSyncBN", True), ("BN", False), ("GN", False)])
def test_mask_branch_does_not_leave_other_processes_waiting_for_statistics(
    norm, waits, monkeypatch
):
    """A process without matches must still run norms that all processes meet in."""
    branch = make(MODEL__ROI_MASK_HEAD__NORM=norm, MODEL__ROI_MASK_HEAD__CONV_DIM=32)
    monkeypatch.setattr(comm, "get_world_size", lambda: 2)
    ran = []
    for stage in branch.stages:  # eval mode: nothing is communicated, but what runs is seen
        stage.convs.register_forward_hook(lambda *_: ran.append(1))
    features, outputs = make_inputs()
    branch(features, outputs, [match(), match()])
    assert len(ran) == (2 if waits else 0)


class Count(nn.Module):
    """Counts the RoIs of every call to a pooler."""

    def __init__(self, pooler: nn.Module):
        super().__init__()
        self.pooler = pooler
        self.rois: list[int] = []

    def forward(self, features, rois):
        self.rois.append(len(rois))
        return self.pooler(features, rois)


@torch.no_grad()
def test_mask_branch_predict_runs_each_query_once():
    branch = make()
    branch.pooler = Count(branch.pooler)
    features, outputs = make_inputs()
    rows, places = torch.tensor([6, 0, 1]), torch.tensor([0, 2, 0, 0, 1])
    classes = torch.tensor([0, 1, 2, 1, 0])
    actual = branch.predict(features, outputs[-1], rows, places, classes)
    assert branch.pooler.rois == [3]
    for ours, row, label in zip(actual, rows[places].tolist(), classes.tolist(), strict=True):
        logits = run_slowly(branch, -1, features, outputs[-1], row)
        torch.testing.assert_close(ours, logits[label].sigmoid())


@torch.no_grad()
def test_mask_branch_predict_without_detections():
    branch = make()
    features, outputs = make_inputs()
    nothing = torch.zeros(0, dtype=torch.int64)
    assert branch.predict(features, outputs[-1], *[nothing] * 3).shape == (0, 6, 6)


@pytest.mark.parametrize("resolution", [1, 7, 14])
def test_mask_branch_masks_have_twice_the_poolers_side(resolution):
    branch = make(MODEL__ROI_MASK_HEAD__POOLER_RESOLUTION=resolution)
    features, outputs = make_inputs()
    actual = branch(features, outputs, [match(0), match(1)])
    assert [tuple(x.shape[2:]) for x in actual] == [(2 * resolution, 2 * resolution)] * 2
