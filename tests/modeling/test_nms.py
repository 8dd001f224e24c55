"""Non-maximum suppression of detections: what goes, what stays, and that shapes stay."""

import pytest
import torch
from detectron2.layers import batched_nms

from queryinst import QueryInst
from queryinst.modeling.nms import suppress_duplicates
from queryinst.structures import Detections
from queryinst.testing import random_batch, spread_queries, tiny_cfg


def detections_of(boxes, scores, classes) -> Detections:
    """One image's rows, by falling score."""
    return Detections(
        torch.tensor([boxes]).float(),
        torch.tensor([scores]),
        torch.tensor([classes]),
        torch.arange(len(scores))[None],
    )


def test_suppress_duplicates_moves_the_lower_score_of_a_class_to_the_end():
    boxes = [[0, 0, 10, 10], [0, 0, 10, 9], [0, 0, 10, 10], [0, 0, 10, 5]]
    result = suppress_duplicates(detections_of(boxes, [0.9, 0.8, 0.7, 0.6], [0, 0, 1, 0]), 0.7)
    assert result.query_idx.tolist() == [[0, 2, 3, 1]]  # IoU 0.9, another class, IoU 0.5
    assert result.scores.tolist() == [pytest.approx([0.9, 0.7, 0.6, 0.0])]
    assert result.classes.tolist() == [[0, 1, 0, 0]]
    assert result.boxes[0].tolist() == [boxes[i] for i in (0, 2, 3, 1)]


@pytest.mark.parametrize("shift", [-1000, -95, 0, 5000])
def test_suppress_duplicates_keeps_other_classes_and_images_wherever_boxes_lie(shift):
    boxes = torch.tensor([[[0, 0, 100, 100], [95, 95, 195, 195]]] * 2).float() + shift
    scores, classes = torch.tensor([[0.9, 0.8]] * 2), torch.tensor([[1, 0], [0, 1]])
    result = suppress_duplicates(
        Detections(boxes, scores, classes, torch.arange(2).expand(2, -1)), 0.1
    )
    assert torch.equal(result.scores, scores) and torch.equal(result.boxes, boxes)


@pytest.mark.parametrize("threshold, num_left", [(0.89, 1), (0.91, 2)])
def test_suppress_duplicates_keeps_what_overlaps_less_than_the_threshold(threshold, num_left):
    detections = detections_of([[0, 0, 10, 10], [0, 0, 10, 9]], [0.5, 0.4], [2, 2])
    assert (suppress_duplicates(detections, threshold).scores > 0).sum() == num_left


def test_suppress_duplicates_of_a_batch_equals_that_of_its_images():
    torch.manual_seed(0)
    corner = torch.rand(3, 40, 2) * 20
    boxes = torch.cat([corner, corner + 5 + torch.rand(3, 40, 2) * 20], dim=2)
    scores = torch.rand(3, 40).sort(descending=True).values
    classes = torch.randint(4, (3, 40))
    result = suppress_duplicates(
        Detections(boxes, scores, classes, torch.arange(40).expand(3, -1)), 0.4
    )
    for image in range(3):
        keep = batched_nms(boxes[image], scores[image], classes[image], 0.4)
        assert 1 < len(keep) < 40
        assert result.query_idx[image, : len(keep)].tolist() == keep.tolist()
        assert result.scores[image, len(keep) :].tolist() == [0] * (40 - len(keep))


def model_of(threshold: float) -> QueryInst:
    torch.manual_seed(0)
    model = QueryInst(
        tiny_cfg(MODEL__QUERYINST__NMS_THRESH_TEST=threshold, MODEL__QUERYINST__SPEEDUPS=())
    )
    spread_queries(model)
    for stage in model.cascade.stages:
        torch.nn.init.zeros_(stage.box_deltas.weight)
    boxes = model.initial_queries.boxes_cxcywh_norm.data
    boxes.copy_(0.5 + 0.2 * torch.rand(boxes.shape))  # which overlap
    return model.eval()


@torch.no_grad()
def test_inference_and_forward_core_suppress_the_same():
    batch = random_batch((1, 1))
    everything, model = model_of(1.0), model_of(0.2)
    images = model.preprocess_image(batch)
    core = model.forward_core(images.tensor, torch.tensor(images.image_sizes))
    before = everything.forward_core(images.tensor, torch.tensor(images.image_sizes))
    assert [x.shape for x in core] == [x.shape for x in before]
    results = model.inference(batch, do_postprocess=False)
    for image, instances in enumerate(results):
        num = len(instances)
        assert 0 < num < before[1].shape[1]
        assert torch.equal(instances.scores, core[1][image, :num])
        assert (core[1][image, num:] == 0).all()
        torch.testing.assert_close(instances.pred_masks[:, 0], core[4][image, :num])
